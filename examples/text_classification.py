"""Text classification by a small BERT: does the verb agree with its noun? As a command:

    zeropoint compare text_classification.py:make_model --data text_classification.py:make_loaders \
        --task text-classification --methods fp32,static --engines openvino,onnxruntime
"""

import random

import torch
from torch import Tensor, nn

import zeropoint as zp
from zeropoint.models.vision import torchvision

torchvision()  # transformers imports it, which fails where its compiled operators are missing, but for this
from transformers import BertConfig, BertForSequenceClassification  # noqa: E402

NOUNS = [("cat", "cats"), ("child", "children"), ("bird", "birds"), ("farmer", "farmers"), ("fox", "foxes")]
VERBS, PLACES = [("sleeps", "sleep"), ("runs", "run"), ("sings", "sing")], ["near", "behind", "above"]
WORDS, LONGEST = ["[PAD]", "the", *PLACES, *(word for pair in NOUNS + VERBS for word in pair)], 12


def sentence(draw: random.Random) -> tuple[list[int], int]:
    """The tokens of a sentence such as "the cats near the dog sleep", and 1 if it is right, else 0."""
    numbers, verb = [draw.randrange(2) for _ in range(draw.randint(1, 4))], draw.randrange(2)
    words = [word for number in numbers for word in (draw.choice(PLACES), "the", draw.choice(NOUNS)[number])]
    tokens = [WORDS.index(word) for word in [*words[1:], draw.choice(VERBS)[verb]]]
    return tokens + [0] * (LONGEST - len(tokens)), int(verb == numbers[0])


def batches(count: int, seed: int) -> list[dict[str, Tensor]]:
    draw = random.Random(seed)
    pairs = (zip(*(sentence(draw) for _ in range(32)), strict=True) for _ in range(count))
    made = [{"input_ids": torch.tensor(x), "labels": torch.tensor(labels)} for x, labels in pairs]
    return [{"attention_mask": (one["input_ids"] > 0).long(), **one} for one in made]


def make_model() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 64, "initializer_range": 0.25}
    config = BertConfig(num_hidden_layers=2, num_attention_heads=2, **sizes)
    model = BertForSequenceClassification(config).eval()  # trained so: dropout keeps it from learning
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for batch in batches(300, seed=0):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    return model


def make_loaders() -> dict[str, list[dict[str, Tensor]]]:
    return {"calibration": batches(8, seed=1), "evaluation": batches(16, seed=2)}


if __name__ == "__main__":
    data = zp.Loaders("sentences", **make_loaders())
    what = {"methods": ["fp32", "static"], "engines": ["openvino", "onnxruntime"]}
    program = zp.capture(make_model(), data.evaluation[0])
    for row in zp.compare(program, data, out="runs/text", task="text-classification", **what).rows:
        print(f"{row.name}: top-1 {row.values['top-1']:.2%}")
