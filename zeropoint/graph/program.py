"""Program: a captured graph with its weights, float or quantized; held, run, saved and loaded.

The file is what ``torch.export.save`` writes, with the weights as packed integers and their unpacking as
plain ATen arithmetic in the graph: ``torch.export.load`` opens and runs it with no zeropoint installed.
"""

import dataclasses
import io
import itertools
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from zeropoint.data.nested import Leaf
from zeropoint.errors import InputError, first_line
from zeropoint.files import atomic_write
from zeropoint.graph import archive
from zeropoint.graph import edits as fx
from zeropoint.graph.batch import Batch, repeated
from zeropoint.graph.exported import assemble, has_branches, keep_names
from zeropoint.graph.operators import EMBEDDINGS, FAKE_QUANTIZE, RECURRENT, weighted
from zeropoint.graph.packing import pack, unpack
from zeropoint.graph.quantizers import quantizers, restore_schemes
from zeropoint.graph.signature import Signature, from_text, positional
from zeropoint.graph.sizes import check_shapes, check_types, input_shapes, input_types
from zeropoint.numerics.scheme import Scheme
from zeropoint.torch_private.graphs import call_flat, drop_example_inputs, output_structure, write_code
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
    quantizers. ``example_inputs`` are the tensors of one call, in the order of the graph's inputs, and
    ``signature`` says how the model is called and in what structure it gives its outputs. ``batch`` holds the
    axis of each input and output along which items lie, whose size is free.
    ``weight_bits`` and ``activation_bits`` are what the method asked for: 32 for float and where
    nothing could be quantized, 16 for bfloat16.
    ``target`` names the engine whose placement rules were used, ``processor`` the kind of CPU that it was
    quantized for, and ``quantize_seconds`` what the method took. ``skip`` are the globs of modules that the
    user kept float, ``decisions`` what each rule of placement decided at each node. ``unfitted`` has the
    same quantizers around the weights of the float network, if the method moved those; it is not saved.

    >>> program.method, program.example_inputs[0].shape
    ('fp32', torch.Size([1, 3, 8, 8]))
    >>> program(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 5])
    """

    module: GraphModule
    example_inputs: tuple[Tensor, ...]
    batch: Batch
    signature: Signature
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

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Simulates the Program in PyTorch: called as the model is, it gives what the model does.

        Raises InputError for arguments or shapes that the model was not captured with.
        """
        inputs = self.signature.flat(args, kwargs)
        check_shapes(inputs, input_shapes(self.module))
        check_types(inputs, input_types(self.module))
        return self.signature.nested(self.flat(*inputs))

    def flat(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Simulates the Program on the input tensors in order: the output tensors, in order."""
        with torch.no_grad():
            return flat_tensors(self.module(*inputs))

    @property
    def dynamic_batch(self) -> bool:
        """Whether rows, along the first axis of every input, are items, of any number."""
        return self.batch.is_first

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
        packed = export(dataclasses.replace(self, module=pack(self.module)), nested=True)
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
        metadata["batch"] = dataclasses.astuple(self.batch)
        metadata["signature"] = self.signature.to_json()
        metadata["decisions"] = [dataclasses.astuple(decision) for decision in self.decisions]
        metadata["schemes"] = {name: dataclasses.asdict(scheme) for name, scheme in self.schemes.items()}
        plain = io.BytesIO()  # torch's own writer to disk does not say why it fails
        torch.export.save(packed, plain, extra_files={METADATA: json.dumps(metadata)})
        with atomic_write(path) as temporary:
            archive.repack(plain, temporary, deflate=(".json", *archive.integer_weights(plain)))


_METADATA_FIELDS = tuple(
    each.name
    for each in dataclasses.fields(Program)
    if each.name not in ("module", "example_inputs", "batch", "signature", "unfitted")
)


def parameter_bytes(program: Program) -> int:
    """The bytes that the Program's tensors need at their bits: integer weights with scales, all else whole.

    A symmetric quantizer's zero points are all the same and cost nothing.
    """
    module = program.module
    stored = [fx.tensor_of(module, node) for node in module.graph.nodes if fx.is_stored(node)]
    total = sum(tensor.nbytes for tensor in stored if isinstance(tensor, Tensor))  # not graphs of branches
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
    """The Program with the first item of its example repeated to a batch; as it is if the batch is fixed."""
    inputs = map(repeated, program.example_inputs, program.batch.inputs, itertools.repeat(size))
    return dataclasses.replace(program, example_inputs=tuple(inputs))


def export(
    program: Program, module: GraphModule | None = None, *, fixed: bool = False, nested: bool = False
) -> ExportedProgram:
    """The Program as an ExportedProgram, or ``module`` in its place, which is traced anew.

    Those sizes are free that the Program's are; none if ``fixed``. ``nested``: called as the model is, with
    its structure of outputs, if the graph need not be traced. Checks that tracing adds to type conversions
    are left out.
    """
    if module is None and not has_branches(program.module):
        return assemble(program.module, signature=program.signature if nested else None)
    inputs, shapes = program.example_inputs, None
    if not fixed:
        axes = input_shapes(program.module)
        shapes = tuple(
            {number: Dim.AUTO for number, axis in enumerate(shape) if axis.is_free} or None for shape in axes
        )
        at_least_two = at_batch(program, 2).example_inputs  # a size of 1 would be taken for a constant
        inputs = tuple(
            two if axis is not None and one.shape[axis] == 1 else one
            for one, two, axis in zip(inputs, at_least_two, program.batch.inputs, strict=True)
        )
    module = module or program.module
    module.recompile()
    write_code(module)
    with torch.no_grad(), shapes_alone():
        exported = torch.export.export(module, inputs, dynamic_shapes=shapes)
    for node in list(exported.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            exported.graph.erase_node(node)
    keep_names(exported)
    return exported


def check_program(given: object) -> None:
    """Raises InputError for what is no Program, such as the model itself."""
    if not isinstance(given, Program):
        raise InputError(f"a {type(given).__name__} is no Program; give zp.capture(model, example_inputs)")


def load(path: str | os.PathLike[str]) -> Program:
    """Reads a ``.pt2`` file that ``Program.save`` wrote; runs no code from it.

    Raises InputError for a file that is missing, truncated, not a saved Program, or of a newer zeropoint.

    >>> quantized.save("model.pt2")
    >>> zp.load("model.pt2").method
    'static'
    """
    path = Path(path)
    metadata, checked = archive.read(path, METADATA)
    metadata = _ABSENT | metadata
    missing = {"version", "inputs", *_METADATA_FIELDS} - metadata.keys()
    missing |= {"dynamic_batch"} - metadata.keys() if not metadata["signature"] else set()
    if missing:
        raise InputError(f"{path} is not a saved Program: its metadata lacks {', '.join(sorted(missing))}")
    try:
        inputs = tuple(_example(entry["shape"], entry["dtype"]) for entry in metadata["inputs"])
        fields = {name: metadata[name] for name in _METADATA_FIELDS}
        fields["skip"] = tuple(str(pattern) for pattern in fields["skip"])
        module = torch.export.load(checked).module(check_guards=False)
        assert isinstance(module, GraphModule)
        fx.remove_unused(module)
        fields["batch"], fields["signature"] = _calling(metadata, module)
        call_flat(module.graph)
        module.recompile()
        fields["decisions"] = tuple(Decision(*values) for values in fields["decisions"])
        module = unpack(module)
        restore_schemes(module, {name: Scheme(**values) for name, values in metadata["schemes"].items()})
        return Program(module, inputs, **fields)
    except Exception as error:
        hint = f"save it again with this torch ({torch.__version__})"
        raise InputError(f"cannot load {path}: {first_line(error)}; {hint}") from error


# What older files lack.
_ABSENT: dict[str, Any] = {
    "skip": [], "processor": "", "decisions": [], "schemes": {}, "batch": None, "signature": "",
}  # fmt: skip


def _calling(metadata: dict[str, Any], module: GraphModule) -> tuple[Batch, Signature]:
    """The axes of the batch and the signature of a saved Program; of an older file by its graph."""
    if metadata["signature"]:
        inputs, outputs = metadata["batch"]
        return Batch(tuple(inputs), tuple(outputs)), from_text(metadata["signature"])
    names = [str(node.target) for node in module.graph.find_nodes(op="placeholder")]
    results: Any = module.graph.output_node().args[0]
    leaves = [Leaf(number) for number in range(len(results))]
    axis = 0 if metadata["dynamic_batch"] else None
    batch = Batch((axis,) * len(names), (axis,) * len(leaves))
    return batch, positional(names, output_structure(module.graph, leaves))


def _example(shape: list[int], dtype: str) -> Tensor:
    """Seeded stand-in for the example input, which is not saved; of integers 1, as a mask hides nothing."""
    kind = getattr(torch, dtype.removeprefix("torch."))
    generator = torch.Generator().manual_seed(0)
    if kind.is_floating_point:
        return torch.randn(shape, generator=generator).to(kind)
    return torch.ones(shape, dtype=kind)
