"""Inspection: what is in a Program, layer by layer, as plain data; ``report.inspect`` draws it.

Everything is read from the graph: a quantizer is a node in it, and what stayed float is what has none. Why it
stayed so follows from the method, the rules of the target and the patterns that the Program was skipped by.
"""

import glob
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint import engines
from zeropoint import graph as fx
from zeropoint import quantizers as quantizers_of
from zeropoint.errors import InputError, closest
from zeropoint.exported import complete_shapes, has_branches
from zeropoint.macs import multiply_accumulates
from zeropoint.measure.size import parameter_bytes
from zeropoint.methods.fold import fold_batch_norms
from zeropoint.methods.integer_bias import bias_units
from zeropoint.methods.shuffles import fold_shuffles
from zeropoint.operators import (
    CLAMPS,
    FAKE_QUANTIZE,
    FAKE_QUANTIZE_DYNAMIC,
    RECURRENT,
    SPLITS,
    TRANSPARENT,
    Weighted,
    aten,
    bias_of,
    family,
    short_name,
    ungrouped,
    weighted,
)
from zeropoint.options import matches
from zeropoint.program import Program
from zeropoint.quantizers import Quantizer
from zeropoint.scheme import Scheme, dequantize, quantize

REORDERED = ("static", "static-best", "qat")  # methods that put channels in another order for shuffles
VALUES, IN_FULL = 9, 27  # of a tensor that are listed, and of a layer that is shown in full
# What only moves, copies or makes constants: nothing is computed there.
_MOVES = TRANSPARENT | SPLITS | {aten._to_copy.default, aten.clone.default, aten.index_select.default}
_NO_LAYERS = _MOVES | FAKE_QUANTIZE


@dataclass(frozen=True)
class Grid:
    """The values ``scale * (integer - zero_point)`` for integers from ``qmin`` to ``qmax``.

    ``scale`` and ``zero_point`` have one value, or one for each channel along ``axis``; with granularity
    ``per-group`` one for each group of inputs, output by output; none where the range is found at run time.
    """

    bits: int
    signed: bool
    symmetric: bool
    granularity: str
    qmin: int
    qmax: int
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int = 0

    @property
    def range(self) -> tuple[float, float] | None:
        """The least and largest value on the grid; of several channels the widest; None if not known."""
        if not self.scale:
            return None
        channels = list(zip(self.scale, self.zero_point, strict=True))
        return (
            min(scale * (self.qmin - zero_point) for scale, zero_point in channels),
            max(scale * (self.qmax - zero_point) for scale, zero_point in channels),
        )


@dataclass(frozen=True)
class Value:
    """One value of a weight: its ``index``, what it was in float, and the integer that is kept.

    ``nearest`` is ``round(source / scale) + zero_point`` on the grid; it and ``source`` are None where the
    float weight is not known. ``integer`` is None in a weight that stayed float.
    """

    index: tuple[int, ...]
    source: float | None
    scale: float | None = None
    zero_point: int | None = None
    nearest: int | None = None
    integer: int | None = None
    value: float | None = None


@dataclass(frozen=True)
class Weight:
    """A tensor of a layer. ``grid``: None where it stayed float; ``bytes``: at its bits, with its scales.

    ``nearest``: the fraction of integers that are the float weight's, rounded to nearest, and ``furthest``:
    how many steps the others are off at most; None where the float weight is not known.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    grid: Grid | None
    bytes: int
    values: tuple[Value, ...] = ()
    nearest: float | None = None
    furthest: int | None = None


@dataclass(frozen=True)
class BiasValue:
    """One value of a bias: in float before, the unit of the int32 sums it is added to, and how many units.

    ``unit`` is the input's scale times the weight's, ``nearest`` is ``round(source / unit)``; ``units`` is
    None where there is no unit, or where the bias is not a whole number of them.
    """

    channel: int
    source: float | None
    unit: float | None
    nearest: int | None
    units: int | None
    value: float


@dataclass(frozen=True)
class Bias:
    """A layer's bias; ``whole``: whether all of it is whole units, None where it has no units."""

    name: str
    size: int
    bytes: int
    whole: bool | None
    values: tuple[BiasValue, ...] = ()


@dataclass(frozen=True)
class Input:
    """A computed value that a layer reads: the module it is from, and the grid it is rounded to, or None."""

    source: str
    grid: Grid | None


@dataclass(frozen=True)
class Fused:
    """What is done inside a layer: ``module``, empty where only its trace is left, ``operator``, and how."""

    module: str
    operator: str
    how: str


@dataclass(frozen=True)
class Layer:
    """One operator that computes.

    ``output``: the shape of its (first) output for one item. ``state``: ``integer`` where weights and inputs
    are, ``weights`` where only these are, else ``float``; ``why``: the reason for what stayed float.
    ``outputs``: the grids that its output is rounded to. ``bytes``: of its tensors. ``macs``:
    multiply-accumulates for one item.
    """

    name: str
    operator: str
    family: str | None
    output: tuple[int, ...]
    dtype: str
    macs: int
    state: str
    why: str
    weights: tuple[Weight, ...]
    bias: Bias | None
    inputs: tuple[Input, ...]
    outputs: tuple[Grid, ...]
    fused: tuple[Fused, ...]
    bytes: int

    @property
    def weight(self) -> Weight | None:
        """The first of its tensors."""
        return self.weights[0] if self.weights else None

    @property
    def float_bytes(self) -> int:
        """What its tensors would take in float32."""
        tensors = (math.prod(w.shape) * 4 if w.grid else w.bytes for w in self.weights)
        return sum(tensors) + (self.bias.bytes if self.bias else 0)

    @property
    def weight_bits(self) -> int | None:
        """Bits of the weight, those of its type where it stayed float; None without weights."""
        weight = self.weight
        return None if weight is None else weight.grid.bits if weight.grid else _type_bits(weight.dtype)

    @property
    def input_bits(self) -> tuple[int, ...]:
        """Bits of each input, those of the output's type where it stayed float."""
        return tuple(part.grid.bits if part.grid else _type_bits(self.dtype) for part in self.inputs)


@dataclass(frozen=True)
class Inspection:
    """What is in a Program. ``parameters``: numbers in its tensors; ``bytes``: of them, scales included.

    ``float_weights``: where the float weights beside the integers are from, empty where there are none.
    """

    origin: str
    method: str
    target: str
    weight_bits: int
    activation_bits: int
    skip: tuple[str, ...]
    parameters: int
    bytes: int
    macs: int
    float_weights: str
    layers: tuple[Layer, ...]

    @property
    def integer_macs(self) -> int:
        """The multiply-accumulates of integer inputs with integer weights, or of two integer inputs."""
        return sum(layer.macs for layer in self.layers if layer.state == "integer")


@dataclass(frozen=True)
class Pair:
    """The same layer before and after; one of the two is None where it is only in the other Program.

    ``changes`` names what differs, such as state, shape, bits and scales of weight and input, or bytes.
    ``folded``: the layers before that are inside it now.
    """

    name: str
    before: Layer | None
    after: Layer | None
    folded: tuple[Layer, ...]
    changes: tuple[str, ...]

    @property
    def bytes_before(self) -> int:
        """Of the layer and of those folded into it."""
        return sum(layer.bytes for layer in (self.before, *self.folded) if layer is not None)


def inspect(program: Program, reference: Program | None = None, *, values: int = VALUES) -> Inspection:
    """What is in ``program``; ``reference`` is the float one that it was made from.

    With a ``reference`` integer weights and biases stand beside the float ones they came from, batch norms
    folded, and what was folded is told. So they do without, where the Program was not saved and its weights
    were only rounded; a saved file holds no float weights. ``values`` are how many of each tensor are listed.

    Raises InputError for a ``reference`` that is quantized.
    """
    if reference is not None and reference.method != "fp32":
        raise InputError(f"the reference is {reference.method}; give the float Program")
    return _Reader(program, reference, values).read()


def pairs(before: Inspection, after: Inspection) -> tuple[Pair, ...]:
    """The layers of two Programs of one model side by side, in the order of ``after``, then what is gone.

    Layers are the same by name, operator and order. Raises InputError where the two have no layer in common.
    """
    old, new = _keyed(before.layers), _keyed(after.layers)
    if old and new and not old.keys() & new.keys():
        first, second = next(iter(old.values())), next(iter(new.values()))
        raise InputError(
            f"the two have no layer in common ('{first.name}' and '{second.name}' are their first);"
            " give two Programs of the same model"
        )
    inside, inside_before = _inside(after.layers), _inside(before.layers)
    folded: dict[str, list[Layer]] = {}
    gone = []
    for key, layer in old.items():
        if key in new:
            continue
        if layer.name in inside:
            folded.setdefault(inside[layer.name], []).append(layer)
        else:
            gone.append(Pair(layer.name, layer, None, (), ("only in the first",)))
    both = []
    for key, layer in new.items():
        parts, layer_before = tuple(folded.pop(layer.name, ())), old.get(key)
        if layer_before is not None:
            changes = _changes(layer_before, layer)
        elif layer.name in inside_before:
            changes = (f"inside {inside_before[layer.name]} in the first",)
        else:
            changes = ("only in the second",)
        both.append(Pair(layer.name, layer_before, layer, parts, changes))
    return (*both, *gone)


def only(
    inspections: Sequence[Inspection], pairs: Sequence[Pair], pattern: str
) -> tuple[list[Inspection], tuple[Pair, ...]]:
    """The same with those layers alone that have a name, match a glob, or lie in such a module.

    Raises InputError, with the closest names, where none does.
    """
    inside = _inside(inspections[-1].layers)  # what is asked for may be folded into another layer
    names = {layer.name for inspection in inspections for layer in inspection.layers} | inside.keys()
    found = {pattern} & names or {name for name in names if matches(name, (pattern,))}
    found |= {inside[name] for name in found & inside.keys()}
    if not found:
        raise InputError(f"--layer '{pattern}' matches no layer of the model; {closest(pattern, names)}")
    kept = [
        replace(inspection, layers=tuple(layer for layer in inspection.layers if layer.name in found))
        for inspection in inspections
    ]
    return kept, tuple(pair for pair in pairs if pair.name in found)


Key = tuple[str, str, int]


def _keys(kinds: Iterable[tuple[str, str]]) -> Iterator[Key]:
    """What tells layers apart: name, operator, and how many of both came before."""
    seen: Counter[tuple[str, str]] = Counter()
    for kind in kinds:
        yield (*kind, seen[kind])
        seen[kind] += 1


def _keyed(layers: tuple[Layer, ...]) -> dict[Key, Layer]:
    return dict(zip(_keys((layer.name, layer.operator) for layer in layers), layers, strict=True))


def _node_keys(nodes: list[Node]) -> Iterator[Key]:
    return _keys((fx.module_name(node), str(node.target)) for node in nodes)


def _inside(layers: tuple[Layer, ...]) -> dict[str, str]:
    """By the name of what is fused, the layer that it is inside of."""
    return {fused.module: layer.name for layer in layers for fused in layer.fused if fused.module}


def _changes(before: Layer, after: Layer) -> tuple[str, ...]:
    parts: dict[str, Callable[[Layer], Any]] = {
        "state": lambda layer: layer.state,
        "shape": lambda layer: [w.shape for w in layer.weights],
        "weight bits": lambda layer: [w.grid.bits if w.grid else w.dtype for w in layer.weights],
        "weight scale": lambda layer: [w.grid and (w.grid.scale, w.grid.zero_point) for w in layer.weights],
        "input bits": lambda layer: layer.input_bits,
        "input scale": lambda layer: [p.grid and (p.grid.scale, p.grid.zero_point) for p in layer.inputs],
        "output scale": lambda layer: [(grid.scale, grid.zero_point) for grid in layer.outputs],
        "fused": lambda layer: [(part.module, part.operator) for part in layer.fused],
        "bytes": lambda layer: layer.bytes,
    }
    return tuple(name for name, part in parts.items() if part(before) != part(after))


def _type_bits(dtype: str) -> int:
    kind = getattr(torch, dtype, torch.float32)
    return kind.itemsize * 8


class _Reader:
    """One Program as it is read: its graph with shapes, its quantizers, and the float weights beside."""

    def __init__(self, program: Program, reference: Program | None, values: int) -> None:
        self.program, self.values = program, values
        self.module = fx.copy(program.module)
        if not has_branches(self.module):
            complete_shapes(self.module)
        self.by_node = {quantizer.node: quantizer for quantizer in quantizers_of.quantizers(self.module)}
        self.at_run_time = _range_arithmetic(self.module)
        self.macs = multiply_accumulates(program)
        known = program.target in engines.NAMES
        self.target = engines.target(program.target) if known else None
        self.knows_own = False
        nodes = [node for node in self.module.graph.nodes if self.computes(node)]
        self.reference = (
            None if reference is None else _Reference(reference, nodes, program.method in REORDERED)
        )
        clips = {self.clip_behind(node) for node in nodes}
        self.nodes = [node for node in nodes if node not in clips]

    def computes(self, node: Node) -> bool:
        """Whether an operator makes new float values of others: no move, no quantizer, no constant."""
        if node.op != "call_function" or node.target in _NO_LAYERS or node in self.at_run_time:
            return False
        first = _first(node)
        is_float = isinstance(first, Tensor) and first.is_floating_point()
        is_part = getattr(node.target, "__name__", "") == "getitem"
        read = [part for part in node.all_input_nodes if _is_computed(part)]
        has_values = any(fx.is_float(part) for part in read) or len(read) < len(node.all_input_nodes)
        return is_float and not is_part and bool(read) and has_values

    def clip_behind(self, node: Node) -> Node | None:
        """The ReLU or clip that alone reads a node, and that quantizers alone read."""
        users = list(node.users)
        if len(users) != 1 or users[0].target not in CLAMPS or node.target in CLAMPS:
            return None
        behind = list(users[0].users)
        return users[0] if behind and all(user in self.by_node for user in behind) else None

    def read(self) -> Inspection:
        program = self.program
        layers = tuple(
            self.layer(node, key) for node, key in zip(self.nodes, _node_keys(self.nodes), strict=True)
        )
        weights = "the float model" if self.reference else "this Program" if self.knows_own else ""
        scales = {part for q in self.by_node.values() if q.is_weight for part in q.node.all_input_nodes[1:]}
        tensors = {
            str(node.target): fx.tensor_of(self.module, node).numel()
            for node in self.module.graph.find_nodes(op="get_attr")
            if node not in scales and isinstance(node.meta.get("val"), Tensor)
        }
        return Inspection(
            program.origin,
            program.method,
            program.target,
            program.weight_bits,
            program.activation_bits,
            program.skip,
            sum(tensors.values()),
            parameter_bytes(program),
            sum(self.macs.values()),
            weights,
            layers,
        )

    def layer(self, node: Node, key: Key) -> Layer:
        description = weighted(node)
        bias_node = bias_of(node, description) if description else None
        weights, computed = [], []
        for part in node.all_input_nodes:
            tensor = _stored(part)
            if tensor is None and _is_computed(part) and fx.is_float(part):
                computed.append(part)
            elif tensor is not None and part is not bias_node:
                weights.append(self.weight(part, tensor, description, key))
        if description:  # the weight first; matmul of a constant and a value has one operand as well
            computed = [cast(Node, node.args[description.input])]
        inputs = tuple(Input(self.source(part), self.grid(part)) for part in computed)
        bias = self.bias(node, description, bias_node, key) if description and bias_node else None
        state = _state(weights, inputs)
        first = _first(node)
        return Layer(
            name=fx.module_name(node),
            operator=str(node.target),
            family=family(node),
            output=tuple(fx.item_sizes(node)),
            dtype=str(first.dtype).removeprefix("torch."),
            macs=self.macs.get(node.name, 0),
            state=state,
            why=self.why(node, description, state, weights, inputs),
            weights=tuple(weights),
            bias=bias,
            inputs=inputs,
            outputs=self.outputs(node),
            fused=tuple(self.fused(node, description, bias_node, key)),
            bytes=sum(weight.bytes for weight in weights) + (bias.bytes if bias else 0),
        )

    def source(self, node: Node) -> str:
        """The module that a value is from, quantized or not."""
        while node.target in FAKE_QUANTIZE:
            node = cast(Node, node.args[0])
        return "the model's input" if node.op == "placeholder" else fx.module_name(node)

    def grid(self, node: Node) -> Grid | None:
        """The grid of a quantizer; None for a node that is none."""
        if node.target is FAKE_QUANTIZE_DYNAMIC:
            qmin, qmax = cast(tuple[int, int], node.args[3:5])
            bits = (qmax - qmin).bit_length()
            return Grid(bits, qmin < 0, False, "per-tensor, at run time", qmin, qmax, (), ())
        quantizer = self.by_node.get(node)
        return None if quantizer is None else _grid(quantizer)

    def weight(self, part: Node, stored: Node, description: Weighted | None, key: Key) -> Weight:
        tensor, quantizer = fx.tensor_of(self.module, stored), self.by_node.get(ungrouped(part))
        name, dtype = str(stored.target), str(tensor.dtype).removeprefix("torch.")
        if quantizer is None:
            listed = tensor.flatten()[: self.values].tolist() if tensor.is_floating_point() else []
            values = tuple(
                Value(_index(number, tensor.shape), None, value=_finite(value))
                for number, value in enumerate(listed)
            )
            return Weight(name, tuple(tensor.shape), dtype, None, tensor.nbytes, values)
        grid, integers = _grid(quantizer), quantizer.integers(self.module)
        if ungrouped(part) is not part:
            grid = replace(grid, granularity="per-group")
        on_grid = dequantize(integers, quantizer.scale, quantizer.zero_point, quantizer.axis)
        source = None
        if self.reference:
            source = self.reference.weight(key if description else name, tensor.shape)
        if source is None and self.reference is None and not torch.equal(on_grid, tensor):
            source, self.knows_own = tensor, True
        parameters = quantizer.scale.nbytes
        parameters += 0 if quantizer.scheme.symmetric else quantizer.zero_point.nbytes
        weight = Weight(
            name,
            tuple(part.meta["val"].shape),
            dtype,
            grid,
            -(-tensor.numel() * grid.bits // 8) + parameters,
            tuple(_values(quantizer, integers, source, self.values)),
        )
        if source is None:
            return weight
        nearest = quantize(source, quantizer.scale, quantizer.zero_point, quantizer.scheme, quantizer.axis)
        off = (integers.int() - nearest.int()).abs()
        same = float((off == 0).sum()) / max(off.numel(), 1)
        return replace(weight, nearest=same, furthest=int(off.max()) if off.numel() else 0)

    def bias(self, node: Node, description: Weighted, bias_node: Node, key: Key) -> Bias:
        bias = fx.tensor_of(self.module, bias_node)
        source = self.reference.bias(key, bias.shape) if self.reference else None
        unit = self.unit(node, description, len(bias))
        units = None if unit is None else (bias.double() / unit).round()
        exact = None if unit is None or units is None else (units * unit).float() == bias
        values = []
        for channel in range(min(self.values, len(bias))):
            is_whole = exact is not None and bool(exact[channel])
            known = None if source is None else _finite(source[channel].item())
            step = None if unit is None else float(unit[channel])
            values.append(
                BiasValue(
                    channel,
                    known,
                    step,
                    None if known is None or step is None else round(known / step),
                    int(units[channel]) if units is not None and is_whole else None,
                    bias[channel].item(),
                )
            )
        whole = None if exact is None else bool(exact.all())
        return Bias(str(bias_node.target), len(bias), bias.nbytes, whole, tuple(values))

    def unit(self, node: Node, description: Weighted, size: int) -> Tensor | None:
        """What one unit of the int32 sums is worth, by output channel (float64); None if they are float."""
        input, weight = (
            self.by_node.get(cast(Node, node.args[at])) for at in (description.input, description.weight)
        )
        return bias_units(input, weight, size) if input and weight else None

    def outputs(self, node: Node) -> tuple[Grid, ...]:
        last = self.clip_behind(node) or node
        grids = (self.grid(user) for user in last.users if user.target in FAKE_QUANTIZE)
        return tuple(dict.fromkeys(grid for grid in grids if grid is not None))

    def fused(
        self, node: Node, description: Weighted | None, bias_node: Node | None, key: Key
    ) -> Iterator[Fused]:
        norm = self.reference.norms.get(key) if self.reference else None
        if norm is not None:
            yield Fused(norm, "batch_norm", "folded into weight and bias")
        elif self.reference is None and description and bias_node is not None:
            weight = _stored(cast(Node, node.args[description.weight]))
            if weight is not None and str(bias_node.target).startswith(f"{weight.target}__bias"):
                yield Fused("", "batch_norm", "folded into the weight, and a bias made of it")
        clip = self.clip_behind(node)
        if clip is not None:
            yield Fused(fx.module_name(clip), short_name(clip.target), _clipped(clip, self.outputs(node)))

    def why(
        self,
        node: Node,
        description: Weighted | None,
        state: str,
        weights: list[Weight],
        inputs: tuple[Input, ...],
    ) -> str:
        """Why an operator, or what it reads, stayed float; empty where it is all integers."""
        program, method = self.program, self.program.method
        if state == "integer":
            return ""
        if method == "fp32":
            return "the Program is float"
        if method == "bf16":
            return "bfloat16 has no integers"
        if pattern := next((p for p in program.skip if matches(fx.module_name(node), (p,))), None):
            return f"skipped by the user ('{pattern}')"
        if state == "weights":
            return self._why_inputs(node, weights)
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
        if self.target is None:
            return f"not known: this zeropoint has no rules for the target '{program.target}'"
        runs = self.target.weighted if description else self.target.inputs
        if kind not in runs:
            what = kind or short_name(node.target)
            return f"{bare}the rules of {self.target.name} run no '{what}' in integers"
        rounded = sum(part.grid is not None for part in inputs)
        if kind == "add" and rounded:
            return "one side comes in full precision from the layer that the addition is done in"
        if kind == "add":
            return "no integer operator reads the sum, or one side is a constant"
        if description is None:
            return "not known: the file does not tell"
        return f"not known: {self.target.name} runs it in integers; most likely skipped by the user"

    def _why_inputs(self, node: Node, weights: list[Weight]) -> str:
        """Why the inputs of integer weights stayed float."""
        if self.program.method == "weight-only":
            return "its inputs, since weight-only leaves activations float"
        if any(weight.grid and weight.grid.granularity == "per-group" for weight in weights):
            return "its inputs: no engine takes integers there to weights with a scale for each group"
        if node.target in RECURRENT:
            return "the inside of a recurrent layer: its weights are unpacked when they are used"
        return "its inputs; why is not known: the file does not tell"


class _Reference:
    """The float Program beside a quantized one: batch norms folded, channels in the order they have there."""

    def __init__(self, program: Program, nodes: list[Node], reorders: bool) -> None:
        def norms_of(among: Iterable[Node]) -> list[Node]:
            return [node for node in among if node.target is aten.batch_norm.default]

        kept = {fx.module_name(node) for node in norms_of(nodes)}
        before = norms_of(program.module.graph.nodes)
        gone = [node for node in before if fx.module_name(node) not in kept]
        folded = fold_batch_norms(program, tuple(map(glob.escape, sorted(kept)))) if gone else program
        if reorders:
            folded = fold_shuffles(folded)
        self.module = folded.module
        self.tensors = {str(node.target): node for node in self.module.graph.find_nodes(op="get_attr")}
        called = [node for node in self.module.graph.nodes if node.op == "call_function"]
        keyed = zip(_node_keys(called), called, strict=True)
        self.layers = {key: node for key, node in keyed if weighted(node)}
        keys = {node.name: key for key, node in self.layers.items()}  # folding keeps the names of nodes
        left = {fx.module_name(node) for node in norms_of(self.module.graph.nodes)}
        self.norms = {
            keys[source.name]: fx.module_name(norm)
            for norm in gone
            if fx.module_name(norm) not in left and (source := cast(Node, norm.args[0])).name in keys
        }

    def weight(self, key: Key | str, shape: torch.Size) -> Tensor | None:
        """The float weight of a layer or name in the ``shape`` of the quantized one: rows of groups."""
        if isinstance(key, str):
            stored = self.tensors.get(key)
        else:
            node = self.layers.get(key)
            description = weighted(node) if node is not None else None
            stored = node.args[description.weight] if node is not None and description else None
        if stored is None:
            return None
        tensor = fx.tensor_of(self.module, cast(Node, stored))
        return tensor.reshape(shape) if tensor.numel() == math.prod(shape) else None

    def bias(self, key: Key, shape: torch.Size) -> Tensor | None:
        """The float bias of a layer; zeros where it has none."""
        node = self.layers.get(key)
        description = weighted(node) if node is not None else None
        if node is None or description is None:
            return None
        bias = bias_of(node, description)
        tensor = torch.zeros(shape) if bias is None else fx.tensor_of(self.module, bias)
        return tensor if tensor.shape == shape else None


def _range_arithmetic(module: GraphModule) -> set[Node]:
    """The operators that find the ranges of dynamic quantization, which are no layers."""
    found: set[Node] = set()
    for quantizer in module.graph.find_nodes(op="call_function", target=FAKE_QUANTIZE_DYNAMIC):
        source, *waiting = cast(list[Node], list(quantizer.args[:3]))
        while waiting:
            node = waiting.pop()
            if node is not source and node not in found:
                found.add(node)
                waiting += node.all_input_nodes
    return found


def _stored(node: Node) -> Node | None:
    """The model's tensor behind a quantizer and the reshape of groups; None for what is computed."""
    node = ungrouped(node)
    while node.target in FAKE_QUANTIZE:
        node = cast(Node, node.args[0])
    return node if node.op == "get_attr" and isinstance(node.meta.get("val"), Tensor) else None


def _is_computed(node: Node) -> bool:
    return _stored(node) is None and node.op in ("placeholder", "call_function")


def _grid(quantizer: Quantizer) -> Grid:
    scheme: Scheme = quantizer.scheme
    return Grid(
        scheme.bits,
        scheme.signed,
        scheme.symmetric,
        scheme.granularity,
        scheme.qmin,
        scheme.qmax,
        tuple(quantizer.scale.tolist()),
        tuple(quantizer.zero_point.tolist()),
        quantizer.axis,
    )


def _values(quantizer: Quantizer, integers: Tensor, source: Tensor | None, count: int) -> Iterator[Value]:
    """The first of a quantized weight, one after the other along its last axis."""
    scale, zero_point, scheme = quantizer.scale, quantizer.zero_point, quantizer.scheme
    flat, sources = integers.flatten()[:count], None if source is None else source.flatten()[:count]
    for number, integer in enumerate(flat.tolist()):
        index = _index(number, integers.shape)
        channel = index[quantizer.axis] if len(scale) > 1 else 0
        part = slice(channel, channel + 1)
        value = dequantize(flat[number : number + 1], scale[part], zero_point[part])
        nearest = None
        if sources is not None:
            near = quantize(sources[number : number + 1], scale[part], zero_point[part], scheme)
            nearest = int(near)
        yield Value(
            index,
            None if sources is None else _finite(sources[number].item()),
            scale[channel].item(),
            int(zero_point[channel]),
            nearest,
            integer,
            value.item(),
        )


def _index(number: int, shape: Iterable[int]) -> tuple[int, ...]:
    """The index of a value in a tensor that is flattened."""
    index: list[int] = []
    for size in reversed(list(shape)):
        number, place = divmod(number, size)
        index.insert(0, place)
    return tuple(index)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _first(node: Node) -> Any:
    """The value of a node, or the first one of several."""
    value = node.meta.get("val")
    return value[0] if isinstance(value, list | tuple) and value else value


def _state(weights: list[Weight], inputs: tuple[Input, ...]) -> str:
    rounded = [part.grid is not None for part in inputs]
    has_integers = any(weight.grid is not None for weight in weights)
    if not weights:
        return "integer" if rounded and all(rounded) else "float"
    if has_integers:
        return "integer" if any(rounded) else "weights"
    return "float"


def _clipped(clip: Node, grids: tuple[Grid, ...]) -> str:
    """Who does the clipping of a ReLU or clip behind which the output is rounded."""
    low, high = CLAMPS[clip.target](*clip.args) if not clip.kwargs else (None, None)
    ranges = [grid.range for grid in grids if grid.range]
    inside = all(
        (low is None or least >= low) and (high is None or most <= high * (1 + 1e-6))
        for least, most in ranges
    )
    if ranges and inside and (low, high) != (None, None):
        return "its clipping is done by the range of the output's quantizer"
    return "clips before the output's quantizer rounds"
