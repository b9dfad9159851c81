"""A masked language model over chemical reactions. `python masked_tokens.py FOLDER`, where FOLDER has

- `albert-reactions.safetensors`: the weights of an ALBERT whose 12 layers are one, of 591 tokens
- `reactions.npz`: `input_ids`, `attention_mask` and `labels` of (N, 128), the labels -100 where nothing is
  masked; the first 128 reactions calibrate, the rest is evaluated
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import zeropoint as zp
from zeropoint.models.vision import torchvision

torchvision()  # transformers imports it, which fails where its compiled operators are missing, but for this
from transformers import AlbertConfig, AlbertForMaskedLM  # noqa: E402

CALIBRATION = 128


def make_model(folder: Path) -> nn.Module:
    sizes = {"embedding_size": 128, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 12}
    model = AlbertForMaskedLM(AlbertConfig(vocab_size=591, num_attention_heads=8, hidden_act="gelu", **sizes))
    model.load_state_dict(load_file(folder / "albert-reactions.safetensors"), strict=False)
    model.tie_weights()
    return model.eval()


def make_loaders(folder: Path) -> dict[str, list[dict[str, Tensor]]]:
    with np.load(folder / "reactions.npz") as arrays:
        names = ("input_ids", "attention_mask", "labels")
        tokens = {name: torch.from_numpy(arrays[name].astype(np.int64)) for name in names}
    rows = len(tokens["labels"])
    batches = [{name: part[i : i + 32] for name, part in tokens.items()} for i in range(0, rows, 32)]
    return {"calibration": batches[: CALIBRATION // 32], "evaluation": batches[CALIBRATION // 32 :]}


def main() -> None:
    model, loaders = make_model(Path(sys.argv[1])), make_loaders(Path(sys.argv[1]))
    program = zp.capture(model, loaders["calibration"][0])
    runs = {"float32": program}
    for engine in ("openvino", "onnxruntime"):
        quantized = zp.quantize(program, calibration=loaders["calibration"], target=engine)
        runs[f"int8 on {engine}"] = zp.compile(quantized, engine)
    for name, run in runs.items():
        values = zp.evaluate(run, loaders["evaluation"], task="masked-language-modelling").values
        print(f"{name}: masked accuracy {values['masked accuracy']:.2%}")


if __name__ == "__main__":
    main()
