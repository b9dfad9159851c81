"""Arguments of a transformers model: random ones, of the sizes that its config gives."""

import functools
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zeropoint.models.source import Inputs, RandomInputs, call

TOKENS = 32
SAMPLES = 16000  # of sound: one second
FRAMES = 100  # of a spectrogram, where the config gives no number
_PARTS = ("text_config", "vision_config", "audio_config", "encoder", "decoder")


@dataclass(frozen=True)
class _Argument:
    """One argument without the batch: normal values, or ``ids`` of tokens, the last of which is ``last``."""

    shape: tuple[int, ...]
    ids: Tensor | None = None
    last: int | None = None

    def sample(self, items: int, generator: torch.Generator | None) -> Tensor:
        if self.ids is None:
            return torch.randn(items, *self.shape, generator=generator)
        tokens = self.ids[torch.randint(len(self.ids), (items, *self.shape), generator=generator)]
        if self.last is not None:
            tokens[:, -1] = self.last
        return tokens


def random_inputs(network: nn.Module) -> RandomInputs | None:
    """What makes random keyword arguments for the network; None if it runs on none of those known here."""
    for chosen in _candidates(network):
        make = functools.partial(_sample, chosen)
        try:
            with torch.no_grad():
                call(network, make(1, torch.Generator()))
        except Exception:  # a wrong guess may fail in any way
            continue
        return make
    return None


def _sample(chosen: dict[str, _Argument], items: int, generator: torch.Generator | None) -> Inputs:
    return {name: argument.sample(items, generator) for name, argument in chosen.items()}


def _candidates(network: Any) -> Iterator[dict[str, _Argument]]:
    """Sets of arguments, from all that ``forward`` takes down to the main one."""
    taken = inspect.signature(network.forward).parameters
    every = {name: value for name, value in _arguments(network.config).items() if name in taken}
    if "input_ids" not in every:  # then it would be a mask of something else
        every.pop("attention_mask", None)
    yield every
    texts = {name: value for name, value in every.items() if value.ids is not None}
    yield texts
    main = network.main_input_name
    yield {name: value for name, value in every.items() if name == main or name.startswith("decoder")}
    yield {name: value for name, value in every.items() if name == main}


def _arguments(config: Any) -> dict[str, _Argument]:
    """By name, for the sizes that are in the config."""
    tokens, image = _tokens(config), _image(config)
    mask = _Argument(tokens.shape, torch.ones(1, dtype=torch.long))
    found = {"input_ids": tokens, "attention_mask": mask, "pixel_values": image}
    if getattr(config, "is_encoder_decoder", False):
        found["decoder_input_ids"] = tokens
    bins = _first(config, "num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim")
    length = _first(config, "max_length", "max_source_positions")
    if bins is not None:
        # Time and frequency; the other way round for Whisper, which halves the length.
        whole = _first(config, "num_mel_bins") and _first(config, "max_source_positions")
        spectrum = (bins, 2 * length) if whole else (length or FRAMES, bins)
        found["input_features"] = _Argument(spectrum)
    found["input_values"] = _Argument((length, bins) if bins and length else (SAMPLES,))
    if (steps := _first(config, "context_length")) is not None:
        found["past_values"] = _Argument((steps, _first(config, "num_input_channels") or 1))
    return found


def _tokens(config: Any) -> _Argument:
    """Ids of words, which end with the end of the text; none of the others has a meaning of its own."""
    words = _first(config, "vocab_size") or 1000
    limit = _first(config, "max_position_embeddings", "n_positions", "max_target_positions") or 2 * TOKENS
    special = {
        value
        for part in (config, *_parts(config))
        for name, value in vars(part).items()
        if name.endswith(("_token_id", "_token_index")) and isinstance(value, int)
    }
    ids = [number for number in range(words) if number not in special] or [0]
    end = _first(config, "eos_token_id")
    end = end[0] if isinstance(end, list) and end else end
    # Half of the positions: some models count them from 2.
    return _Argument((min(TOKENS, limit // 2),), torch.tensor(ids), end if isinstance(end, int) else None)


def _image(config: Any) -> _Argument:
    size = _first(config, "image_size") or 224
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    image = (_first(config, "num_channels") or 3, height, width)
    frames = _first(config, "num_frames")
    return _Argument(image if frames is None else (frames, *image))


def _first(config: Any, *names: str) -> Any:
    """The first value of the names in the config, then in its parts."""
    for part in (config, *_parts(config)):
        for name in names:
            if (value := getattr(part, name, None)) is not None:
                return value
    return None


def _parts(config: Any) -> list[Any]:
    return [part for name in _PARTS if hasattr(part := getattr(config, name, None), "to_dict")]
