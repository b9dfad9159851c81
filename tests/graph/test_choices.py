"""Which layers choose what is computed next."""

from collections.abc import Callable

import pytest
import torch
from networks import options
from torch import Tensor, nn

from zeropoint import engines
from zeropoint.graph.capture import capture
from zeropoint.graph.choices import chooses
from zeropoint.graph.operators import weighted
from zeropoint.targets.placement import Placement, place_dynamic, place_static, place_weights

Mix = Callable[[Tensor, Tensor], Tensor | tuple[Tensor, ...]]


class Scored(nn.Module):
    """Scores of four by a layer called ``router``, and what is made of them and of a table of four rows."""

    def __init__(self, mix: Mix) -> None:
        super().__init__()
        self.router, self.table, self.mix = nn.Linear(6, 4), nn.Parameter(torch.randn(4, 3)), mix

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """``x`` is (N, 6)."""
        return self.mix(self.router(x), self.table)


def best_two(scores: Tensor, table: Tensor) -> Tensor:
    shares, places = scores.softmax(-1).topk(2)
    return (shares.unsqueeze(-1) * table[places]).sum(1)


CASES: dict[str, tuple[Mix, bool]] = {
    "experts": (best_two, True),
    "largest": (lambda scores, table: table[scores.argmax(-1)], True),
    "largest by max": (lambda scores, table: table[(scores * 2).max(-1).indices], True),
    "order": (lambda scores, table: scores.gather(-1, (scores + 1).argsort(-1)), True),
    "class": (lambda scores, table: (scores, scores.argmax(-1)), False),
    "largest values": (lambda scores, table: scores.topk(2).values, False),
    "maximum": (lambda scores, table: scores.max(-1).values, False),
    "mixture": (lambda scores, table: scores.softmax(-1) @ table, False),
}


@pytest.mark.parametrize("name", CASES)
def test_places_that_are_read_steer(name: str) -> None:
    mix, steers = CASES[name]
    module = capture(Scored(mix).eval(), torch.randn(3, 6)).module
    [router] = [node for node in module.graph.nodes if node.name == "linear"]
    assert weighted(router)
    assert chooses(router) == steers


@pytest.mark.parametrize("place", [place_static, place_dynamic, place_weights])
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "torch"])
def test_a_router_stays_float(engine: str, place: Callable[..., Placement]) -> None:
    module = capture(Scored(best_two).eval(), torch.randn(3, 6)).module
    found = place(module, engines.target(engine), options())
    assert not found.edges
    assert not {one.node for one in found.weights if "router" in one.node}
    assert any("choose" in (decision.reason or "") for decision in found.decisions)


class Boxes(nn.Module):
    """A detector's head, with the places of the highest scores; (N, 3, 8, 8) to (N, 5, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.scores, self.boxes = nn.Conv2d(3, 1, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        places = self.scores(x).flatten(1).topk(5).indices
        return self.boxes(x).flatten(2).transpose(1, 2).gather(1, places.unsqueeze(-1).expand(-1, -1, 4))


def test_the_head_of_a_detector_is_quantized() -> None:
    module = capture(Boxes().eval(), torch.randn(2, 3, 8, 8)).module
    found = place_static(module, engines.target("openvino"), options())
    assert {one.node for one in found.weights} == {"scores_weight", "boxes_weight"}
