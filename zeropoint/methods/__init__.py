"""Methods and the passes they are made of, one file each."""
