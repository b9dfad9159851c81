"""Padding of ``nn.TransformerEncoder``: its eval mode gives zeros at padded places, and its export does not.

In eval mode PyTorch packs the tokens that are not padded into nested tensors, and fills the places of the
others with zeros after the last layer (torch/nn/modules/transformer.py, seen with torch 2.13). The exporter
takes the other path, whose values at those places differ: 10 dB where the outputs are averaged over tokens.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def packing_encoders(model: nn.Module, run: Callable[[], Any]) -> list[nn.TransformerEncoder]:
    """The encoders of a model that pack tokens into nested tensors when ``run`` calls it."""
    packing: list[nn.TransformerEncoder] = []
    hooks = []
    for encoder in [part for part in model.modules() if isinstance(part, nn.TransformerEncoder)]:

        def look(_: nn.Module, __: Any, output: Any, encoder: nn.TransformerEncoder = encoder) -> None:
            if isinstance(output, Tensor) and output.is_nested and encoder not in packing:
                packing.append(encoder)

        hooks.append(encoder.layers[-1].register_forward_hook(look))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The PyTorch API of nested tensors")
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return packing


@contextmanager
def zeros_at_padding(encoders: list[nn.TransformerEncoder]) -> Iterator[None]:
    """While a model is exported: zeros after the last layer at the places that are padded."""
    hooks = []
    for encoder in encoders:
        signature, masks = inspect.signature(encoder.forward), list[Tensor]()

        def before(
            _: nn.Module, args: Any, kwargs: Any, signature: Any = signature, masks: Any = masks
        ) -> None:
            masks[:] = [signature.bind(*args, **kwargs).arguments["src_key_padding_mask"]]

        def after(_: nn.Module, __: Any, output: Tensor, masks: list[Tensor] = masks) -> Tensor:
            (mask,) = masks
            padded = mask if mask.dtype == torch.bool else mask != 0
            return output.masked_fill(padded.unsqueeze(-1), 0.0)

        hooks.append(encoder.register_forward_pre_hook(before, with_kwargs=True))
        hooks.append(encoder.layers[-1].register_forward_hook(after))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
