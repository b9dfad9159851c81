"""SiLU taken apart into its input times the sigmoid of it, so that both factors can be quantized.

Hendrycks & Gimpel 2016, section 2: ``x * sigmoid(x)``.
"""

import dataclasses

from zeropoint.graph import edits as fx
from zeropoint.graph.attention import inserted
from zeropoint.graph.operators import aten
from zeropoint.graph.program import Program


def decompose_silu(program: Program) -> Program:
    """The Program with each SiLU as a sigmoid and a product."""
    module = fx.copy(program.module)
    for node in [one for one in module.graph.nodes if one.target is aten.silu.default]:
        with module.graph.inserting_before(node):
            gate = inserted(node, aten.sigmoid.default, node.args[0])
            node.replace_all_uses_with(inserted(node, aten.mul.Tensor, node.args[0], gate))
        module.graph.erase_node(node)
    module.recompile()
    return dataclasses.replace(program, module=module)
