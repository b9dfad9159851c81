"""Nested tuples, lists and dicts of values, flattened as ``torch.export`` flattens them."""

from torch.utils._pytree import tree_leaves, tree_map_only, tree_structure, tree_unflatten

__all__ = ["tree_leaves", "tree_map_only", "tree_structure", "tree_unflatten"]
