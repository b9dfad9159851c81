"""Reports drawn from results: the comparison table and its one-line verdict."""
