"""What processors and engines can do, as data, and where quantizers go by it."""
