"""Draws the pictures of docs/concepts.md as SVG: python docs/concepts.py

Every number in them is computed here. They have a light ground of their own, for both themes of the site.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "concepts"
WIDTH = 680
INK, SOFT, BLUE, ORANGE, GREEN = "#1f2430", "#8a93a6", "#1f5fbf", "#d9730d", "#2e7d4f"


def text(
    x: float,
    y: float,
    content: str,
    size: int = 17,
    colour: str = INK,
    anchor: str = "middle",
    weight: int = 400,
) -> str:
    """One line of text."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" font-weight="{weight}" fill="{colour}">{content}</text>'


def line(x: float, y: float, u: float, v: float, colour: str = INK, width: float = 2, more: str = "") -> str:
    """A line from (x, y) to (u, v)."""
    ends = f'x1="{x:.1f}" y1="{y:.1f}" x2="{u:.1f}" y2="{v:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}" {more}/>'


def arrow(x: float, y: float, u: float, v: float, colour: str = INK) -> str:
    """A line with a head at (u, v)."""
    return line(x, y, u, v, colour, 2, f'marker-end="url(#{colour[1:]})"')


def bar(x: float, y: float, width: float, height: float, colour: str, more: str = "") -> str:
    """A filled rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}" {more}/>'


def box(x: float, y: float, width: float, height: float, label: str, colour: str = BLUE) -> str:
    """A box with a word in it."""
    shape = bar(x, y, width, height, "#ffffff", f'rx="6" stroke="{colour}" stroke-width="2.5"')
    return shape + text(x + width / 2, y + height / 2 + 6, label, 17, colour, weight=600)


def picture(height: int, title: str, parts: Sequence[str]) -> str:
    """The SVG with its ground."""
    heads = "".join(
        f'<marker id="{colour[1:]}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6"'
        f' orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{colour}"/></marker>'
        for colour in (INK, SOFT, BLUE, ORANGE, GREEN)
    )
    ground = bar(0, 0, WIDTH, height, "#f7f8fb", 'rx="10"')
    start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
    start += ' font-family="Helvetica, Arial, sans-serif">'
    return "\n".join([start, f"<title>{title}</title>", f"<defs>{heads}</defs>", ground, *parts, "</svg>\n"])


def grid() -> str:
    """Floats move to the nearest of sixteen values."""
    scale, zero, levels = 0.15, 6, 16

    def x(value: float) -> float:
        return WIDTH / 2 + (value - scale * (levels / 2 - 0.5 - zero)) * 250

    parts = [text(30, 40, "4 bits: 16 values, a step s = 0.15 apart", anchor="start", weight=600)]
    parts.append(line(x(-scale * zero) - 12, 150, x(scale * (15 - zero)) + 12, 150, SOFT))
    for integer in range(levels):
        value = scale * (integer - zero)
        colour = ORANGE if integer == zero else INK
        parts += [line(x(value), 140, x(value), 160, colour), text(x(value), 184, str(integer), 15, colour)]
    for value in (-0.68, 0.22, 0.87):
        integer = round(value / scale) + zero
        parts += [
            f'<circle cx="{x(value):.1f}" cy="82" r="6" fill="{BLUE}"/>',
            text(x(value), 70, f"{value:g}", 16, BLUE),
            arrow(x(value), 88, x(scale * (integer - zero)), 136, BLUE),
        ]
    parts.append(text(30, 216, "integers q, from 0 to 15", 16, anchor="start"))
    parts.append(text(WIDTH - 30, 216, "zero point z = 6 stands for 0.0", 16, ORANGE, "end"))
    parts.append(
        text(WIDTH / 2, 246, "0.22 / 0.15 + 6 = 7.47, rounded 7; it stands for 0.15 · (7 − 6) = 0.15", 16)
    )
    return picture(268, "Numbers are rounded to a grid", parts)


def _noise(values: np.ndarray, limit: float, bits: int) -> float:
    """The squared error of rounding and clipping ``values`` within ±limit, relative to their power, in dB."""
    step = 2 * limit / (2**bits - 2)
    rounded = np.clip(np.round(values / step), -(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1) * step
    return float(10 * np.log10(np.square(values).sum() / np.square(values - rounded).sum()))


def clipping() -> str:
    """A wide range rounds coarsely, a narrow one clips."""
    values = np.random.default_rng(0).laplace(size=20_000)
    widest = float(np.abs(values).max())
    limits = np.linspace(0.5, widest, 200)
    best = float(limits[np.argmax([_noise(values, limit, 4) for limit in limits])])
    edges = np.linspace(-widest, widest, 71)
    counts = np.histogram(values, edges)[0] ** 0.5

    def x(value: float) -> float:
        return WIDTH / 2 + value / widest * (WIDTH / 2 - 40)

    parts = [text(30, 38, "Which range should 4 bits cover?", anchor="start", weight=600)]
    for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
        tall = 120 * count / counts.max()
        parts.append(bar(x(left) + 0.5, 180 - tall, x(right) - x(left) - 1, tall, "#c4cbd9"))
    for y, limit, colour, name in ((206, widest, ORANGE, "all values"), (262, best, BLUE, "least error")):
        parts += [line(x(step), y - 9, x(step), y + 9, colour) for step in np.linspace(-limit, limit, 15)]
        parts.append(line(x(-limit), y, x(limit), y, colour))
        label = f"{name}: ±{limit:.1f}, {_noise(values, limit, 4):.1f} dB"
        parts.append(text(WIDTH / 2, y + 30, label, 16, colour, weight=600))
    return picture(310, "A wide range rounds coarsely, a narrow one clips", parts)


def channels() -> str:
    """One scale for a tensor, and one for each channel."""
    spread = np.array([1.0, 0.45, 0.12, 0.03])
    parts = [
        text(
            30,
            38,
            "Weights of four channels, and how many of 255 values they use",
            anchor="start",
            weight=600,
        )
    ]
    for left, title, sizes in ((40, "one scale for all", spread), (370, "a scale for each", np.ones(4))):
        parts.append(text(left, 76, title, 17, ORANGE if left == 40 else BLUE, "start", 600))
        for row, (size, part) in enumerate(zip(spread, sizes, strict=True)):
            y = 92 + 42 * row
            parts.append(bar(left, y, 200, 26, "#e3e7ef", 'rx="4"'))
            parts.append(bar(left, y, 200 * part, 26, ORANGE if left == 40 else BLUE, 'rx="4"'))
            used = int(2 * np.floor(127 * part) + 1)
            parts.append(text(left + 210, y + 19, str(used), 17, anchor="start"))
            if left == 40:
                parts.append(text(left + 318, y + 19, f"±{size:g}", 15, SOFT, "end"))
    return picture(276, "A channel with small weights needs a scale of its own", parts)


def fusion() -> str:
    """Three operators with three roundings, and one with one."""
    parts = [
        text(30, 38, "Apart: each result is rounded and stored", anchor="start", weight=600, colour=ORANGE)
    ]
    x = 30.0
    for label, width in (("convolution", 120), ("batch norm", 115), ("ReLU", 76)):
        parts += [box(x, 60, width, 50, label, INK), arrow(x + width, 85, x + width + 30, 85)]
        parts += [
            bar(x + width + 32, 70, 46, 30, ORANGE, 'rx="6"'),
            text(x + width + 55, 91, "int8", 15, "#ffffff"),
        ]
        x += width + 80
        if label != "ReLU":
            parts.append(arrow(x, 85, x + 24, 85))
            x += 26
    parts.append(text(30, 166, "Fused: one kernel, rounded once", anchor="start", weight=600, colour=BLUE))
    parts += [box(30, 186, 400, 66, "", BLUE), text(230, 214, "convolution", 17, BLUE, weight=600)]
    parts.append(text(230, 238, "batch norm in its weights, ReLU in the range", 15, BLUE))
    parts += [
        arrow(430, 219, 468, 219),
        bar(470, 204, 46, 30, BLUE, 'rx="6"'),
        text(493, 225, "int8", 15, "#ffffff"),
    ]
    parts.append(text(530, 225, "less to store", 16, anchor="start"))
    return picture(276, "Fusing operators rounds once", parts)


def placement() -> str:
    """Where a residual block has quantizers."""
    parts = [text(30, 36, "A residual block: orange dots round to int8", anchor="start", weight=600)]
    y = 150
    for x, label, width in ((96, "conv + ReLU", 132), (304, "conv", 90), (470, "add + ReLU", 126)):
        parts.append(box(x, y - 28, width, 56, label))
    for left, right in ((30, 94), (228, 302), (394, 468), (596, 650)):
        parts.append(arrow(left, y, right, y))
    parts += [f'<circle cx="{x}" cy="{y}" r="9" fill="{ORANGE}"/>' for x in (52, 258, 426, 618)]
    parts.append(
        f'<path d="M52 {y} V80 H533 V{y - 32}" fill="none" stroke="{INK}" stroke-width="2"'
        f' marker-end="url(#{INK[1:]})"/>'
    )
    parts.append(text(290, 70, "shortcut", 16, SOFT))
    for x, label in ((52, "input"), (258, "0 and up"), (426, "both signs"), (618, "0 and up")):
        parts.append(text(x, y + 56, label, 15, SOFT))
    parts.append(
        text(WIDTH / 2, 244, "A kernel reads int8 and writes int8; inside it sums are 32 bits wide.", 16)
    )
    parts.append(
        text(WIDTH / 2, 270, "Which places have a dot depends on what the engine's kernels can fuse.", 16)
    )
    return picture(292, "Where quantizers are placed", parts)


def saturation() -> str:
    """Two products in 16 bits."""
    product, most = 255 * 127, 2**15 - 1
    unit = 560 / (2 * product)
    parts = [
        text(30, 38, "255 · 127 + 255 · 127, added by two kinds of processors", anchor="start", weight=600)
    ]
    parts.append(text(40, 78, "with VNNI: 32 bits", 17, BLUE, "start", 600))
    for part in range(2):
        shade = BLUE if part == 0 else "#5b8fdd"
        parts.append(bar(40 + part * product * unit, 88, product * unit, 34, shade))
        parts.append(text(40 + (part + 0.5) * product * unit, 111, f"{product:,}", 16, "#ffffff"))
    parts.append(text(40 + 2 * product * unit, 78, f"{2 * product:,}", 17, BLUE, "end", 600))
    parts.append(text(40, 166, "without: 16 bits, at most 32,767", 17, ORANGE, "start", 600))
    parts.append(bar(40, 176, most * unit, 34, ORANGE))
    parts.append(text(40 + most * unit / 2, 199, f"{most:,}", 16, "#ffffff"))
    rest = 2 * product - most
    parts.append(
        bar(40 + most * unit, 176, rest * unit, 34, "none", f'stroke="{ORANGE}" stroke-dasharray="5 4"')
    )
    parts.append(text(40 + (most + rest / 2) * unit, 199, f"lost: {rest:,}", 16, ORANGE))
    parts.append(
        text(
            40,
            246,
            "Two weights of 64 together stay below the limit: 255 · 128 = 32,640.",
            16,
            anchor="start",
        )
    )
    return picture(268, "Sums of products saturate without VNNI", parts)


DRAWN: dict[str, Callable[[], str]] = {
    "grid": grid,
    "clipping": clipping,
    "channels": channels,
    "fusion": fusion,
    "placement": placement,
    "saturation": saturation,
}


if __name__ == "__main__":
    for name, draw in DRAWN.items():
        (FOLDER / f"{name}.svg").write_text(draw(), encoding="utf-8")
