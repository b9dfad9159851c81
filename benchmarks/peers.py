"""The other tools, each used as in its documentation: quantize in memory, save an artefact, load it.

``quantize(network, example, calibration)`` gives a model in memory for any batch size; ``example`` is a batch
of two. ``save(model, inputs, threads, stem)`` writes it for the batch of ``inputs`` and gives the path:
``stem`` with an extension. ``load(path, threads)`` gives a callable from a tensor to a tensor. The batch size
is fixed in the artefacts, because every engine is fastest that way.
"""

import contextlib
import copy
import io
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from zeropoint.models.vision import torchvision
from zeropoint.targets.processor import native

Call = Callable[[Tensor], Tensor]
Inputs = Tensor | tuple[Tensor, ...]  # one input, or those of one call


def _several(inputs: Inputs) -> tuple[Tensor, ...]:
    return (inputs,) if isinstance(inputs, Tensor) else inputs


def _exported(network: nn.Module, example: Inputs) -> ExportedProgram:
    """With a batch of any size where there is one input."""
    shapes = ({0: Dim.AUTO},) if isinstance(example, Tensor) else None
    return torch.export.export(network, _several(example), dynamic_shapes=shapes)


# OpenVINO, and NNCF, which quantizes for it


def openvino_float(network: nn.Module, example: Inputs, calibration: Sequence[Inputs]) -> Any:
    import openvino

    try:
        return openvino.convert_model(network, example_input=example)
    except RuntimeError:  # some networks, such as torchvision's ViT, cannot be traced, but exported
        return openvino.convert_model(_exported(network, example))


def nncf_static(network: nn.Module, example: Inputs, calibration: Sequence[Inputs], transformer: bool) -> Any:
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = openvino_float(network, example, calibration)
    overflows = native().saturates  # then its own protection from that
    fix = nncf.OverflowFix.ENABLE if overflows else nncf.OverflowFix.FIRST_LAYER
    return nncf.quantize(
        model,
        nncf.Dataset(calibration, lambda inputs: tuple(tensor.numpy() for tensor in _several(inputs))),
        subset_size=len(calibration),
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
    )


def save_openvino(model: Any, inputs: Tensor, threads: int, stem: str) -> Path:
    import openvino

    fixed = model.clone()
    fixed.reshape(list(inputs.shape))
    openvino.save_model(fixed, f"{stem}.xml", compress_to_fp16=False)
    return Path(f"{stem}.xml")


def load_openvino(path: Path, threads: int, precision: str | None = None) -> Call:
    """With ``precision`` None OpenVINO chooses: bf16 if the processor supports it."""
    import openvino

    configuration = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if precision:
        configuration["INFERENCE_PRECISION_HINT"] = precision
    request = openvino.Core().compile_model(path, "CPU", configuration).create_infer_request()
    return lambda inputs: torch.from_numpy(request.infer([inputs.numpy()], share_inputs=True)[0])


# ONNX Runtime, and its own quantizer


def onnx_float(network: nn.Module, example: Inputs, calibration: Sequence[Inputs]) -> Any:
    """The batch size is free if there is one input."""
    shapes = ({0: Dim("batch")},) if isinstance(example, Tensor) else None
    with contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(
            network, _several(example), dynamo=True, verbose=False, dynamic_shapes=shapes
        )
    return program.model_proto


def quantize_static(network: nn.Module, example: Inputs, calibration: Sequence[Inputs]) -> Any:
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx_float(network, example, calibration)
    names = [node.name for node in model.graph.input]

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(calibration)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            if batch is None:
                return None
            return {name: one.numpy() for name, one in zip(names, _several(batch), strict=False)}

    with tempfile.TemporaryDirectory() as folder:
        prepared, quantized = f"{folder}/prepared.onnx", f"{folder}/quantized.onnx"
        quant_pre_process(model, prepared)
        quantization.quantize_static(
            prepared,
            quantized,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=native().saturates,  # its own protection from overflow
        )
        return onnx.load(quantized)


def save_onnx(model: Any, inputs: Tensor, threads: int, stem: str) -> Path:
    import onnx
    from onnxruntime.tools.onnx_model_utils import fix_output_shapes, make_input_shape_fixed

    fixed = copy.deepcopy(model)
    make_input_shape_fixed(fixed.graph, fixed.graph.input[0].name, inputs.shape)
    fix_output_shapes(fixed)
    onnx.save(fixed, f"{stem}.onnx")
    return Path(f"{stem}.onnx")


def load_onnxruntime(path: Path, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: torch.from_numpy(session.run(None, {name: inputs.numpy()})[0])


# PyTorch: eager, and FX quantization to TorchScript


def eager_float(network: nn.Module, example: Tensor, calibration: list[Tensor]) -> nn.Module:
    return network


def save_eager(model: nn.Module, inputs: Tensor, threads: int, stem: str) -> Path:
    torch.save(model, f"{stem}.pt")
    return Path(f"{stem}.pt")


def load_eager(path: Path, threads: int) -> Call:
    return _without_gradients(torch.load(path, weights_only=False))


def fx_static(network: nn.Module, example: Inputs, calibration: Sequence[Inputs], backend: str) -> nn.Module:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.backends.quantized.engine = backend
    prepared = prepare_fx(copy.deepcopy(network), get_default_qconfig_mapping(backend), _several(example))
    with torch.no_grad():
        for batch in calibration:
            prepared(*_several(batch))
    return convert_fx(prepared)


def save_jit(model: nn.Module, inputs: Tensor, threads: int, stem: str) -> Path:
    with torch.no_grad():
        torch.jit.save(torch.jit.freeze(torch.jit.trace(model, inputs)), f"{stem}.pt")
    return Path(f"{stem}.pt")


def load_jit(path: Path, threads: int, backend: str) -> Call:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = backend  # loading packs the weights for it
    try:
        return _without_gradients(torch.jit.load(path))
    finally:
        torch.backends.quantized.engine = before


# AIMET: it simulates integer arithmetic in PyTorch; no engine runs its result


def aimet_static(
    network: nn.Module, example: Tensor, calibration: list[Tensor], bits: int, adaround: bool = False
) -> nn.Module:
    """``bits``-bit weights per channel, 8-bit activations; ``adaround`` takes 2,000 iterations per layer."""
    torchvision()  # AIMET imports it; this way it works with any build of torch
    from aimet_torch.adaround.adaround_weight import Adaround, AdaroundParameters
    from aimet_torch.batch_norm_fold import fold_all_batch_norms
    from aimet_torch.common.defs import QuantScheme
    from aimet_torch.common.quantsim_config.utils import get_path_for_per_channel_config
    from aimet_torch.model_preparer import prepare_model
    from aimet_torch.quantsim import QuantizationSimModel

    prepared = prepare_model(copy.deepcopy(network)).eval()
    fold_all_batch_norms(prepared, tuple(example.shape), example)
    config = get_path_for_per_channel_config()
    with tempfile.TemporaryDirectory() as folder:
        if adaround:
            chosen = AdaroundParameters(calibration, len(calibration), default_num_iterations=2000)
            prepared = Adaround.apply_adaround(
                prepared,
                example,
                chosen,
                folder,
                "rounded",
                default_param_bw=bits,
                default_config_file=config,
            )
        scheme = QuantScheme.post_training_tf_enhanced
        simulation = QuantizationSimModel(
            prepared, example, quant_scheme=scheme, default_param_bw=bits, config_file=config
        )
        if adaround:
            simulation.set_and_freeze_param_encodings(f"{folder}/rounded.encodings")
    with torch.no_grad():
        simulation.compute_encodings(lambda model: [model(batch) for batch in calibration])
    return simulation.model


# The PyTorch compiler, and torchao's PT2E quantization for it


class _InBfloat16(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).to(torch.bfloat16)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs.to(torch.bfloat16) if inputs.is_floating_point() else inputs).float()


def bfloat16(network: nn.Module, example: Tensor, calibration: list[Tensor]) -> nn.Module:
    return _InBfloat16(network)


def pt2e_static(network: nn.Module, example: Inputs, calibration: Sequence[Inputs]) -> nn.Module:
    from torchao.quantization import pt2e
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    with torch.no_grad():
        exported = _exported(network, example)
        prepared = prepare_pt2e(exported.module(), quantizer)
        for batch in calibration:
            prepared(*_several(batch))
        converted = convert_pt2e(prepared)
    return pt2e.move_exported_model_to_eval(converted)


def save_compiled(model: nn.Module, inputs: Tensor, threads: int, stem: str) -> Path:
    """Compiles for this batch size and number of threads, which is fastest."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    with torch.no_grad():
        exported = torch.export.export(model, (inputs,))
        configuration = {"freezing": True}
        torch._inductor.aoti_compile_and_package(
            exported, package_path=f"{stem}.pt2", inductor_configs=configuration
        )
    torch.set_num_threads(before)
    return Path(f"{stem}.pt2")


def load_compiled(path: Path, threads: int) -> Call:
    logging.getLogger("torch.export.pt2_archive._package").setLevel(logging.ERROR)
    return _without_gradients(torch._inductor.aoti_load_package(str(path)))


def _without_gradients(model: Callable[[Tensor], Tensor]) -> Call:
    def run(inputs: Tensor) -> Tensor:
        with torch.inference_mode():
            return model(inputs)

    return run
