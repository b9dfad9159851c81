"""Images or texts with their classes that Hugging Face's ``datasets`` saved, streamed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from zeropoint.data import images, texts
from zeropoint.data.arrow import Rows, pyarrow, read
from zeropoint.data.loaders import Loaders
from zeropoint.data.splits import check_classes, counted, split
from zeropoint.errors import InputError
from zeropoint.models.source import Preprocessing

TO_EVALUATE = ("validation", "val", "test")  # the first of these splits that is there
LABELS = ("label", "labels")
AGAIN = "rename_column and save again"


@dataclass(frozen=True)
class _Columns:
    """The columns that are read: of images or texts, and of their labels, empty if there are none."""

    items: str
    are_images: bool
    label: str
    classes: tuple[str, ...]  # their names, if they are known


def task_of(folder: Path) -> str | None:
    """The task that the columns show: of texts with labels, or of texts alone; None of images."""
    columns = _columns(_parts(folder)[0])
    if columns.are_images:
        return None
    return "text-classification" if columns.label else "language-modelling"


def datasets(
    folder: Path,
    tokens: int | None,
    named: str | None,
    *,
    tokenizer: str | None,
    batch_size: int,
    seed: int,
    preprocessing: Preprocessing,
) -> Loaders:
    """What ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote, as the type of its columns tells.

    A column of images is prepared by ``preprocessing`` as ``imagefolder`` does: float32 (N, 3, *crop), labels
    int64 (N,). A column of strings goes through the tokenizer that is ``named``, else the model's
    ``tokenizer``, as ``jsonl`` does: dicts of int64 (N, tokens). If the model has all the classes by name, in
    upper or lower case, texts get its numbers; otherwise labels are the numbers in the files.

    The split ``train`` is trained on beside the first of ``validation``, ``val`` and ``test``; the only split
    is split. Labels are a column of classes or of integers, called ``label`` if there are several.

    Raises InputError for a folder that ``save_to_disk`` did not write, columns of other types, labels that
    are no classes and, while iterating, for an unreadable image.
    """
    spec = f"datasets:{folder}"
    parts = _parts(folder)
    columns, *others = [_columns(part) for part in parts]
    for other in others:
        check_classes(folder, columns.classes, other.classes)
        if other != columns:
            raise InputError(f"{folder} has other columns in train than in the split to evaluate; {AGAIN}")
    classes = max(_classes(part, columns) for part in parts)
    if not columns.are_images:
        reader = texts.opened(named or tokenizer, tokens, spec)
        numbers = _numbers(columns.classes, reader.classes)
        return split(
            spec,
            *(_Texts(part, columns, reader, tuple(numbers.values())) for part in parts),
            batch_size=batch_size,
            seed=seed,
            noun="texts",
            how=texts.described(classes, numbers, reader.length),
            collate=texts.stacked,
        )
    if tokens is not None or named is not None:
        raise InputError(f"{folder} holds images, which have no tokens; give {spec}")
    plain, varied = images.prepared(preprocessing), images.varied(preprocessing)
    return images.loaders(
        spec,
        *(_Images(part, columns, plain, columns.classes) for part in parts),
        augmented=_Images(parts[-1], columns, varied, columns.classes),
        batch_size=batch_size,
        seed=seed,
        how=f" in {counted(classes)}",
        preprocessing=preprocessing,
    )


def _parts(folder: Path) -> list[Rows]:
    """The rows to evaluate and to train on, or the only ones."""
    found = read(folder)
    evaluation = next((found[name] for name in TO_EVALUATE if name in found), None)
    if evaluation is not None:
        return [evaluation, *([found["train"]] if "train" in found else [])]
    if len(found) != 1:
        names = ", ".join(found) or "none"
        first = next(iter(found), "SPLIT")
        fix = f"give one, as in datasets:{folder / first}, or call one validation"
        raise InputError(f"{folder} has the splits {names}; {fix}")
    return list(found.values())


def _columns(rows: Rows) -> _Columns:
    features = rows.features
    pictures = [name for name, one in features.items() if one.kind == "Image"]
    strings = [name for name, one in features.items() if one.dtype in ("string", "large_string")]
    kind, names, usual = ("images", pictures, "image") if pictures else ("texts", strings, "text")
    if not names:
        held = ", ".join(f"{name} ({one.dtype or one.kind or 'nested'})" for name, one in features.items())
        raise InputError(f"{rows.folder} has no column of images or texts, only {held or 'no columns'}")
    if len(names) > 1 and usual not in names:
        raise InputError(
            f"{rows.folder} has several columns of {kind}: {', '.join(names)}; call one {usual}: {AGAIN}"
        )
    label = _label(rows)
    if pictures and not label:
        raise InputError(f"{rows.folder} has images without labels; add a column label, of class numbers")
    chosen = names[0] if len(names) == 1 else usual
    classes = (features[label].names or ()) if label else ()
    return _Columns(chosen, bool(pictures), label, tuple(classes))


def _label(rows: Rows) -> str:
    """The column of the labels, empty if there is none: the one called so, else the only one of classes."""
    named = [name for name in LABELS if name in rows.features]
    classes = [name for name, one in rows.features.items() if one.kind == "ClassLabel"]
    if not named and len(classes) > 1:
        found = ", ".join(classes)
        raise InputError(f"{rows.folder} has several columns of classes: {found}; call one label: {AGAIN}")
    chosen = next(iter(named + classes), "")
    if chosen:
        feature = rows.features[chosen]
        integer = feature.kind == "Value" and (feature.dtype or "").startswith(("int", "uint"))
        if feature.kind != "ClassLabel" and not integer:
            held = feature.dtype or feature.kind or "nested"
            fix = "class_encode_column makes classes of it"
            raise InputError(f"{rows.folder}: the column {chosen} is {held}, no classes; {fix}")
    return chosen


def _classes(rows: Rows, columns: _Columns) -> int:
    """The number of classes, 0 without labels, once each label is known to be one, and no item missing."""
    _check(rows, columns)
    if not columns.label or not len(rows):
        return len(columns.classes)
    package, labels = pyarrow(), rows.column(columns.label)
    if not package.types.is_integer(labels.type):
        raise InputError(f"{rows.folder}: the column {columns.label} is {labels.type} in its files")
    extremes = package.compute.min_max(labels).as_py()
    most = len(columns.classes) - 1 if columns.classes else extremes["max"]
    for value in extremes.values():
        if not 0 <= value <= most:
            what = f"no class of 0 to {most}" if columns.classes else "no class number"
            fix = "leave such rows out with filter, or give another split"
            raise InputError(f"{rows.folder}: the column {columns.label} has {value}, {what}; {fix}")
    return len(columns.classes) or int(package.compute.count_distinct(labels).as_py())


def _check(rows: Rows, columns: _Columns) -> None:
    """Raises InputError if the files hold something else in a column than its feature says."""
    types, kind = pyarrow().types, rows.column(columns.items).type
    if columns.are_images:
        fields = {kind.field(index).name for index in range(kind.num_fields)}
        valid = types.is_struct(kind) and fields >= {"bytes", "path"}
    else:
        valid = types.is_string(kind) or types.is_large_string(kind)
    if not valid:
        raise InputError(f"{rows.folder}: the column {columns.items} is {kind} in its files; save it again")


def _numbers(classes: Sequence[str], known: Any) -> dict[str, int]:
    """The number of each class: the model's if it has all of them, else that of the files."""
    lower = {name.casefold(): number for name, number in known.items()}
    if all(name.casefold() in lower for name in classes):
        return {name: lower[name.casefold()] for name in classes}
    return {name: number for number, name in enumerate(classes)}


@dataclass(frozen=True)
class _Images(Dataset[tuple[Tensor, int]]):
    rows: Rows
    columns: _Columns
    transform: Any
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import ImageOps

        held = self.rows.value(self.columns.items, index)
        row = f"of row {index} of {self.rows.folder}"
        if held["bytes"] is None:
            if held["path"] is None:
                raise InputError(f"the image {row} is empty; leave it out with filter, and save again")
            picture = images.read(held["path"])
        else:
            picture = images.read(row, held["bytes"])
        upright = ImageOps.exif_transpose(picture)  # as datasets decodes it
        return self.transform(upright), self.rows.value(self.columns.label, index)


@dataclass(frozen=True)
class _Texts(Dataset[dict[str, Tensor]]):
    rows: Rows
    columns: _Columns
    tokenizer: texts.Tokenizer
    numbers: tuple[int, ...]  # of the classes with names

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        text = self.rows.value(self.columns.items, index)
        if not self.columns.label:
            return self.tokenizer.item(text, None)
        label = self.rows.value(self.columns.label, index)
        return self.tokenizer.item(text, self.numbers[label] if self.numbers else label)
