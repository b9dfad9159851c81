"""Folders such as ``save_to_disk`` of Hugging Face's ``datasets`` writes, made with pyarrow alone."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

IMAGE = {"_type": "Image"}
STRING = {"dtype": "string", "_type": "Value"}
NUMBER = {"dtype": "int64", "_type": "Value"}
IN_CHUNKS = 4  # rows of a record batch
FORMAT = {
    "_format_columns": None, "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False,
    "_split": None,
}  # fmt: skip


def classes(*names):
    return {"names": list(names), "_type": "ClassLabel"}


def types():
    """The Arrow types of the features above."""
    pa = pytest.importorskip("pyarrow")
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return {"Image": image, "ClassLabel": pa.int64(), "string": pa.string(), "int64": pa.int64()}


def write(folder, features, columns, shards=1):
    """The rows of ``columns``, lists by name, in so many files."""
    pa = pytest.importorskip("pyarrow")
    folder.mkdir(parents=True)
    known = types()
    kinds = {name: known[one.get("dtype") or one["_type"]] for name, one in features.items()}
    schema = pa.schema(kinds.items(), {"huggingface": json.dumps({"info": {"features": features}})})
    rows = len(next(iter(columns.values())))
    edges = [rows * n // shards for n in range(shards + 1)]
    files = [f"data-{n:05d}-of-{shards:05d}.arrow" for n in range(shards)]
    for file, start, end in zip(files, edges, edges[1:], strict=False):
        part = {name: values[start:end] for name, values in columns.items()}
        with pa.OSFile(str(folder / file), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
            stream.write_table(pa.Table.from_pydict(part, schema=schema), max_chunksize=IN_CHUNKS)
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
    state = {"_data_files": [{"filename": file} for file in files], "_fingerprint": "0", **FORMAT}
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    return folder


def write_splits(folder, features, **splits):
    """A folder for each split, whose columns are given by its name."""
    for name, columns in splits.items():
        write(folder / name, features, columns)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


def change(file, **fields):
    """Replaces fields of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def picture(shade, size=(20, 10), **options):
    """An image of one shade of grey as its column holds it, a PNG."""
    image = pytest.importorskip("PIL.Image")
    held = io.BytesIO()
    image.fromarray(np.full((*size[::-1], 3), shade, np.uint8)).save(held, "PNG", **options)
    return {"bytes": held.getvalue(), "path": None}


def stored(path):
    """A file as a column of images holds one that was not embedded."""
    return {"bytes": None, "path": str(Path(path))}
