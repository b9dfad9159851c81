"""Hidden: positions of a sequence that an input says are padding, whose outputs nobody reads.

What a network gives there depends on little that is trained: in an ALBERT of reactions noise at padded
positions grows 500 times as much as at real ones.
"""

from collections.abc import Sequence

from torch import Tensor

SHOWS = "attention_mask"  # of transformers: not zero where there is a token
HIDES = "padding_mask"  # of PyTorch, as in src_key_padding_mask: not zero where there is none


def without_hidden(names: Sequence[str], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs with zeros at the positions that a mask among the inputs, of these ``names``, hides.

    A mask is an input of one of the names above, or of one that ends so, (N, T); it is about outputs of
    floating-point numbers (N, T, ...), and the others stay as they are.
    """
    shown = shown_by(names, inputs)
    if shown is None:
        return list(outputs)
    return [_where(output, shown) for output in outputs]


def shown_by(names: Sequence[str], inputs: Sequence[Tensor]) -> Tensor | None:
    """Which positions no mask among the inputs hides, (N, T) of booleans; None if there is no such mask."""
    for name, value in zip(names, inputs, strict=False):
        if value.dim() == 2 and not value.is_floating_point():
            if name.endswith(SHOWS):
                return value != 0
            if name.endswith(HIDES):
                return value == 0
    return None


def visible(value: Tensor, shown: Tensor | None) -> Tensor:
    """The positions of a value (N, T, ...) that are ``shown``, in one row; any other value as it is."""
    is_hidden = shown is not None and value.dim() > 2 and value.shape[:2] == shown.shape
    return value[shown] if is_hidden else value


def _where(output: Tensor, shown: Tensor) -> Tensor:
    if not output.is_floating_point() or output.dim() < 3 or output.shape[:2] != shown.shape:
        return output
    return output.masked_fill(~shown.reshape(*shown.shape, *[1] * (output.dim() - 2)), 0.0)
