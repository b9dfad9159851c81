"""Diagnosis: which layers a quantized network loses its accuracy in, why, and what fixes it."""
