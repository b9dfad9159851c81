"""Arrow: the rows that ``save_to_disk`` of Hugging Face's ``datasets`` wrote, mapped into memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from zeropoint.errors import InputError, first_line
from zeropoint.files import as_type, read_json

WROTE = "give a folder that save_to_disk of datasets wrote"
END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream; without it pyarrow takes the rows up to a cut as all


class Feature(msgspec.Struct):
    """What a column holds, as ``datasets`` describes it; empty if it is nested."""

    kind: str = msgspec.field(name="_type", default="")
    dtype: str | None = None
    names: list[str] | None = None


class _Info(msgspec.Struct):
    features: dict[str, Any]


class _File(msgspec.Struct):
    filename: str


class _State(msgspec.Struct):
    files: list[_File] = msgspec.field(name="_data_files")
    indices: Any = msgspec.field(name="_indices_files", default=None)
    older_indices: Any = msgspec.field(name="_indices_data_files", default=None)  # of datasets 1


class _Splits(msgspec.Struct):
    splits: list[str]


@dataclass(frozen=True)
class Rows:
    """The rows of one split. Only what is asked for is read of the files."""

    folder: Path
    features: dict[str, Feature]
    table: Any  # pyarrow.Table, in the order of the files

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> Any:
        """A column as pyarrow.ChunkedArray. Raises InputError if the files lack it or a row has no value."""
        if name not in self.table.column_names:
            raise InputError(f"{self.folder} has no column {name} in its .arrow files; save it again")
        found = self.table.column(name)
        if found.null_count:
            fix = "leave these out with filter, and save again"
            raise InputError(f"{self.folder}: {found.null_count} rows have no {name}; {fix}")
        return found

    def value(self, name: str, row: int) -> Any:
        """One value, as Python has it. Raises InputError if its bytes make no sense."""
        try:
            one = self.table.column(name).slice(row, 1)
            one.validate(full=True)  # else offsets that are wrong would read any memory
            return one[0].as_py()
        except Exception as error:  # of Arrow, and of text that is no UTF-8
            raise _unreadable(f"row {row} of {self.folder}", error) from error


def read(folder: Path) -> dict[str, Rows]:
    """The splits by name, or the only one, whose name is empty.

    Raises InputError for a folder that ``save_to_disk`` did not write, files that are cut off or missing,
    and where pyarrow is not installed.
    """
    named = folder / "dataset_dict.json"
    if not named.is_file():
        return {"": _rows(folder)}
    names = as_type(read_json(named, WROTE), _Splits, named, WROTE).splits
    return {name: _rows(_inside(folder, name)) for name in names}


def pyarrow() -> Any:
    """The package. Raises InputError if it is not installed."""
    try:
        import pyarrow
        import pyarrow.compute
    except ModuleNotFoundError as error:
        raise InputError("pyarrow is not installed; run: pip install 'zeropoint[datasets]'") from error
    return pyarrow


def _rows(folder: Path) -> Rows:
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}; {WROTE}")
    for name in ("state.json", "dataset_info.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no {name}; {WROTE}")
    state = as_type(read_json(folder / "state.json", WROTE), _State, folder / "state.json", WROTE)
    if state.indices or state.older_indices:
        fix = "call flatten_indices, and save again"
        raise InputError(f"{folder} is a selection of the rows in its files, which is not read; {fix}")
    described = folder / "dataset_info.json"
    info = as_type(read_json(described, WROTE), _Info, described, WROTE)
    features = {name: _feature(value) for name, value in info.features.items()}
    if not state.files:
        raise InputError(f"{folder}/state.json lists no files; {WROTE}")
    tables = [_table(_inside(folder, file.filename), list(features)) for file in state.files]
    try:
        return Rows(folder, features, pyarrow().concat_tables(tables))
    except Exception as error:  # as of columns whose types differ
        raise _unreadable(str(folder), error) from error


def _feature(value: Any) -> Feature:
    try:
        return msgspec.convert(value, Feature)
    except msgspec.ValidationError:  # a list or a dict of features
        return Feature()


def _inside(folder: Path, name: str) -> Path:
    if Path(name).name != name:
        raise InputError(f"{folder} names {name!r}, which is not in it; {WROTE}")
    return folder / name


def _table(file: Path, columns: list[str]) -> Any:
    """The columns in a file that are known. Nothing is copied: the file is mapped into memory."""
    package = pyarrow()
    try:
        with file.open("rb") as opened:
            opened.seek(-min(len(END), file.stat().st_size), 2)
            whole = opened.read() == END
        table = package.ipc.open_stream(package.memory_map(str(file))).read_all()
        table.validate()
        table = table.select([name for name in columns if name in table.column_names])
    except Exception as error:  # of files, and of Arrow
        raise _unreadable(str(file), error) from error
    if not whole:
        raise InputError(f"cannot read {file}: it is cut off; copy or save the folder again")
    return table


def _unreadable(what: str, error: Exception) -> InputError:
    return InputError(f"cannot read {what}: {first_line(error)}; copy or save the folder again")
