"""Everything that uses a private part of PyTorch, each tested with the version that it was written for."""
