"""Language models on an engine with their key-value cache generate the same tokens, also in beams."""

import math
import warnings

import pytest
import torch
from networks import options

import zeropoint as zp
from zeropoint.errors import InputError, InputWarning
from zeropoint.graph.capture import capture
from zeropoint.models.vision import torchvision
from zeropoint.parts.compare import compare_parts
from zeropoint.parts.decoder import perplexity

torchvision()  # which transformers imports, and which fails beside the CPU-only torch unless it is prepared
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow  # a decoder is captured


def tokens(length: int, seed: int = 0, count: int = 2) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 100, (count, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def decoder(kind: str, layers: int = 1, **more: object):
    torch.manual_seed(0)
    small = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.AutoConfig.for_model(kind, **small, **heads, **ends, **more)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module")
def llama():
    """A decoder that is captured once for all tests that quantize it."""
    made, captured = decoder("llama"), []

    def once(model, *example, **how):
        copied = model.model
        same_kind = copied.config.to_dict() == made.config.to_dict()
        if not same_kind or not torch.equal(copied.lm_head.weight, made.lm_head.weight):
            return capture(model, *example, **how)
        if not captured:
            captured.append(capture(model, *example, **how))
        return captured[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zeropoint.parts.decoder.capture", once)
        yield made


def generate(model, batch, **how):
    return model.generate(**batch, max_new_tokens=8, min_new_tokens=8, do_sample=False, **how)


BATCHES = [tokens(12), tokens(17, 1)]


@pytest.mark.parametrize(("engine", "layers"), [("openvino", 2), ("onnxruntime", 1)])
def test_the_same_tokens_are_generated_also_after_loading(engine, layers, llama, tmp_path):
    llama = llama if layers == 1 else decoder("llama", layers)
    parts = zp.quantize_parts(llama, BATCHES, method="fp32", engine=engine, parts="decoder")
    assert parts.sqnr_db > 100
    parts.save(tmp_path / "saved")
    loaded = zp.load_parts(llama, tmp_path / "saved")
    padded = tokens(9, 3)
    padded["attention_mask"][0, :4] = 0  # on the left, as for generation
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)  # of calls that run in float
        for batch in (BATCHES[0], tokens(5, 2, count=1), padded):
            for how in ({}, {"num_beams": 2}):
                wanted = generate(llama, batch, **how)
                assert torch.equal(generate(parts.model, batch, **how), wanted)
        assert torch.equal(generate(loaded.model, padded), generate(llama, padded))


def test_calls_with_labels_without_a_cache_and_others():
    model = decoder("mistral", sliding_window=8)  # whose cache keeps a part of the tokens by itself
    parts = zp.quantize_parts(model, BATCHES, method="fp32", parts="decoder")
    with torch.no_grad():
        wanted, found = (
            one(**BATCHES[1], labels=BATCHES[1]["input_ids"], use_cache=False) for one in (model, parts.model)
        )
        torch.testing.assert_close(found.loss, wanted.loss)
        torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-5)
        assert found.past_key_values is None
        last = parts.model(BATCHES[1]["input_ids"], logits_to_keep=1).logits
        torch.testing.assert_close(last, wanted.logits[:, -1:], rtol=1e-4, atol=1e-5)
        assert torch.equal(generate(parts.model, BATCHES[0]), generate(model, BATCHES[0]))
        with pytest.warns(
            InputWarning, match="runs in float on such calls: it is given output_hidden_states"
        ):
            parts.model(**BATCHES[0], output_hidden_states=True)


def test_a_model_in_bfloat16_is_computed_in_float32():
    model = decoder("llama").bfloat16()
    parts = zp.quantize_parts(model, BATCHES, method="fp32", engine="onnxruntime", parts="decoder")
    with torch.no_grad():
        wanted = decoder("llama").bfloat16().float()(**BATCHES[0]).logits
        torch.testing.assert_close(parts.model(**BATCHES[0]).logits, wanted, rtol=1e-3, atol=1e-3)
    assert generate(parts.model, BATCHES[0]).shape == (2, 20)


def test_weights_of_four_bits_and_integers(llama):
    groups = options(weight_bits=4, weight_granularity="per-group")
    for method, chosen, least in (
        ("weight-only", groups, 12),
        ("static", options(), 20),
    ):
        parts = zp.quantize_parts(llama, BATCHES, method=method, parts="decoder", options=chosen)
        assert least < parts.sqnr_db < 70
        float32 = perplexity(llama, BATCHES)
        assert abs(perplexity(parts.model, BATCHES) / float32 - 1) < 0.1


def test_perplexity_by_hand():
    class Uneven(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            logits = torch.zeros(*input_ids.shape, 4)
            logits[..., 1] = math.log(5)  # token 1 has 5 / 8, each other one 1 / 8
            return transformers.modeling_outputs.CausalLMOutput(logits=logits)

    batch = {"input_ids": torch.tensor([[0, 1, 2, 3]]), "attention_mask": torch.tensor([[1, 1, 1, 0]])}
    assert perplexity(Uneven(), [batch]) == pytest.approx(math.sqrt(8 / 5 * 8))


def test_a_table_has_perplexity_and_tokens_a_second(llama):
    rows = compare_parts(
        llama, BATCHES, BATCHES, methods=["dynamic"], engines=["openvino", "torch"], parts="decoder"
    )
    assert [row.error is None for row in rows] == [True, True, False]
    assert rows[0].perplexity == pytest.approx(perplexity(llama, BATCHES))
    assert rows[1].perplexity == pytest.approx(rows[0].perplexity, rel=0.05)
    assert 25 < rows[1].sqnr_db < 70
    assert rows[1].tokens_per_second > 0


@pytest.mark.parametrize(
    ("model", "batches", "message"),
    [
        (lambda: decoder("llama"), [torch.randn(2, 8)], "the model fails on a batch of the calibration data"),
        (lambda: decoder("llama"), [tokens(3)], "a batch has 3 tokens; give 4 or more"),
        (lambda: torch.nn.Embedding(100, 4), [tokens(8)["input_ids"]], "is no decoder with a cache"),
    ],
)
def test_what_cannot_be(model, batches, message):
    with pytest.raises(InputError, match=message):
        zp.quantize_parts(model(), batches, parts="decoder")
