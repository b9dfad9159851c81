"""Decoders of transformers, unedited: they give back a cache, and take weights in groups."""

import pytest
import torch
from networks import options, sqnr

import zeropoint as zp
from zeropoint.models.vision import torchvision

torchvision()  # which transformers imports, and which fails beside the CPU-only torch unless it is prepared
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow  # a decoder is captured, and lowered twice


def test_a_decoder_gives_its_cache_and_takes_grouped_weights_on_the_engines():
    torch.manual_seed(0)
    small = {"vocab_size": 60, "n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 32}
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**small, bos_token_id=0, eos_token_id=1)
    ).eval()
    assert model.config.use_cache
    tokens = torch.randint(0, 60, (2, 16), generator=torch.Generator().manual_seed(0))
    program = zp.capture(model, {"input_ids": tokens}, free_sizes=True)
    shorter = tokens[:, :11]
    with torch.no_grad():
        wanted = model(input_ids=shorter)
    found = program(input_ids=shorter)
    assert type(found) is type(wanted)
    torch.testing.assert_close(found.logits, wanted.logits)
    (keys, own) = (one.past_key_values.layers[0].keys for one in (wanted, found))
    torch.testing.assert_close(own, keys)
    for bits, least in (("W8A8", 40), ("W4A8", 15)):
        chosen = options(weight_granularity="per-group", group_size=32).at(bits)
        quantized = zp.quantize(program, "weight-only", calibration=[{"input_ids": tokens}], options=chosen)
        for engine in ("openvino", "onnxruntime"):
            found = zp.compile(quantized, engine, threads=1)(input_ids=shorter)
            assert least < sqnr(wanted.logits, found.logits) < 60
            assert sqnr(keys, found.past_key_values.layers[0].keys) > least
