"""Regression on a table of scikit-learn, with a metric of your own. For the command line:

    zeropoint compare regression.py:make_model --data regression.py:make_loaders --task regression \
        --metric MAE --metric regression.py:within_fifty --max-drop 1%
"""

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import zeropoint as zp


def tables() -> tuple[TensorDataset, TensorDataset]:
    """Rows of ten numbers with the disease's progress a year later: 300 to train on, and 142."""
    inputs, targets = (torch.tensor(part).float() for part in load_diabetes(return_X_y=True))
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    parts = order[:300], order[300:]
    train, test = (TensorDataset(20 * inputs[part], targets[part]) for part in parts)
    return train, test


def make_model() -> nn.Module:
    torch.manual_seed(0)
    inputs, targets = tables()[0].tensors
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), 0.01, weight_decay=0.01)
    for _ in range(200):
        loss = (model(inputs).squeeze(1) - targets).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def make_loaders() -> dict[str, DataLoader]:
    train, test = tables()
    return {"calibration": DataLoader(train, 50), "evaluation": DataLoader(test, 50)}


def within_fifty(outputs: Tensor, targets: Tensor) -> Tensor:
    """A value for each sample: 1 if the error is below 50, else 0. Higher is better."""
    return ((outputs.squeeze(1) - targets).abs() < 50).float()


def main() -> None:
    loaders = make_loaders()
    inputs, _ = next(iter(loaders["evaluation"]))
    program = zp.capture(make_model(), inputs)
    quantized = zp.quantize(program, calibration=[batch for batch, _ in loaders["calibration"]])
    for name, run in (("float32", program), ("int8", zp.compile(quantized, "openvino"))):
        metrics = ["MAE", within_fifty]
        evaluation = zp.evaluate(run, loaders["evaluation"], task="regression", metrics=metrics)
        mae, near = evaluation.values["MAE"], evaluation.values["within_fifty"]
        print(f"{name}: MAE {mae:.2f}, within fifty {near:.1%}")


if __name__ == "__main__":
    main()
