"""Layouts: where a server wants the files of a model, and the configuration that it reads beside them."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zeropoint.errors import InputError, check_name

REPOSITORY = "repository"  # the folder that a server is started on
VERSION = "1"
MOST_TOGETHER = 32  # requests that Triton may put into one batch
# The types of inputs and outputs by NumPy's names, as model_config.proto of Triton names them.
_TRITON_TYPES = {
    "bool": "TYPE_BOOL", "uint8": "TYPE_UINT8", "int8": "TYPE_INT8", "int16": "TYPE_INT16",
    "int32": "TYPE_INT32", "int64": "TYPE_INT64", "float16": "TYPE_FP16", "float32": "TYPE_FP32",
    "float64": "TYPE_FP64", "bfloat16": "TYPE_BF16",
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """What a server needs.

    ``engines``: those whose artefacts it runs. ``files``: the configuration, a text for each path in the
    repository or beside it, made of the manifest and the name of the model. ``start``: the command, from the
    shipped folder, that starts the server on the repository.
    """

    engines: tuple[str, ...]
    files: Callable[[dict[str, Any], str], dict[str, str]]
    start: str


def check_layout(name: str, engine: str) -> None:
    """Raises InputError for an unknown layout, or one whose server does not run the engine's artefacts."""
    check_name("layout", name, ("folder", *LAYOUTS))
    if name != "folder" and engine not in LAYOUTS[name].engines:
        able = " or ".join(LAYOUTS[name].engines)
        raise InputError(f"{name} runs no artefacts of {engine}; ship a row of {able}, or leave --layout out")


def place(name: str, model: str) -> str:
    """The folder, in the shipped one, for the artefact: "" for the layout ``folder``."""
    return "" if name == "folder" else f"{REPOSITORY}/{model}/{VERSION}"


def model_name(model: str) -> str:
    """A name for the folder of a model, which also Kubernetes takes: digits-resnet."""
    plain = re.sub(r"[^a-z0-9]+", "-", model.lower().removesuffix(".pt2")).strip("-")
    return plain[-50:].strip("-") or "model"


def _triton(manifest: dict[str, Any], model: str) -> dict[str, str]:
    files = {f"{REPOSITORY}/{model}/config.pbtxt": triton_config(manifest, model)}
    if manifest["labels"]:
        files[f"{REPOSITORY}/{model}/labels.txt"] = "".join(f"{label}\n" for label in manifest["labels"])
    return files


def triton_config(manifest: dict[str, Any], model: str) -> str:
    """A ``config.pbtxt``: ModelConfig of Triton as protobuf text.

    ONNX Runtime's backend puts requests together where the first axis of all inputs and outputs is the batch.
    OpenVINO's wants full batches then, so that each request is a call there.
    """
    engine, threads = manifest["engine"]["name"], str(manifest["measured"]["threads"])
    ports = manifest["inputs"] + manifest["outputs"]
    batches = engine == "onnxruntime" and all("batch" in port["shape"][:1] for port in ports)
    parameters = {
        "onnxruntime": {"intra_op_thread_count": threads, "inter_op_thread_count": "1"},
        "openvino": {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY"},
    }[engine]
    lines = [
        f"name: {_quoted(model)}",
        f"backend: {_quoted(engine)}",
        f"default_model_filename: {_quoted(manifest['engine']['files'][0].rpartition('/')[2])}",
        f"max_batch_size: {MOST_TOGETHER if batches else 0}",
    ]
    if batches:
        lines.append("dynamic_batching { }")
    for kind in ("input", "output"):
        for number, port in enumerate(manifest[f"{kind}s"]):
            labels = kind == "output" and number == 0 and manifest["labels"]
            lines += _tensor(kind, port, batches, 'label_filename: "labels.txt"' if labels else "")
    lines.append("instance_group { count: 1 kind: KIND_CPU }")
    for key, value in parameters.items():
        lines.append(f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}")
    return "\n".join(lines) + "\n"


def _tensor(kind: str, port: dict[str, Any], batches: bool, more: str) -> list[str]:
    shape = port["shape"][1:] if batches else port["shape"]
    dims = ", ".join(str(size if isinstance(size, int) else -1) for size in shape)
    fields = [
        f"name: {_quoted(port['name'])}",
        f"data_type: {_TRITON_TYPES[port['dtype']]}",
        f"dims: [ {dims or 1} ]",
    ]
    if not dims:  # of a scalar, which has no dims in Triton
        fields.append("reshape { shape: [ ] }")
    return [f"{kind} {{", *(f"  {one}" for one in [*fields, more] if one), "}"]


def _ovms(manifest: dict[str, Any], model: str) -> dict[str, str]:
    settings = manifest["engine"]["settings"] | {"INFERENCE_NUM_THREADS": manifest["measured"]["threads"]}
    config = {
        "name": model,
        "base_path": model,  # relative to this file
        "target_device": "CPU",
        "nireq": 1,
        "plugin_config": settings,
    }
    text = json.dumps({"model_config_list": [{"config": config}]}, indent=2)
    return {f"{REPOSITORY}/config.json": f"{text}\n"}


def _kserve(manifest: dict[str, Any], model: str) -> dict[str, str]:
    return _triton(manifest, model) | {
        "inferenceservice.yaml": (
            "# Put the folder repository where the cluster reads it, and its address in storageUri.\n"
            "apiVersion: serving.kserve.io/v1beta1\n"
            "kind: InferenceService\n"
            "metadata:\n"
            f"  name: {model}\n"
            "spec:\n"
            "  predictor:\n"
            "    model:\n"
            "      modelFormat:\n"
            "        name: triton\n"
            '        version: "2"\n'
            "      protocolVersion: v2\n"
            "      runtime: kserve-tritonserver\n"
            f"      storageUri: pvc://models/{model}/{REPOSITORY}\n"
            "      resources:\n"
            "        requests:\n"
            f'          cpu: "{manifest["measured"]["threads"]}"\n'
        )
    }


def _quoted(text: str) -> str:
    """A string of protobuf's text format, whose escapes of ASCII are those of JSON."""
    return json.dumps(text)


LAYOUTS = {
    "triton": Layout(("onnxruntime", "openvino"), _triton, f"tritonserver --model-repository={REPOSITORY}"),
    "ovms": Layout(("openvino",), _ovms, f"ovms --config_path {REPOSITORY}/config.json --rest_port 8000"),
    "kserve": Layout(("onnxruntime", "openvino"), _kserve, "kubectl apply -f inferenceservice.yaml"),
}
"""By name; beside them there is ``folder``, for no server."""
