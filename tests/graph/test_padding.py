"""Padded places in ``nn.TransformerEncoder``, whose eval mode sets them to zero."""

import pytest
import torch
from torch import nn

from zeropoint.graph.capture import capture


class Averaging(nn.Module):
    """An encoder whose outputs are averaged over all tokens, padded ones too; (N, T, 16) to (N, 16)."""

    def __init__(self, call: str, norm: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16) if norm else None)
        self.call = call
        if norm:
            nn.init.normal_(self.encoder.norm.bias)  # what the norm makes of a zero

    def forward(self, x, padding):
        """The averages."""
        if self.call == "positional":
            return self.encoder(x, None, padding).mean(1)
        return self.encoder(x, src_key_padding_mask=padding).mean(1)


@pytest.mark.slow
@pytest.mark.parametrize(("call", "norm"), [("positional", False), ("keyword", True)])
def test_padded_places_are_as_in_the_model(call, norm):
    torch.manual_seed(0)
    model, x = Averaging(call, norm).eval(), torch.randn(3, 7, 16)
    padding = torch.arange(7)[None] > torch.tensor([[3], [6], [1]])
    program = capture(model, (x, padding))
    other = torch.arange(7)[None] > torch.tensor([[2], [5]])
    for inputs in ((x, padding), (x[:2], other)):
        with torch.no_grad():
            torch.testing.assert_close(program(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)


def test_an_encoder_without_a_mask_is_left_alone():
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2).eval()
    x = torch.randn(3, 7, 16)
    operators = {str(node.target) for node in capture(model, x).module.graph.nodes}
    assert not any("masked_fill" in name for name in operators)
