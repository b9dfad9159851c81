"""Fingerprint: what tells a float Program and its data from others, so that kept results are used rightly."""

import hashlib
import operator

from zeropoint.data import Loaders
from zeropoint.data.batches import split
from zeropoint.graph.program import Program
from zeropoint.graph.sizes import has_free_sizes, input_shapes
from zeropoint.torch_private.trees import tree_leaves
from zeropoint.training.checkpoint import update_program, update_values


def fingerprint(program: Program, data: Loaders) -> str:
    """A hash of the float graph, its weights and free sizes, the first batches of data, and their number."""
    digest = hashlib.sha256()
    update_program(digest, program)
    first = [split(next(iter(loader))) for loader in (data.calibration, data.evaluation)]
    parts = [part for inputs, targets in first for part in (*inputs, *tree_leaves(targets))]
    update_values(digest, parts)
    if has_free_sizes(program.module):
        digest.update(f"{input_shapes(program.module)}".encode())
    for loader in (data.calibration, data.evaluation, data.train):
        digest.update(f"{0 if loader is None else operator.length_hint(loader)} batches".encode())
    return digest.hexdigest()
