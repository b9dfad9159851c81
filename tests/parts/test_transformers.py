"""Parts of transformers' models: an encoder-decoder that generates, and two towers."""

import pytest
import torch
from networks import options, sqnr

import zeropoint as zp
from zeropoint.errors import InputWarning
from zeropoint.models.vision import torchvision

torchvision()  # which transformers imports, and which fails beside the CPU-only torch unless it is prepared
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow  # an encoder is captured and quantized


def tokens(length: int, seed: int = 0) -> dict[str, torch.Tensor]:
    ids = torch.randint(2, 59, (2, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.fixture(scope="module")
def t5():
    torch.manual_seed(0)
    small = {"vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    config = transformers.T5Config(**small, decoder_start_token_id=0)
    return transformers.T5ForConditionalGeneration(config).eval()


def generate(model, batch):
    return model.generate(**batch, max_new_tokens=6, min_new_tokens=6, do_sample=False)


def test_an_encoder_on_the_engine_generates_the_same_tokens_also_after_loading(t5, tmp_path):
    batches = [tokens(9), tokens(12, 1)]
    parts = zp.quantize_parts(t5, batches, method="fp32", parts="encoder", run=generate)
    (encoder,) = parts.parts
    assert encoder.calls == 2
    assert [one.equal for one in parts.outputs] == [1.0]
    parts.save(tmp_path)
    loaded = zp.load_parts(t5, tmp_path)
    for batch in [*batches, tokens(7, 2)]:
        wanted = generate(t5, batch)
        assert torch.equal(generate(parts.model, batch), wanted)
        assert torch.equal(generate(loaded.model, batch), wanted)


def test_what_writes_into_the_cache_stays_and_the_layers_in_it_are_parts(t5):
    parts = zp.quantize_parts(t5, [tokens(9), tokens(12, 1)], run=generate, options=options())
    block = "decoder.block.0.layer"
    attention = [f"{block}.{at}.{one}" for at, one in ((0, "SelfAttention"), (1, "EncDecAttention"))]
    layers = [f"{name}.{letter}" for name in attention for letter in "qkvo"]
    assert {part.name for part in parts.parts} == {"encoder", *layers, f"{block}.2", "lm_head"}
    refused = {one.name: one.reason for one in parts.refused}
    assert refused.keys() == {"", "decoder", "decoder.block.0", f"{block}.0", f"{block}.1", *attention}
    assert set(refused.values()) == {"it writes into its arguments, as into a cache"}
    assert all(part.sqnr_db > 30 for part in parts.parts)
    assert parts.share > 0.9
    inputs = {**tokens(10, 3), "decoder_input_ids": tokens(4)["input_ids"]}
    with torch.no_grad(), pytest.warns(InputWarning, match="runs in float on such calls"):
        assert sqnr(t5(**inputs).logits, parts.model(**inputs).logits) > 25


def test_two_towers_with_methods_of_their_own():
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = {**small, "vocab_size": 60, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 59}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=16
    )
    model = transformers.CLIPModel(config).eval()
    images = [torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    batches = [tokens(10, seed) | {"pixel_values": image} for seed, image in enumerate(images)]
    parts = zp.quantize_parts(model, batches, parts=["vision_model", "text_model"], options=options())
    assert [part.name for part in parts.parts] == ["text_model", "vision_model"]
    assert min(one.sqnr_db for one in parts.outputs) > 25
    with torch.no_grad():
        (wanted, found) = (one.get_image_features(pixel_values=images[0]) for one in (model, parts.model))
    assert type(found) is type(wanted)
    assert 25 < sqnr(wanted.pooler_output, found.pooler_output) < 80
