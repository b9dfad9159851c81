"""Layouts of servers: checked against the messages and schemas that the servers read their files with."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import text_format
from networks import Residual, randomized

import zeropoint as zp
from zeropoint.shipping import ship as ship_module
from zeropoint.shipping.layouts import model_name, triton_config

ENGINES = ("onnxruntime", pytest.param("openvino", marks=pytest.mark.slow))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ship_module, "SECONDS", 0.0)


@pytest.fixture(scope="module")
def messages():
    """Triton's messages, from its client; the client itself needs gRPC, its messages do not."""
    client = importlib.util.find_spec("tritonclient")
    if client is None:
        pytest.skip("tritonclient, which has Triton's schema, is not installed")
    path = Path(client.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ship(inputs, tmp_path):
    def apply(engine: str, layout: str, **chosen: object) -> Path:
        program = zp.capture(randomized(Residual()), inputs[:2], origin="Nets/Residual.pt2")
        zp.ship(program, engine, tmp_path / "out", inputs=inputs, layout=layout, **chosen)
        return tmp_path / "out"

    return apply


@pytest.mark.parametrize("engine", ENGINES)
def test_triton(ship, messages, engine):
    out = ship(engine, "triton", classes=["a", "b", "c", "d", "e"], threads=2)
    model = out / "repository" / "nets-residual"
    config = text_format.Parse((model / "config.pbtxt").read_text(), messages.ModelConfig())
    assert (config.name, config.backend) == (model.name, engine)
    assert (model / "1" / config.default_model_filename).is_file()
    assert config.default_model_filename == {"onnxruntime": "model.onnx", "openvino": "model.xml"}[engine]
    (x,), (output,) = config.input, config.output
    assert (x.name, x.data_type, output.name) == ("x", messages.TYPE_FP32, "output")
    if engine == "onnxruntime":
        assert config.max_batch_size == 32
        assert config.HasField("dynamic_batching")
        assert (list(x.dims), list(output.dims)) == ([3, 8, 8], [5])
        assert config.parameters["intra_op_thread_count"].string_value == "2"
    else:
        assert config.max_batch_size == 0
        assert (list(x.dims), list(output.dims)) == ([-1, 3, 8, 8], [-1, 5])
        assert config.parameters["INFERENCE_NUM_THREADS"].string_value == "2"
    assert config.instance_group[0].kind == messages.ModelInstanceGroup.KIND_CPU
    assert (model / output.label_filename).read_text() == "a\nb\nc\nd\ne\n"
    assert {path.name for path in model.iterdir()} == {"config.pbtxt", "labels.txt", "1"}


def test_the_folder_of_a_layout_is_verified_as_any(ship):
    out = ship("onnxruntime", "triton")
    command = [sys.executable, "-B", str(out / "verify.py"), "--seconds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tritonserver --model-repository=repository" in (out / "README.md").read_text()
    (out / "repository" / "nets-residual" / "config.pbtxt").write_text("name: 3")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1


# As schema.cpp of OpenVINO Model Server has it, of what is used here.
OVMS = {
    "name": str, "base_path": str, "batch_size": (int, str), "shape": (dict, str), "nireq": int,
    "target_device": str, "plugin_config": dict, "model_version_policy": dict,
}  # fmt: skip


@pytest.mark.slow
def test_ovms(ship):
    out = ship("openvino", "ovms", threads=2)
    made = json.loads((out / "repository" / "config.json").read_text())
    assert made.keys() == {"model_config_list"}
    (entry,) = made["model_config_list"]
    assert entry.keys() == {"config"}
    config = entry["config"]
    assert config.keys() >= {"name", "base_path"}
    for key, value in config.items():
        assert isinstance(value, OVMS[key])
    assert config["plugin_config"]["INFERENCE_PRECISION_HINT"] == "f32"
    assert config["plugin_config"]["INFERENCE_NUM_THREADS"] == 2
    version = out / "repository" / config["base_path"] / "1"
    assert {path.name for path in version.iterdir()} == {"model.xml", "model.bin"}


def test_kserve(ship, messages):
    out = ship("onnxruntime", "kserve")
    made = yaml.safe_load((out / "inferenceservice.yaml").read_text())
    assert (made["apiVersion"], made["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert made["metadata"] == {"name": "nets-residual"}
    model = made["spec"]["predictor"]["model"]
    assert model["modelFormat"] == {"name": "triton", "version": "2"}
    assert model["storageUri"].endswith("/repository")
    text_format.Parse(
        (out / "repository" / "nets-residual" / "config.pbtxt").read_text(), messages.ModelConfig()
    )


def test_types_scalars_and_names_that_need_quotes(messages):
    ports = [
        {"name": 'a"b', "dtype": "int64", "shape": ["batch", "length"]},
        {"name": "s", "dtype": "bool", "shape": []},
    ]
    manifest = {
        "engine": {"name": "onnxruntime", "files": ["x/model.onnx"]}, "measured": {"threads": 1},
        "inputs": ports, "outputs": ports[:1], "labels": [],
    }  # fmt: skip
    config = text_format.Parse(triton_config(manifest, "m"), messages.ModelConfig())
    assert [one.name for one in config.input] == ['a"b', "s"]
    assert [one.data_type for one in config.input] == [messages.TYPE_INT64, messages.TYPE_BOOL]
    assert list(config.input[0].dims) == [-1, -1]
    assert list(config.input[1].dims) == [1]
    assert config.input[1].HasField("reshape")
    assert config.max_batch_size == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("digits/resnet", "digits-resnet"), ("my_model.py:make_model", "my-model-py-make-model"),
        ("a model", "a-model"), ("é", "model"), ("x" * 80, "x" * 50),
    ],
)  # fmt: skip
def test_names_of_models(name, expected):
    assert model_name(name) == expected


@pytest.mark.parametrize(
    ("engine", "layout", "message"),
    [
        ("onnxruntime", "ovms", "ovms runs no artefacts of onnxruntime; ship a row of openvino, or leave"),
        ("torch", "triton", "triton runs no artefacts of torch; ship a row of onnxruntime or openvino, or"),
        ("onnxruntime", "tritn", "unknown layout 'tritn'; did you mean triton"),
    ],
)
def test_a_layout_that_does_not_fit_is_one_line(ship, tmp_path, engine, layout, message):
    with pytest.raises(zp.InputError) as error:
        ship(engine, layout)
    assert str(error.value).startswith(message)
    assert not (tmp_path / "out").exists()
