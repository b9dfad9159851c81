"""``python -m zeropoint``: the same command as ``zeropoint``."""

from zeropoint.cli import main

main()
