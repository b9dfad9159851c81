"""The samples and classes that quantization changed most: what the report shows of them."""

import base64
import math
import re
import struct
from pathlib import Path
from typing import Any

from zeropoint.measure.changed import ChangedClass, ChangedSample, Media
from zeropoint.measure.kept import standings
from zeropoint.measure.pictures import FOLDER
from zeropoint.measure.results import Results, Row
from zeropoint.report.figures import decibels, percent, value_text
from zeropoint.tasks.metric import Measure

LIMIT = 1_000_000  # bytes of pictures and sounds in one report, as they stand in it
SMALL = 96  # pixels of a longer side up to which a picture is enlarged, each pixel a square
MANY = 100  # pixels or tokens from which on their share says more than their number
KINDS = {".png": "image/png", ".wav": "audio/wav"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*\.(png|wav)")  # of a file beside the others, and of no other


class MediaFiles:
    """The pictures and sounds of a report, each once, as data URIs, as long as there is room."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.held: dict[str, str] = {}
        self._room = limit

    def add(self, key: str, path: Path) -> str:
        """Takes a file in; returns why not, or ""."""
        if key in self.held:
            return ""
        try:
            content = path.read_bytes() if NAME.fullmatch(path.name) else b""
        except OSError:
            content = b""
        if not content:
            return f"{path.name} is missing"
        uri = f"data:{KINDS[path.suffix]};base64,{base64.b64encode(content).decode()}"
        if len(uri) > self._room:
            return f"left out, to keep the report small: {path}"
        self._room -= len(uri)
        self.held[key] = uri
        return ""


def changes(number: int, results: Results, folder: Path, files: MediaFiles) -> list[dict[str, Any]]:
    """What is shown of each row, best rows first. ``number`` is the run's; media go into ``files``."""
    return [
        {
            "row": row.name,
            "summary": _summary(row, results),
            "classes": [_class(one) for one in row.changed_classes],
            "samples": [_sample(one, results.fidelity, number, folder, files) for one in row.changed_samples],
        }
        for row in best_first(results)
        if row.changed_samples or row.changed_classes
    ]


def best_first(results: Results) -> list[Row]:
    """Rows that keep the accuracy, by latency; then those that do not."""
    kept = {one.row.name: ("yes", "unsure", "no").index(one.kept) for one in standings(results)}

    def rank(row: Row) -> tuple[int, float]:
        return kept.get(row.name, 3), row.latency_ms.p50 if row.latency_ms else math.inf

    return sorted(results.rows, key=rank)


def _summary(row: Row, results: Results) -> str:
    """How close the row as a whole is to float32."""
    told = [decibels(row.sqnr_db)] if row.error is None else ["failed"]
    if row.agreement is not None and results.fidelity is not None:
        told.insert(0, f"{results.fidelity.name} {value_text(row.agreement, results.fidelity)}")
    return ", ".join(told)


def _class(one: ChangedClass) -> list[str]:
    return [one.name, str(one.samples), str(one.changed), percent(one.float32), percent(one.row)]


def _sample(
    one: ChangedSample, measure: Measure | None, number: int, folder: Path, files: MediaFiles
) -> dict[str, Any]:
    told = [_change(one, measure), "" if one.sqnr_db is None else decibels(one.sqnr_db)]
    words = [("float32", one.float32), ("this row", one.row), ("label", one.label)]
    return {
        "title": f"Sample {one.index}",
        "change": ", ".join(filter(None, told)),
        "words": [(name, text) for name, text in words if text],
        "media": [_medium(medium, one.index, number, folder, files) for medium in one.media],
    }


def _change(one: ChangedSample, measure: Measure | None) -> str:
    """How much of the answer changed, in the task's terms."""
    if measure is None or one.fidelity is None:
        return ""
    if one.changed is None:
        return f"{measure.name} {value_text(one.fidelity, measure)}"
    what = "class" if measure.name == "agreement" else measure.name.removeprefix("same ")
    changed, total = one.changed
    if total == 1:
        return f"{what} changed" if changed else f"same {what}"
    share = f" ({percent(changed / total)}%)" if total >= MANY else ""
    return f"{changed} of {total} {what} changed{share}"


def _medium(medium: Media, index: int, number: int, folder: Path, files: MediaFiles) -> dict[str, Any]:
    """A picture or sound. ``key``: that in ``files.held``; ``missing``: why it is not there, or ""."""
    key = f"{number}/{medium.file}"
    missing = files.add(key, folder / FOLDER / medium.file)
    is_sound = medium.file.endswith(".wav")
    width, height = (0, 0) if missing or is_sound else _size(files.held[key])
    return {
        "key": key,
        "missing": missing,
        "is_sound": is_sound,
        "caption": medium.caption,
        "alternative": f"Sample {index}: {medium.caption}",
        "width": width,
        "height": height,
        "is_small": 0 < max(width, height) <= SMALL,
        "outlines": medium.outlines,
    }


def _size(uri: str) -> tuple[int, int]:
    """Width and height of a PNG file: the first two numbers of its first chunk (ISO 15948, 11.2.2)."""
    head = base64.b64decode(uri.partition(",")[2][:32])
    return struct.unpack(">II", head[16:24]) if len(head) == 24 else (0, 0)
