"""State dicts in files: read one safely, and fit it to a network."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from zeropoint.errors import InputError
from zeropoint.models.refusals import refuse_weights

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".gguf")
_FIX = "write it with torch.save(model.state_dict(), ...) or as safetensors"


def load_into(network: nn.Module, path: Path) -> nn.Module:
    """``network`` itself, with the state dict of the file ``path`` loaded into it.

    Raises InputError if the file cannot be read, holds anything but named tensors, or does not fit the
    network: the message names the first missing, unexpected or differently shaped key.
    """
    state = _read(path)
    own = network.state_dict()
    for key, tensor in state.items():
        if key in own and own[key].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, the model's {tuple(own[key].shape)}"
            raise InputError(
                f"{path} does not fit the model: {key} has shape {shapes}; give this model's weights"
            )
    fit = network.load_state_dict(state, strict=False)
    given = {own[key].data_ptr() for key in state if key in own}
    missing = [
        key for key in fit.missing_keys if own[key].data_ptr() not in given
    ]  # a tied one has another name
    for trouble, keys in (("is missing", missing), ("is not in the model", fit.unexpected_keys)):
        if keys:
            raise InputError(f"{path} does not fit the model: {keys[0]} {trouble}; give this model's weights")
    return network


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"cannot read the weights {path}: {error}") from error
    except Exception as error:  # of a torn or foreign file the unpickler raises anything, IndexError too
        raise refuse_weights(path, _FIX) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} holds no plain state dict; {_FIX}")
    return state
