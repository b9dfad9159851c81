"""Choosing by measuring."""
