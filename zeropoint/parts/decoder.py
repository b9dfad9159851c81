"""Decoder: a language model of transformers on an engine, with the key-value cache that ``generate`` uses."""

import inspect
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zeropoint.data.batches import Batch, Loader
from zeropoint.data.nested import flatten
from zeropoint.engines import Runner
from zeropoint.errors import InputError, InputWarning, first_line
from zeropoint.graph.capture import capture, float_on_cpu
from zeropoint.graph.program import Program
from zeropoint.graph.verify import same
from zeropoint.parts.calibrate import quantize_on
from zeropoint.targets.options import Options
from zeropoint.tasks.metric import Score
from zeropoint.tasks.tokens import IGNORED, LANGUAGE

DECODER = "decoder"
LEAST = 4  # tokens of a batch
FIRST_KEYS = 4  # the number of the first layer's keys among the inputs
_READ = ("input_ids", "attention_mask", "position_ids", "past_key_values", "use_cache", "labels")
_IGNORED = ("return_dict", "cache_position", "logits_to_keep")


class _WithCache(nn.Module):
    """A decoder whose cache is among its inputs and outputs: tokens (N, T) after P tokens that were seen.

    A layer's keys and values are (N, heads, P, width), and afterwards (N, heads, P + T, width). ``past_mask``
    (N, P) and ``mask`` (N, T) have zeros at padded places.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    def forward(
        self,
        input_ids: Tensor,
        past_mask: Tensor,
        mask: Tensor,
        position_ids: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        cache = _cache()
        for number, pair in enumerate(zip(keys, values, strict=True)):
            cache.update(*pair, number)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=torch.cat([past_mask, mask], 1),
            past_key_values=cache,
            use_cache=True,
            **({"position_ids": position_ids} if self.takes_positions else {}),
        )
        return outputs.logits, [one.keys for one in cache.layers], [one.values for one in cache.layers]


def _cache() -> Any:
    """An empty cache that grows with the tokens; layers with a window keep all of them, and mask the rest."""
    from transformers import DynamicCache

    return DynamicCache()


@dataclass(frozen=True)
class OnEngineDecoder:
    """What runs in place of a decoder's ``forward``: with a cache of transformers, which it fills."""

    runner: Runner
    model: nn.Module

    def __call__(self, input_ids: Tensor | None = None, *args: Any, **given: Any) -> Any:
        """What the model gives for a call. Raises InputError for a call that the runner was not made for."""
        names = [name for name in inspect.signature(self.model.forward).parameters if name != "input_ids"]
        given |= dict(zip(names, args, strict=False))
        other = [name for name, value in given.items() if name not in _READ + _IGNORED and _says(value)]
        if input_ids is None or other:
            raise InputError(f"it is given {other[0] if other else 'no input_ids'}")
        cache = _cache() if given.get("past_key_values") is None else given["past_key_values"]
        (count, length), past = input_ids.shape, cache.get_seq_length()
        mask = given.get("attention_mask")
        mask = torch.ones(count, past + length, dtype=torch.int64) if mask is None else mask
        if mask.dim() != 2 or tuple(mask.shape) != (count, past + length):
            raise InputError(f"its attention mask has shape {tuple(mask.shape)}")
        positions = given.get("position_ids")
        if positions is None:
            positions = torch.arange(past, past + length)
        flat = (
            input_ids,
            mask[:, :past].to(torch.int64),
            mask[:, past:].to(torch.int64),
            positions.expand(count, length),
            *self._seen(cache, past, count),
        )
        logits, *states = self.runner.flat(*(tensor.detach().contiguous() for tensor in flat))
        if given.get("use_cache") is not False:
            _fill(cache, states)
        return self._output(logits, cache, given)

    def _seen(self, cache: Any, past: int, count: int) -> list[Tensor]:
        """The keys and values of the tokens that were seen, in the order of the runner's inputs."""
        if past:
            states = [layer.keys for layer in cache.layers] + [layer.values for layer in cache.layers]
            if all(state.shape[2] == past for state in states):
                return states
            raise InputError("its cache keeps a part of the tokens")
        shapes = (self.runner.shapes or ())[FIRST_KEYS:]
        return [torch.zeros(count, int(shape[1].most), 0, int(shape[3].most)) for shape in shapes]

    def _output(self, logits: Tensor, cache: Any, given: Mapping[str, Any]) -> Any:
        from transformers.modeling_outputs import CausalLMOutputWithPast

        model: Any = self.model
        labels, loss = given.get("labels"), None
        if labels is not None:
            loss = model.loss_function(logits=logits, labels=labels, vocab_size=model.config.vocab_size)
        kept = given.get("logits_to_keep")
        kept = 0 if kept is None else kept
        logits = logits[:, -kept:] if isinstance(kept, int) else logits[:, kept]
        caches = {} if given.get("use_cache") is False else {"past_key_values": cache}
        kind: Any = CausalLMOutputWithPast
        return kind(loss=loss, logits=logits.clone(), **caches)


def _says(value: Any) -> bool:
    """Whether an argument asks for something: None and False do not."""
    return value is not None and value is not False


def _fill(cache: Any, states: list[Tensor]) -> None:
    """Puts keys and values into a cache in place."""
    from transformers.cache_utils import DynamicLayer

    half = len(states) // 2
    kind: Any = DynamicLayer
    cache.layers = [kind() for _ in range(half)]
    for layer, keys, values in zip(cache.layers, states[:half], states[half:], strict=True):
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values


@dataclass(frozen=True)
class _Calls:
    """Calls of a decoder with its cache: each batch of tokens after its first one, and after half of them."""

    decoder: _WithCache
    batches: Loader

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for batch in self.batches:
            ids, mask = tokens_of(batch)
            count = ids.shape[1]
            if count < LEAST:
                raise InputError(f"a batch has {count} tokens; give {LEAST} or more, as (N, tokens)")
            places = torch.arange(count).expand(ids.shape)
            for seen in (count // 2, 1):
                keys, values = self.states(ids[:, :seen], mask[:, :seen])
                masks = mask[:, :seen], mask[:, seen:]
                yield ids[:, seen:], *masks, places[:, seen:].contiguous(), keys, values

    def states(self, ids: Tensor, mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The keys and the values of all layers after these tokens."""
        try:
            with torch.no_grad():
                cache = self.decoder.model(input_ids=ids, attention_mask=mask, use_cache=True).past_key_values
            return [layer.keys for layer in cache.layers], [layer.values for layer in cache.layers]
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise InputError(
                f"the model is no decoder with a cache of transformers: {reason}; give parts='auto'"
            ) from error

    def flat(self) -> Iterator[tuple[Tensor, ...]]:
        """The calls as tensors in order."""
        for *tensors, keys, values in self:
            yield (*tensors, *keys, *values)


def tokens_of(batch: Batch) -> tuple[Tensor, Tensor]:
    """The token numbers (N, T) in a batch of any form, and their mask, by default of ones."""
    given = batch
    while isinstance(given, tuple | list) and given:
        given = given[0]
    ids = given.get("input_ids") if isinstance(given, Mapping) else given
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.dim() != 2:
        raise InputError("a batch has no token numbers; give a tensor (N, tokens), or a dict with input_ids")
    mask = given.get("attention_mask") if isinstance(given, Mapping) else None
    return ids, torch.ones_like(ids) if mask is None else mask.to(ids.dtype)


def decoder_program(
    model: nn.Module, calibration: Loader, method: str, engine: str, options: Options
) -> Program:
    """A decoder with its cache as a quantized Program.

    It is calibrated on each batch of token numbers (N, T) twice, after the first token and after half of
    them, with the cache that these leave. Raises InputError for a model that is no decoder of transformers,
    for batches without tokens, and for an engine that takes one size of inputs.
    """
    if engine == "torch":
        raise InputError("a cache grows, and the torch engine takes one size; give openvino or onnxruntime")
    decoder = _WithCache(float_on_cpu(model))
    calls = _Calls(decoder, calibration)
    first = next(iter(calls), None)
    if first is None:
        raise InputError("the calibration data is empty; give at least one batch")
    with warnings.catch_warnings(action="ignore", category=InputWarning):  # of heads and widths, which stay
        program = capture(decoder, first, free_sizes=True)
    for length, past in ((1, first[1].shape[1]), (2, 0)):  # of a token after others, and of the first ones
        sizes = (length, past, length, length)
        call = [tensor[:1, :size] for tensor, size in zip(first[:4], sizes, strict=True)]
        states = ([state[:1, :, :past] for state in part] for part in first[4:])
        _check(decoder, program, (*call, *states))
    return quantize_on(program, calls.flat, method, engine, options)


def _check(decoder: _WithCache, program: Program, call: tuple[Any, ...]) -> None:
    """Raises InputError if the Program computes something else than the decoder on a call."""
    with torch.no_grad():
        logits, *states = decoder(*call)
    found = program.flat(*flatten(call)[0].values())
    if not same([logits, *(state for part in states for state in part)], list(found)):
        sizes = f"{call[0].shape[1]} tokens after {call[1].shape[1]}"
        raise InputError(f"the captured decoder computes something else on {sizes}; give parts='auto'")


def perplexity(model: nn.Module, batches: Loader) -> float:
    """The perplexity of the task language-modelling, of tokens that are not padded; NaN without any."""
    score = Score(LANGUAGE.metrics[0])
    with torch.no_grad():
        for batch in batches:
            ids, mask = tokens_of(batch)
            logits = model(input_ids=ids, attention_mask=mask).logits
            score.add(logits, ids.masked_fill(mask == 0, IGNORED))
    value = score.value()
    return math.nan if value is None else value


def generation(model: nn.Module, batch: Batch, tokens: int) -> Any:
    """Generates so many tokens, greedily, after the first half of the first item of a batch."""
    ids, mask = tokens_of(batch)
    half = max(1, ids.shape[1] // 2)
    given: Any = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
    generate: Any = model.generate
    return generate(input_ids=ids[:1, :half], attention_mask=mask[:1, :half], **given)
