"""Speech recognition with CTC: words made of two tones each, in noise. For the command line:

    zeropoint compare speech.py:make_model --data speech.py:make_loaders --task speech-recognition \
        --methods fp32,static --engines openvino,onnxruntime
"""

import torch
from torch import Tensor, nn

import zeropoint as zp

TONES = [(0, 0), (300, 2300), (700, 1100), (450, 800), (350, 600), (550, 1700)]  # Hz, of each word
RATE, LENGTH, LONGEST = 8000, 2048, 5  # samples a second and a word; words in a sound


class Recognizer(nn.Sequential):
    """Spectrograms (N, F, T) to scores (N, T, C) of the words; class 0 is CTC's blank."""

    def forward(self, frames: Tensor) -> Tensor:
        """The scores, one for two frames."""
        first, conv, second, gru, scores = self
        return scores(gru(second(conv(first(frames))).relu().transpose(1, 2))[0])


def batches(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Logarithmic spectrograms of 2 to 5 words, and the words, padded with 0."""
    draw = torch.Generator().manual_seed(seed)
    words = torch.randint(1, len(TONES), (16 * count, LONGEST), generator=draw)
    words[torch.arange(LONGEST) >= torch.randint(2, LONGEST + 1, (len(words), 1), generator=draw)] = 0
    cycles = torch.tensor(TONES)[words][..., None] * torch.arange(LENGTH) / RATE
    waves = ((2 * torch.pi * cycles).sin().sum(2) * torch.hann_window(LENGTH)).flatten(1)
    waves += 0.8 * torch.randn(waves.shape, generator=draw)
    spectra = torch.stft(waves, 128, 160, window=torch.hann_window(128), return_complex=True).abs()
    return list(zip(spectra.clamp(min=1e-3).log().split(16), words.split(16), strict=True))


def make_model() -> nn.Module:
    torch.manual_seed(0)
    convolution = nn.BatchNorm1d(65), nn.Conv1d(65, 48, 5, 2, 2), nn.BatchNorm1d(48)
    model = Recognizer(*convolution, nn.GRU(48, 48, batch_first=True), nn.Linear(48, len(TONES)))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for frames, words in 4 * batches(40, seed=0):
        scores, lengths = model(frames).log_softmax(-1).transpose(0, 1), (words > 0).sum(1)
        loss = nn.functional.ctc_loss(scores, words, torch.full_like(lengths, len(scores)), lengths)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def make_loaders() -> dict[str, list[tuple[Tensor, Tensor]]]:
    return {"calibration": batches(4, seed=1), "evaluation": batches(8, seed=2)}


if __name__ == "__main__":
    data = zp.Loaders("words", **make_loaders())
    program = zp.capture(make_model(), data.evaluation[0][0])
    what = {"methods": ["fp32", "static"], "engines": ["openvino", "onnxruntime"]}
    for row in zp.compare(program, data, out="runs/words", task="speech-recognition", **what).rows:
        print(f"{row.name}: WER {row.values['WER']:.2%}")
