"""What a shipped folder runs: these files are copied into it, and import neither torch nor zeropoint.

``engine_torch.py`` is the one that imports torch, since its artefacts need it.
"""
