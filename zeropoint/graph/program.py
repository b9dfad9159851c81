"""Program: a captured graph with its weights, float or quantized; held, run, saved and loaded.

The file is what ``torch.export.save`` writes, with the weights as packed integers and their unpacking as
plain ATen arithmetic in the graph: ``torch.export.load`` opens and runs it with no zeropoint installed.
"""

import dataclasses
import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from zeropoint.errors import InputError, first_line
from zeropoint.files import atomic_write
from zeropoint.graph import archive
from zeropoint.graph import edits as fx
from zeropoint.graph.exported import assemble, has_branches
from zeropoint.graph.operators import EMBEDDINGS, FAKE_QUANTIZE, RECURRENT, weighted
from zeropoint.graph.packing import pack, unpack
from zeropoint.graph.quantizers import quantizers, restore_schemes
from zeropoint.graph.sizes import input_shapes
from zeropoint.numerics.scheme import Scheme
from zeropoint.torch_private.graphs import drop_example_inputs
from zeropoint.torch_private.recurrent import shapes_alone
from zeropoint.torch_private.trees import tree_leaves

METADATA = "zeropoint.json"


@dataclass(frozen=True)
class Decision:
    """That a rule of placement was applied at a node, by name, or, with a ``reason``, why it was not."""

    rule: str
    node: str
    reason: str | None


@dataclass(frozen=True)
class Program:
    """A captured graph. Passes take one and give back another; none changes the one it was given.

    ``module`` is a graph of pure ATen operators over named weights; fake-quantize nodes in it are the
    quantizers.
    ``example_inputs`` are the arguments of one call, and ``dynamic_batch`` says whether dimension 0 is free;
    if it is, others are, too, if they were captured so.
    ``weight_bits`` and ``activation_bits`` are what the method asked for: 32 for float and where
    nothing could be quantized, 16 for bfloat16.
    ``target`` names the engine whose placement rules were used, ``processor`` the kind of CPU that it was
    quantized for, and ``quantize_seconds`` what the method took. ``skip`` are the globs of modules that the
    user kept float, ``decisions`` what each rule of placement decided at each node. ``unfitted`` has the
    same quantizers around the weights of the float network, if the method moved those; it is not saved.

    >>> program.method, program.example_inputs[0].shape
    ('fp32', torch.Size([1, 3, 8, 8]))
    >>> program(torch.rand(2, 3, 8, 8))[0].shape
    torch.Size([2, 5])
    """

    module: GraphModule
    example_inputs: tuple[Tensor, ...]
    dynamic_batch: bool = True
    origin: str = ""
    method: str = "fp32"
    target: str = ""
    processor: str = ""
    weight_bits: int = 32
    activation_bits: int = 32
    quantize_seconds: float = 0.0
    skip: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = field(default=(), repr=False)
    unfitted: GraphModule | None = field(default=None, repr=False, compare=False)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Simulates the Program in PyTorch: the output tensors, in order, whatever structure they came in."""
        with torch.no_grad():
            return flat_tensors(self.module(*inputs))

    def __str__(self) -> str:
        """Origin, method, bits, target, processor, layers, quantizers and size, in a line."""
        name = self.method
        name += f" W{self.weight_bits}A{self.activation_bits}" if self.weight_bits < 16 else ""
        name += f" for {self.target}" if self.target else ""
        name += f" on {self.processor}" if self.processor else ""
        nodes = list(self.module.graph.nodes)
        layers = sum(weighted(node) is not None or node.target in EMBEDDINGS | RECURRENT for node in nodes)
        rounding = sum(node.target in FAKE_QUANTIZE for node in nodes)
        size = parameter_bytes(self)
        shown = f"{size / 1e6:.2f} MB" if size >= 100_000 else f"{size:,} bytes"
        counts = f"{layers} layers with weights · {rounding} quantizers · {shown}"
        return " · ".join(part for part in (self.origin, name, counts) if part)

    @property
    def schemes(self) -> dict[str, Scheme]:
        """The scheme of every quantizer with constant scales: by the weight's name, or by its node's."""
        return {one.name: one.scheme for one in quantizers(self.module)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the Program to one ``.pt2`` file; raises InputError where it cannot be written."""
        packed = export(dataclasses.replace(self, module=pack(self.module)))
        drop_example_inputs(packed)  # they would add their own size to the file
        for name, tensor in packed.state_dict.items():  # run-time quantizers refuse to be differentiated
            if isinstance(tensor, nn.Parameter):
                packed.state_dict[name] = nn.Parameter(tensor.detach(), requires_grad=False)
        for node in packed.graph.nodes:
            stack = node.meta.get("nn_module_stack") or {}
            last = dict([list(stack.items())[-1]]) if stack else {}
            node.meta = {"val": node.meta.get("val"), "nn_module_stack": last}
        shapes = [{"shape": list(tensor.shape), "dtype": str(tensor.dtype)} for tensor in self.example_inputs]
        metadata = {"version": archive.FILE_VERSION, "torch": torch.__version__, "inputs": shapes}
        metadata |= {name: getattr(self, name) for name in _METADATA_FIELDS}
        metadata["decisions"] = [dataclasses.astuple(decision) for decision in self.decisions]
        metadata["schemes"] = {name: dataclasses.asdict(scheme) for name, scheme in self.schemes.items()}
        plain = io.BytesIO()  # torch's own writer to disk does not say why it fails
        torch.export.save(packed, plain, extra_files={METADATA: json.dumps(metadata)})
        with atomic_write(path) as temporary:
            archive.repack(plain, temporary, deflate=(".json",))


_METADATA_FIELDS = tuple(
    each.name
    for each in dataclasses.fields(Program)
    if each.name not in ("module", "example_inputs", "unfitted")
)


def parameter_bytes(program: Program) -> int:
    """The bytes that the Program's tensors need at their bits: integer weights with scales, all else whole.

    A symmetric quantizer's zero points are all the same and cost nothing.
    """
    module = program.module
    total = sum(fx.tensor_of(module, node).nbytes for node in module.graph.nodes if node.op == "get_attr")
    for quantizer in quantizers(module):
        if quantizer.is_weight:
            weight, scheme = fx.tensor_of(module, quantizer.source), quantizer.scheme
            total += -(-weight.numel() * scheme.bits // 8) - weight.nbytes
            if scheme.granularity == "per-tensor":  # its parameters are arguments, not tensors of the graph
                total += quantizer.scale.nbytes + quantizer.zero_point.nbytes
            if scheme.symmetric:
                total -= quantizer.zero_point.nbytes
    return total


def flat_tensors(outputs: Any) -> tuple[Tensor, ...]:
    """The tensors in a model's output, in order: of a tensor, tuple, list, dict or dataclass."""
    leaves = tree_leaves(outputs)
    return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))


def at_batch(program: Program, size: int) -> Program:
    """The Program with its first example input repeated to a batch; as it is where the batch is fixed."""
    if not program.dynamic_batch:
        return program
    inputs = tuple(tensor[:1].repeat(size, *[1] * (tensor.dim() - 1)) for tensor in program.example_inputs)
    return dataclasses.replace(program, example_inputs=inputs)


def export(program: Program, module: GraphModule | None = None) -> ExportedProgram:
    """The Program as an ExportedProgram, or ``module`` in its place, which is traced anew.

    Those sizes are free that the Program's are, none where its batch is not. Checks that tracing adds to type
    conversions are left out.
    """
    if module is None and not has_branches(program.module):
        return assemble(program.module)
    inputs, shapes = program.example_inputs, None
    if program.dynamic_batch:
        inputs = tuple(torch.cat([t, t]) if t.dim() and t.shape[0] == 1 else t for t in inputs)
        shapes = tuple(
            {number: Dim.AUTO for number, axis in enumerate(shape) if axis.is_free} or None
            for shape in input_shapes(program.module)
        )
    with torch.no_grad(), shapes_alone():
        exported = torch.export.export(module or program.module, inputs, dynamic_shapes=shapes)
    for node in list(exported.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            exported.graph.erase_node(node)
    return exported


def load(path: str | os.PathLike[str]) -> Program:
    """Reads a ``.pt2`` file that ``Program.save`` wrote; runs no code from it.

    Raises InputError for a file that is missing, truncated, not a saved Program, or of a newer zeropoint.

    >>> quantized.save("model.pt2")
    >>> zp.load("model.pt2").method
    'static'
    """
    path = Path(path)
    metadata, checked = archive.read(path, METADATA)
    absent: dict[str, Any] = {"skip": [], "processor": "", "decisions": [], "schemes": {}}  # of older files
    metadata = absent | metadata
    missing = {"version", "inputs", *_METADATA_FIELDS} - metadata.keys()
    if missing:
        raise InputError(f"{path} is not a saved Program: its metadata lacks {', '.join(sorted(missing))}")
    try:
        inputs = tuple(_example(entry["shape"], entry["dtype"]) for entry in metadata["inputs"])
        fields = {name: metadata[name] for name in _METADATA_FIELDS}
        fields["skip"] = tuple(str(pattern) for pattern in fields["skip"])
        module = torch.export.load(checked).module(check_guards=False)
        assert isinstance(module, GraphModule)
        fx.remove_unused(module)
        fields["decisions"] = tuple(Decision(*values) for values in fields["decisions"])
        module = unpack(module)
        restore_schemes(module, {name: Scheme(**values) for name, values in metadata["schemes"].items()})
        return Program(module, inputs, **fields)
    except Exception as error:
        hint = f"save it again with this torch ({torch.__version__})"
        raise InputError(f"cannot load {path}: {first_line(error)}; {hint}") from error


def _example(shape: list[int], dtype: str) -> Tensor:
    """Seeded stand-in for the example input, which is not saved."""
    kind = getattr(torch, dtype.removeprefix("torch."))
    generator = torch.Generator().manual_seed(0)
    if kind.is_floating_point:
        return torch.randn(shape, generator=generator).to(kind)
    return torch.zeros(shape, dtype=kind)
