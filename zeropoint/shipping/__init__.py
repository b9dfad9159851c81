"""Deployment: folders that run a model without zeropoint, and can be verified anywhere."""
