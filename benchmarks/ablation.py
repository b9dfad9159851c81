"""What each pass of ``static`` gains: SQNR with all of them, less that without one of them.

    python benchmarks/ablation.py --data FOLDER

On trained networks of a folder (see trained.py), and on architectures of coverage.py with random weights.
Simulated for OpenVINO, on inputs that are not calibrated on. Writes ablation-w8a8.json and ablation-w8a8.md.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any
from unittest import mock

import report
import trained
import typer
from architectures import architectures
from coverage_stages import Case, Flat, case_of
from torch import Tensor, nn

import zeropoint as zp
from zeropoint.errors import closest
from zeropoint.methods import static
from zeropoint.passes import equalize
from zeropoint.passes.equalize import Equalized
from zeropoint.targets import machine

ARCHITECTURES = (
    "pattern/unet", "pattern/siamese", "pattern/deep-sets", "pattern/conformer", "pattern/shuffles",
    "transformers/bert", "transformers/gpt2", "timm/deit_tiny_patch16_224", "timm/xcit_nano_12_p16_224",
    "timm/resmlp_12_224", "timm/convnext_atto", "timm/coatnet_pico_rw_224", "timm/halonet26t",
)  # fmt: skip


@dataclass(frozen=True)
class Without:
    """A pass, and how to leave it out: by an option, or by what stands in place of its function ``where``."""

    title: str
    options: Mapping[str, Any] = field(default_factory=dict)
    function: str = ""
    instead: Callable[..., Any] | None = None
    where: ModuleType = static


def _none_of_them(*_: Any, **__: Any) -> list[Any]:
    return []


PASSES = (
    Without("ranges of the least squared error (minmax)", {"ranges": "minmax"}),
    Without("shuffles folded", function="fold_shuffles", instead=lambda program: program),
    Without("attention in int8", function="decompose_attention", instead=lambda program: program),
    Without("SiLU in int8", function="decompose_silu", instead=lambda program: program),
    Without("equalization", function="equalize", instead=lambda program, *_, **__: Equalized(program, 1.0)),
    Without("scales in front of layers", function="insert_scalings", instead=_none_of_them, where=equalize),
    Without("sums in float", function="with_float_sums", instead=lambda *_: None),
    Without("loud values float", function="without_loud", instead=lambda program, placement, *_: placement),
    Without("8 bits where noise is (few bits)", {"eight_bit_share": 0.0}),
    Without("fitted weights", {"rounding": "nearest"}),
)


def cases(data: str | None) -> dict[str, Callable[[], Case]]:
    """The networks by name, each made when it is asked for."""
    found = {name: partial(_random, name) for name in ARCHITECTURES}
    if data is None:
        return found
    return {name: partial(_trained, trained.read(data), name) for name in trained.NETWORKS} | found


def _trained(source: ModuleType, name: str) -> Case:
    """Three quarters of the calibration data to calibrate on: the test split is for scores alone."""
    network, batches = trained.network(source, name), trained.calibration(source, name)
    kept = len(batches) * 3 // 4
    if isinstance(network, trained.Tokens):  # by name, so that padding is known
        tokens = [tuple(batch.unbind(1)) for batch in batches]
        whole = Flat(WithoutPadding(network.network), ["input_ids", "attention_mask"])
        return Case(whole.eval(), tokens[:kept], tokens[kept:])
    pictures = [(batch,) for batch in batches]
    return Case(Flat(network, None).eval(), pictures[:kept], pictures[kept:])


class WithoutPadding(nn.Module):
    """The scores of a language model, zero where its mask hides a token."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Scores (N, T, C) of tokens (N, T) and their mask (N, T)."""
        scores: Tensor = self.network(input_ids=input_ids, attention_mask=attention_mask).logits
        return scores * attention_mask.unsqueeze(-1)


def _random(name: str) -> Case:
    return case_of(architectures()[name])


def measure(case: Case, bits: str) -> report.Record:
    """SQNR in dB of the worst output with all passes, and what each of them adds."""
    program = zp.capture(case.network, case.calibration[0])

    def sqnr(without: Without | None) -> float:
        options = zp.Options(**(without.options if without else {})).at(bits)
        batches = [(inputs, None) for inputs in case.calibration]
        with ExitStack() as stack:
            if without and without.instead:
                stack.enter_context(mock.patch.object(without.where, without.function, without.instead))
            made = zp.quantize(program, "static", calibration=batches, target="openvino", options=options)
        return case.sqnr(case.outputs(made.flat))

    whole = sqnr(None)
    return {"sqnr_db": whole, "gains_db": {one.title: whole - sqnr(one) for one in PASSES}}


def markdown(record: report.Record) -> str:
    """A row for each network, a column for each pass; empty where the pass changes nothing."""
    rows = [
        [name, f"{found['sqnr_db']:.1f}", *map(_gain, found["gains_db"].values())]
        for name, found in record["networks"].items()
    ]
    head = ["Network", "SQNR, dB", *(one.title for one in PASSES)]
    return f"{record['bits']}\n\n{report.table(head, rows)}\n{report.where(record['machine'])}"


def _gain(value: float) -> str:
    return f"{value:+.1f}" if value else ""


def main(
    names: Annotated[list[str] | None, typer.Argument(help="networks; default: all")] = None,
    data: Annotated[str | None, typer.Option(help="folder of trained networks")] = None,
    bits: Annotated[str, typer.Option(help="bits of weights and activations")] = "W8A8",
    out: Annotated[Path, typer.Option(help="folder of the results")] = report.RESULTS,
) -> None:
    """Quantize every network with all passes, and without each."""
    chosen, found = cases(data), {}
    for name in names or chosen:
        if name not in chosen:
            raise SystemExit(f"unknown network {name}; {closest(name, chosen)}")
        found[name] = measure(chosen[name](), bits)
        print(name, found[name], flush=True)
    about = {"machine": machine.describe() | {"peers": {}}, "bits": bits}
    record = about | {"networks": found}
    report.write(out, f"ablation-{bits.lower()}", record, markdown(record))
    print(markdown(record))


if __name__ == "__main__":
    typer.run(main)
