"""Why an operator stayed float: by the method, the rules of the target, or what the user skipped."""

from torch.fx import Node

from zeropoint.graph import edits as fx
from zeropoint.graph.operators import EMBEDDINGS, RECURRENT, Weighted, family, short_name
from zeropoint.graph.program import Program
from zeropoint.inspection.facts import Input, Weight
from zeropoint.targets.options import matches
from zeropoint.targets.target import Target


def why(
    program: Program,
    target: Target | None,
    node: Node,
    description: Weighted | None,
    state: str,
    weights: list[Weight],
    inputs: tuple[Input, ...],
) -> str:
    """Why an operator, or what it reads, stayed float; empty where it is all integers.

    ``target``: the rules that the Program was quantized by, None where they are not known.
    """
    method = program.method
    if state == "integer":
        return ""
    if method == "fp32":
        return "the Program is float"
    if method == "bf16":
        return "bfloat16 has no integers"
    if pattern := next((p for p in program.skip if matches(fx.module_name(node), (p,))), None):
        return f"skipped by the user ('{pattern}')"
    if state == "weights":
        if method != "weight-only" and target is not None and family(node) in target.weights_alone:
            return f"its inputs: {target.name} is no faster with integers there on {target.processor}"
        return _why_inputs(method, node, weights)
    kind, bare = family(node), "" if weights else "no weights, and "
    if method == "dynamic":
        if description:
            layer = "a convolution" if "conv" in description.family else f"a {description.family} layer"
            if description.family != "linear":
                return f"dynamic quantization leaves {layer} untouched: it is for linear, LSTM and GRU"
        elif node.target not in RECURRENT:
            return f"{bare}dynamic quantization is for linear, LSTM and GRU layers"
    if method == "weight-only" and not description:
        return f"{bare}weight-only quantizes those of convolutions and linear layers"
    if target is None:
        return f"not known: this zeropoint has no rules for the target '{program.target}'"
    runs = target.weighted if description else target.inputs
    if kind not in runs:
        what = kind or short_name(node.target)
        return f"{bare}the rules of {target.name} run no '{what}' in integers"
    rounded = sum(part.grid is not None for part in inputs)
    if kind == "add" and rounded:
        return "one side comes in full precision from the layer that the addition is done in"
    if kind == "add":
        return "no integer operator reads the sum, or one side is a constant"
    if description is None:
        return "not known: the file does not tell"
    return f"not known: {target.name} runs it in integers; most likely skipped by the user"


def _why_inputs(method: str, node: Node, weights: list[Weight]) -> str:
    """Why the inputs of integer weights stayed float."""
    if node.target in EMBEDDINGS:
        return "an embedding looks up rows of integers, and there is nothing to multiply them with"
    if method == "weight-only":
        return "its inputs, since weight-only leaves activations float"
    if any(weight.grid and weight.grid.granularity == "per-group" for weight in weights):
        return "its inputs: no engine takes integers there to weights with a scale for each group"
    if node.target in RECURRENT:
        return "the inside of a recurrent layer: its weights are unpacked when they are used"
    return "its inputs; why is not known: the file does not tell"
