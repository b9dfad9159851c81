"""Measurements: accuracy, fidelity to float32, latency, size on disk, and the machine they were taken on."""
