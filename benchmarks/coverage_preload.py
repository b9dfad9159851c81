"""Imported once, in the process from which those of coverage.py are forked, to save them the start-up.

No engine runs here: their threads do not survive a fork.
"""

import contextlib
import gc
import importlib
import io
import os
import sys

import torch

from zeropoint.models.vision import torchvision

os.environ["HF_HUB_OFFLINE"] = "1"
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it reports over the network
torch.set_num_threads(1)
torchvision()  # timm and transformers import it; this way it works with any build of torch
NEEDED = ("onnxscript", "onnx", "onnxruntime.quantization", "openvino", "nncf", "timm", "transformers")
for name in NEEDED:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
with contextlib.redirect_stdout(io.StringIO()):
    import zeropoint as zp

    inputs = torch.randn(4, 3)
    zp.quantize(zp.capture(torch.nn.Linear(3, 2), inputs), "static", calibration=[inputs])
    torch.onnx.export(torch.nn.Linear(3, 2), (inputs,), dynamo=True, verbose=False)
gc.freeze()  # else every collection copies the memory that a fork shares
