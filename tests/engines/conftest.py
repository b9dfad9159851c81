import sys

import pytest
import torch
from mixed import Mixed, batches
from networks import randomized

from zeropoint.graph.capture import capture
from zeropoint.graph.program import Program

sys.modules.setdefault("openvino_telemetry", None)  # as the engine does, for tests that import openvino first


@pytest.fixture(scope="session")
def data() -> list[torch.Tensor]:
    return batches(count=4)


@pytest.fixture(scope="session")
def float32(data: list[torch.Tensor]) -> Program:
    return capture(randomized(Mixed()), data[0][:1])
