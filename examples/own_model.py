"""Your own model and data: any nn.Module, and any iterable of batches.

The command line takes this file, too:
zeropoint compare examples/own_model.py:make_model --data examples/own_model.py:make_loaders
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import zeropoint as zp


def make_model():
    """A small network, trained for a few seconds."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(10):
        for images, labels in make_loaders()["train"]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
    return network.eval()


def make_loaders():
    """The parts of the data, each a list of batches; a DataLoader does as well."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    batches = list(zip(images.split(64), torch.tensor(labels).split(64), strict=True))
    train, evaluation = batches[:20], batches[20:]
    return {"calibration": [images for images, _ in train[:4]], "train": train, "evaluation": evaluation}


if __name__ == "__main__":
    model, loaders = make_model(), make_loaders()
    program = zp.capture(model, loaders["calibration"][0])
    quantized = zp.quantize(program, "static", calibration=loaders["calibration"])
    for name, run in {"float32": program, "int8": quantized}.items():
        print(f"{name}: top-1 {zp.evaluate(run, loaders['evaluation']).accuracy.top1:.2%}")
