"""Training, of float networks and through quantizers: one loop, on one process or many."""
