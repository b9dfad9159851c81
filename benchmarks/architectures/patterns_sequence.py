"""Plain patterns of networks for text, sound and time series."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import weight_norm as old_weight_norm
from torch.nn.utils.parametrizations import weight_norm

from .spec import Architecture, Inputs, Noise, tokens

WIDTH = 32


class TemporalBlock(nn.Module):
    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.layer, self.padding = nn.Conv1d(WIDTH, WIDTH, 3, dilation=dilation), (2 * dilation, 0)
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.norm(self.layer(F.pad(x, self.padding))))


def _tcn() -> nn.Module:
    blocks = [TemporalBlock(2**i) for i in range(4)]
    return nn.Sequential(nn.Conv1d(4, WIDTH, 1), *blocks, nn.Conv1d(WIDTH, 2, 1))


class Wavenet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, WIDTH, 1)
        self.layers = nn.ModuleList(
            [old_weight_norm(nn.Conv1d(WIDTH, 2 * WIDTH, 2, dilation=2**i)) for i in range(4)]
        )
        self.mix = nn.ModuleList([nn.Conv1d(WIDTH, 2 * WIDTH, 1) for _ in range(4)])
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(WIDTH, WIDTH, 1), nn.ReLU(), nn.Conv1d(WIDTH, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.first(x), None
        for number, (layer, mix) in enumerate(zip(self.layers, self.mix, strict=True)):
            a, b = layer(F.pad(x, (2**number, 0))).chunk(2, 1)
            skip, rest = mix(torch.tanh(a) * torch.sigmoid(b)).split(WIDTH, 1)
            x, total = x + rest, skip if total is None else total + skip
        return self.head(total)


class Vocoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = (
            weight_norm(nn.Conv1d(20, 64, 7, padding=3)),
            weight_norm(nn.Conv1d(16, 1, 7, padding=3)),
        )
        self.ups = nn.ModuleList(
            [weight_norm(nn.ConvTranspose1d(64 // 2**i, 32 // 2**i, 8, 4, 2)) for i in range(2)]
        )
        self.inner = nn.ModuleList(
            [weight_norm(nn.Conv1d(32 // 2**i, 32 // 2**i, 3, padding=3, dilation=3)) for i in range(2)]
        )

    def forward(self, mel: Tensor) -> Tensor:
        x = self.first(mel)
        for up, inner in zip(self.ups, self.inner, strict=True):
            x = up(F.leaky_relu(x, 0.1))
            x = x + inner(F.leaky_relu(x, 0.1))
        return torch.tanh(self.last(F.leaky_relu(x)))


class Conformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.project, self.norm1 = nn.Linear(8 * 8, WIDTH), nn.LayerNorm(WIDTH)
        self.feed = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 64), nn.SiLU(), nn.Linear(64, WIDTH))
        self.attention, self.norm2 = nn.MultiheadAttention(WIDTH, 4, batch_first=True), nn.LayerNorm(WIDTH)
        self.gate, self.out = nn.Conv1d(WIDTH, 2 * WIDTH, 1), nn.Conv1d(WIDTH, WIDTH, 1)
        self.depthwise, self.norm3 = (
            nn.Conv1d(WIDTH, WIDTH, 7, padding=3, groups=WIDTH),
            nn.BatchNorm1d(WIDTH),
        )
        self.head = nn.Linear(WIDTH, 20)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.stem(mel.unsqueeze(1))
        x = self.project(x.permute(0, 2, 1, 3).flatten(2))
        x = x + 0.5 * self.feed(x)
        y = self.norm1(x)
        x = x + self.attention(y, y, y)[0]
        y = F.glu(self.gate(self.norm2(x).transpose(1, 2)), 1)
        x = x + self.out(F.silu(self.norm3(self.depthwise(y)))).transpose(1, 2)
        return self.head(x + 0.5 * self.feed(x)).log_softmax(-1)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = (
            nn.Embedding(100, WIDTH),
            nn.LSTM(WIDTH, WIDTH, 2, batch_first=True, bidirectional=True),
        )
        self.head = nn.Linear(2 * WIDTH, 8)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(ids))[0])


class RecurrentWithState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(16, WIDTH, batch_first=True), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x, state = self.gru(x, state)
        return self.head(x[:, -1]), state


class CellLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(16, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        for step in x.unbind(1):
            h, c = self.cell(step, (h, c))
        return self.head(h), h, c


class Elman(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.RNN(16, WIDTH, nonlinearity="relu"), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


class TextCnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, WIDTH, padding_idx=0)
        self.widths = nn.ModuleList([nn.Conv1d(WIDTH, 16, k) for k in (2, 3, 4)])
        self.head = nn.Linear(48, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids).transpose(1, 2)
        return self.head(torch.cat([F.relu(layer(x)).amax(-1) for layer in self.widths], 1))


class Encoder(nn.Module):
    def __init__(self, *, first: bool = True, mask: bool = False) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 64, batch_first=True, norm_first=first, activation="gelu"
        )
        self.embed, self.place = nn.Embedding(100, WIDTH), nn.Parameter(torch.randn(1, 16, WIDTH) * 0.1)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head, self.mask = nn.Linear(WIDTH, 5), mask

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.place
        return self.head(self.layers(x, src_key_padding_mask=ids == 0 if self.mask else None)[:, 0])


def _masked_encoder() -> nn.Module:
    return Encoder(first=False, mask=True)


class EncoderDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(100, WIDTH), nn.Linear(WIDTH, 100)
        self.layers = nn.Transformer(WIDTH, 4, 1, 1, 64, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.head(self.layers(self.embed(source), self.embed(target), tgt_mask=causal))


class Attention(nn.Module):
    """Attention as language models have it: rotated, grouped, causal, with RMS norm and a gated layer."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64, bias=False)
        self.norm, self.after = nn.RMSNorm(64), nn.RMSNorm(64)
        self.gate, self.up, self.down = nn.Linear(64, 128), nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        y = self.norm(x)
        q = self.q(y).view(batch, length, 4, 16).transpose(1, 2)
        k, v = self.kv(y).view(batch, length, 2, 2, 16).permute(2, 0, 3, 1, 4).unbind(0)
        angle = torch.arange(length)[:, None] * torch.exp(-torch.arange(8) / 8 * math.log(1e4))
        cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()
        q, k = (t * cos + torch.cat([-t[..., 8:], t[..., :8]], -1) * sin for t in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, 64))
        y = self.after(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class LinearAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        state = torch.einsum("bhnd,bhne->bhde", k, v)
        norm = torch.einsum("bhnd,bhd->bhn", q, k.sum(2)).unsqueeze(-1)
        return x + self.out((torch.einsum("bhnd,bhde->bhne", q, state) / norm).transpose(1, 2).flatten(2))


class Recurrence(nn.Module):
    """A state-space layer: gates, and a recurrence that is unrolled."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mix = nn.Conv1d(WIDTH, WIDTH, 4, groups=WIDTH, padding=3)
        self.decay = nn.Parameter(torch.rand(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        u, step, gate = self.inner(x).chunk(3, -1)
        u = F.silu(self.mix(u.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        keep = torch.exp(-F.softplus(step) * self.decay)
        state, out = torch.zeros_like(u[:, 0]), []
        for i in range(x.shape[1]):
            state = keep[:, i] * state + (1 - keep[:, i]) * u[:, i]
            out.append(state)
        return x + self.out(torch.stack(out, 1) * F.silu(gate))


class LongConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.filters, self.out = nn.Parameter(torch.randn(WIDTH, 64) * 0.1), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        spectrum = torch.fft.rfft(x.transpose(1, 2), n=2 * length) * torch.fft.rfft(
            self.filters, n=2 * length
        )
        return self.out(F.gelu(torch.fft.irfft(spectrum, n=2 * length)[..., :length].transpose(1, 2)))


class Relative(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.bias = nn.Linear(WIDTH, 96), nn.Linear(WIDTH, WIDTH), nn.Embedding(31, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        place = torch.arange(x.shape[1])
        distance = (place[:, None] - place).clamp(-15, 15) + 15
        scores = q @ k.transpose(-1, -2) / math.sqrt(8) + self.bias(distance).permute(2, 0, 1)
        scores = scores.masked_fill(place[:, None] < place, float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Perceiver(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 8, WIDTH))
        self.cross, self.norm = (
            nn.MultiheadAttention(WIDTH, 2, batch_first=True, kdim=16, vdim=16),
            nn.LayerNorm(WIDTH),
        )
        self.mlp, self.head = (
            nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH)),
            nn.Linear(WIDTH, 6),
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        queries = self.queries.expand(x.shape[0], -1, -1)
        y = queries + self.cross(queries, x, x, key_padding_mask=mask == 0)[0]
        return self.head((y + self.mlp(self.norm(y))).mean(1))


class Forecast(nn.Module):
    """N-BEATS: blocks that subtract what they explain."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 60))
                for _ in range(3)
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        mean, spread = x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-5
        x, total = (x - mean) / spread, x.new_zeros(x.shape[0], 12)
        for block in self.blocks:
            past, future = block(x).split([48, 12], 1)
            x, total = x - past, total + future
        return total * spread + mean


class Ocr(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1)]
        self.body = nn.Sequential(*layers, nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d((4, 2)))
        self.rnn, self.head = nn.LSTM(64, 32, bidirectional=True), nn.Linear(64, 20)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).permute(3, 0, 1, 2).flatten(2)
        return self.head(self.rnn(x)[0]).log_softmax(2)


class Enhancer(nn.Module):
    """A mask on a learned spectrum of sound, and back to sound."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = (
            nn.Conv1d(1, 64, 16, 8, bias=False),
            nn.ConvTranspose1d(64, 1, 16, 8, bias=False),
        )
        self.norm, self.mask = (
            nn.GroupNorm(1, 64),
            nn.Sequential(nn.Conv1d(64, 64, 1), nn.PReLU(64), nn.Conv1d(64, 128, 1)),
        )

    def forward(self, sound: Tensor) -> Tensor:
        x = F.relu(self.encode(sound))
        masks = self.mask(self.norm(x)).view(x.shape[0], 2, 64, -1).softmax(1)
        return self.decode((x.unsqueeze(1) * masks).flatten(0, 1)).view(x.shape[0], 2, -1)


def patterns() -> list[Architecture]:
    table: dict[str, tuple[object, Inputs]] = {
        "tcn": (_tcn, (Noise((4, 64)),)),
        "wavenet-weight-norm": (Wavenet, (Noise((1, 128)),)),
        "vocoder-weight-norm": (Vocoder, (Noise((20, 24)),)),
        "conformer": (Conformer, (Noise((64, 32)),)),
        "lstm-tagger": (Tagger, (tokens(12, 100),)),
        "recurrent-with-state": (RecurrentWithState, (Noise((8, 16)), Noise((1, WIDTH), batch=1))),
        "lstm-cell-loop": (CellLoop, (Noise((6, 16)), Noise((WIDTH,)), Noise((WIDTH,)))),
        "rnn-time-first": (Elman, (Noise((8, 16), batch=1),)),
        "text-cnn": (TextCnn, (tokens(24, 200),)),
        "transformer-encoder": (Encoder, (tokens(16, 100),)),
        "transformer-encoder-padded": (_masked_encoder, (tokens(16, 5),)),
        "transformer": (EncoderDecoder, (tokens(16, 100), tokens(12, 100))),
        "llama-like-block": (Attention, (Noise((16, 64)),)),
        "linear-attention": (LinearAttention, (Noise((24, WIDTH)),)),
        "state-space": (Recurrence, (Noise((12, WIDTH)),)),
        "long-convolution-fft": (LongConvolution, (Noise((64, WIDTH)),)),
        "relative-attention": (Relative, (Noise((16, WIDTH)),)),
        "perceiver": (Perceiver, (Noise((20, 16)), Noise((20,), 1))),
        "forecast": (Forecast, (Noise((48,)),)),
        "ocr": (Ocr, (Noise((1, 16, 64)),)),
        "speech-separation": (Enhancer, (Noise((1, 512)),)),
    }
    return [Architecture(f"pattern/{name}", build, inputs) for name, (build, inputs) in table.items()]
