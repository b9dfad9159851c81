"""``zeropoint inspect``."""

from typing import Annotated

import typer

from zeropoint.cli import options as shared
from zeropoint.cli import output


def inspect(
    model: shared.Model,
    other: Annotated[
        str | None,
        typer.Argument(metavar="OTHER", help="A second model, such as the .pt2 that was made from MODEL."),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Show one layer in full: its name, or a glob such as 'layer4.*'.")
    ] = None,
    values: Annotated[
        int | None,
        typer.Option(min=0, help="Number of values shown of each tensor; default: 9, or 27 with --layer."),
    ] = None,
    rules: Annotated[
        bool, typer.Option("--rules", help="Show which placement rules applied in each layer, or why not.")
    ] = False,
    weights: shared.Weights = "default",
    data: shared.Shape = None,
    task: shared.Head = None,
    json: shared.Json = False,
) -> None:
    """Show the layers of a model: shapes, bits, scales, integers.

    It also says why a layer stayed float. With a float MODEL and a quantized OTHER, integers stand beside
    the weights that they were made from. With two quantized models, the differences are shown.
    """
    from zeropoint.cli.resolve import captured
    from zeropoint.inspection import differences, read
    from zeropoint.report import inspect as report

    programs = [captured(name, weights, data, task) for name in (model, other) if name is not None]
    if rules:
        from zeropoint.report import rules as report_rules

        output.print_table(report_rules.terminal(programs[-1], layer), width=report.WIDTH)
        return
    shown = values if values is not None else read.VALUES if layer is None else read.IN_FULL
    before, after = programs[0], programs[-1]
    reference = before if before.method == "fp32" and after.method != "fp32" else None
    seen = [read.inspect(before, values=shown)]
    if other is not None:
        seen.append(read.inspect(after, reference, values=shown))
    pairs = differences.pairs(*seen) if len(seen) == 2 else ()
    if layer is not None:
        seen, pairs = differences.only(seen, pairs, layer)
    if json:
        output.print_json(report.record(seen, pairs))
    elif layer is not None:
        output.print_table(report.in_full(seen, pairs), width=report.WIDTH)
    elif len(seen) == 2 and reference is None:
        output.print_table(report.compared(seen[0], seen[1], pairs), width=report.WIDTH)
    else:
        shown_first = seen[0] if reference else None
        output.print_table(report.terminal(seen[-1], shown_first, pairs), width=report.WIDTH)
