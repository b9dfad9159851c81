"""Lowering to PyTorch: a saved Program for float32, a package from the PyTorch compiler for all else."""

import json
import tempfile
import warnings
from pathlib import Path

import torch

from zeropoint.engines import fixed
from zeropoint.engines.engine import PROCESSOR, SIGNATURE
from zeropoint.engines.qdq import to_pairs
from zeropoint.engines.torch.recurrent import keep_whole
from zeropoint.engines.torch.rewrites import (
    flatten_tokens,
    give_scales,
    keep_sums_apart,
    move_integers,
    pack_pixels,
    reshape_anyhow,
)
from zeropoint.engines.torch.run import INTEGERS, KERNELS, PACKAGE_ENDING, PROGRAM_ENDING
from zeropoint.engines.torch.sequences import as_images
from zeropoint.engines.torch.target import AFFINE_WRONG
from zeropoint.errors import InputError
from zeropoint.files import atomic_write
from zeropoint.graph.archive import repack
from zeropoint.graph.operators import weighted
from zeropoint.graph.program import Program, export
from zeropoint.graph.quantizers import quantizers
from zeropoint.torch_private.compiler import called_kernels, compile_package, with_aligned_weights

REWRITES = (
    move_integers,
    pack_pixels,
    as_images,
    give_scales,
    flatten_tokens,
    keep_sums_apart,
    reshape_anyhow,
    keep_whole,
)


def artefact_name(program: Program) -> str:
    """The ending of a saved Program for float32, of a compiled package for all else."""
    return PROGRAM_ENDING if program.method == "fp32" else PACKAGE_ENDING


def lower(program: Program, path: Path) -> None:
    """Saves a float32 Program as it is, and writes any other as a compiled package, with a C++ compiler.

    The package is compiled for the batch size of the example inputs and the number of threads that PyTorch
    has: oneDNN lays weights out for one size and number. For others it lays some of them out again at every
    call: 10 times slower on ResNet-50 with a free batch size, 3 times on MobileNetV2 in bfloat16 with one
    thread and not two.
    """
    if program.method == "fp32":
        program.save(path)
        return
    affine = [quantizer for quantizer in quantizers(program.module) if quantizer.zero_point.any()]
    of_layers = [q for q in affine if q.is_weight and any(weighted(user) for user in q.node.users)]
    if program.method != "weight-only" and of_layers:
        raise InputError(f"{AFFINE_WRONG}; quantize for the torch engine, or run this on another one")
    module = to_pairs(program)
    for rewrite in REWRITES:
        module = rewrite(module)
    exported = export(program, module, fixed=True)
    metadata = {
        **fixed.facts(program),
        PROCESSOR: program.processor,
        SIGNATURE: program.signature.to_json(),
    }
    with (
        atomic_write(path) as temporary,
        tempfile.TemporaryDirectory(dir=temporary.parent) as folder,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        package = Path(folder) / temporary.name
        one_thread = torch.get_num_threads() == 1
        constants = compile_package(exported, package, metadata=metadata, one_thread=one_thread)
        integers = [sorted(of_kernel) for of_kernel in constants]
        repack(
            package,
            temporary,
            deflate=(".so", ".json"),
            drop=(".cpp",),
            add={INTEGERS: json.dumps(integers), KERNELS: json.dumps(called_kernels(package))},
            edit={".so": with_aligned_weights},
        )
