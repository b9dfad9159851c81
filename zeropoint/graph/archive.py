"""The ``.pt2`` archive: kept small on disk, and found harmless before ``torch.export.load`` sees it.

By itself torch may run code from the file: it unpickles what the archive marks as pickled, loads compiled
code that lies in it, resolves operators by walking attributes from ``torch``, and evaluates the text of
symbolic sizes. A saved Program needs none of that beyond ATen operators and arithmetic on sizes.

Versions of the format: 1 has no digests, 2 has the SHA-256 of every member. A later zeropoint opens files of
every earlier version, and computes with them what they did; an earlier one refuses files of a later version.
"""

import contextlib
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from zeropoint.errors import InputError

FILE_VERSION = 2
DIGESTS = "extra/digests.json"
"""The member that holds the digest of every other member, by its name."""
# Members may be this many times as large as the file, and this many bytes beside: JSON shrinks to a twelfth.
MOST_UNPACKED, UNPACKED_BESIDE = 50, 2**24
LEVEL = 1  # of zlib for weights; level 6 makes them 0.3% smaller
_BYTES = (1, 2)  # uint8 and int8, as torch writes types of tensors
# ATen's operators, but not the one that maps a file, and the arithmetic of sizes.
_OPERATOR = re.compile(
    r"torch\.ops\.aten\.(?!from_file)\w+\.\w+|torch\.sym_\w+|math\.(ceil|floor|trunc|sqrt)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|getitem|and_|or_|not_)"
)
# A size as SymPy spells it, such as Mul(Integer(2), Symbol('s77', positive=True, integer=True)).
_SYMBOL = re.compile(r"'[su]\d+'")
_SIZE = re.compile(r"[\w\s+\-*/%(),<>=]*")
_SIZE_NAME = re.compile(
    r"Symbol|Integer|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|ModularIndexing"
    r"|[su]\d+|positive|nonnegative|integer|True|False"
)
_NODE_METADATA = {"nn_module_stack"}
SAMPLE_INPUTS = "data/sample_inputs/model.pt"
# What torch writes for one model whose tensors are all plain; no other member is ever handed to it.
_MEMBER = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/\w+|models/model\.json|extra/[\w.]+"
    r"|data/(weights|constants)/model_\1_config\.json|data/weights/weight_\d+|data/sample_inputs/model\.pt"
)


def repack(
    source: Path | IO[bytes],
    destination: Path,
    *,
    deflate: tuple[str, ...],
    drop: tuple[str, ...] = (),
    add: Mapping[str, str] | None = None,
    edit: Mapping[str, Callable[[bytes], bytes]] | None = None,
) -> None:
    """Copies a ``.pt2`` archive, members with the endings ``deflate`` compressed; torch reads either kind.

    The graph is JSON of about 1 kB an operator, which would outweigh the weights of a small network; it
    shrinks to a twelfth, a compiled library to a quarter, 8-bit weights by 4 to 9%: most are small. Members
    with the endings ``drop`` are left out, the texts ``add`` put in under their names, and members changed as
    ``edit`` says for their ending. The digests of all are added.
    """
    written: dict[str, bytes] = {}
    with zipfile.ZipFile(source) as plain, zipfile.ZipFile(destination, "w") as packed:
        for member in plain.infolist():
            if not member.filename.endswith(drop):
                kind = zipfile.ZIP_DEFLATED if member.filename.endswith(deflate) else zipfile.ZIP_STORED
                content = plain.read(member)
                for ending, change in (edit or {}).items():
                    if member.filename.endswith(ending):
                        content = change(content)
                level = None if member.filename.endswith(".json") else LEVEL
                packed.writestr(member.filename, content, kind, level)
                written[member.filename.partition("/")[2]] = content
        root = packed.namelist()[0].partition("/")[0]
        for name, text in (add or {}).items():
            packed.writestr(f"{root}/{name}", text)
            written[name] = text.encode()
        packed.writestr(f"{root}/{DIGESTS}", digests(written), zipfile.ZIP_DEFLATED)


def integer_weights(source: IO[bytes]) -> tuple[str, ...]:
    """The endings of the members with 8-bit integers, as which ``pack`` stores weights."""
    with zipfile.ZipFile(source) as plain:
        (name,) = (
            name for name in plain.namelist() if name.endswith("/data/weights/model_weights_config.json")
        )
        weights = json.loads(plain.read(name))["config"].values()
    return tuple(f"/{one['path_name']}" for one in weights if one["tensor_meta"]["dtype"] in _BYTES)


def digests(members: Mapping[str, bytes]) -> str:
    """What the member DIGESTS holds: JSON with the SHA-256 of every other member by name."""
    return json.dumps(
        {name: hashlib.sha256(content).hexdigest() for name, content in members.items() if name != DIGESTS}
    )


def check_digests(members: Mapping[str, bytes]) -> None:
    """Raises ValueError if a member is missing, was added, or is not what the digests say."""
    known, found = json.loads(members[DIGESTS]), json.loads(digests(members))
    if known != found:
        wrong = sorted(name for name in {*known, *found} if known.get(name) != found.get(name))
        raise ValueError(f"{wrong[0]} has another digest than when it was saved")


def read(path: Path, name: str) -> tuple[dict[str, Any], IO[bytes]]:
    """The JSON that the archive holds as extra file ``name``, and the archive in memory, found harmless.

    What torch gets to see is a copy of the members that were looked at: readers of zip files differ in which
    member they take where a file is made to hold two of a name, or two directories.

    Raises InputError for a file that is missing, damaged, no such archive, of a newer format, or that holds
    what could be code.
    """
    with _as_input_errors(path):
        found = members(path)
        if f"extra/{name}" not in found:
            raise InputError(f"{path} is not a Program saved by zeropoint (no {name} in it)")
        metadata = json.loads(found[f"extra/{name}"])
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is no object")
        version = metadata.get("version", 0)
        if not isinstance(version, int) or version > FILE_VERSION:
            raise InputError(f"{path} was saved by a newer zeropoint (format {version}); upgrade zeropoint")
        if version > 1 or DIGESTS in found:
            check_digests(found)
        return metadata, _checked(path, found)


def holds(path: Path, name: str) -> bool:
    """Whether the archive holds extra file ``name``. Raises InputError for a file that is no archive."""
    with _as_input_errors(path):
        return f"extra/{name}" in members(path)


def read_plain(path: Path) -> tuple[IO[bytes], bytes]:
    """An archive of plain ``torch.export.save`` in memory, found harmless, and its sample inputs, pickled.

    What torch adds to the graph for debugging is left out, and so are guards, which are Python code. Raises
    InputError as ``read`` does.
    """
    with _as_input_errors(path):
        found = members(path)
        if "models/model.json" not in found:
            raise InputError(f"{path} is not a Program saved by zeropoint, nor a model by torch.export.save")
        sample = found.pop(SAMPLE_INPUTS, b"")
        program = json.loads(found["models/model.json"])
        program["guards_code"] = []
        _drop_metadata(program)
        found |= {SAMPLE_INPUTS: b"", "models/model.json": json.dumps(program).encode()}
        return _checked(path, found), sample


@contextlib.contextmanager
def _as_input_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a file of unknown origin may fail in any way
        raise InputError(f"{path} is not a saved Program, or is damaged ({error}); save it again") from error


def members(path: Path) -> dict[str, bytes]:
    """The members of an archive by their names without the folder that all are in.

    Raises InputError if there is no file, or one that would take far more memory than its size: zip files of
    a few kB can unpack to many GB. Raises other errors for a file that is no archive.
    """
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MOST_UNPACKED * path.stat().st_size + UNPACKED_BESIDE:
            raise InputError(f"{path} would unpack to {unpacked / 1e9:.1f} GB: refused; save it again")
        return {member.filename.partition("/")[2]: _content(archive, member) for member in archive.infolist()}


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """What a member unpacks to; never more than the size that the archive states, which may be wrong."""
    with archive.open(member) as file:
        return file.read(member.file_size)


def _checked(path: Path, members: Mapping[str, bytes]) -> IO[bytes]:
    """An archive of the members, each of which is harmless. Raises InputError if one is not."""
    for member, content in members.items():
        if reason := _suspicious(member, content):
            raise InputError(f"{path} holds {reason}: refused, since loading it could run code")
    checked = io.BytesIO()
    with zipfile.ZipFile(checked, "w") as archive:
        for member, content in members.items():
            archive.writestr(f"{path.stem}/{member}", content)
    checked.seek(0)
    return checked


def _drop_metadata(part: Any) -> None:
    """Leaves of each node's metadata, in place, the modules that it comes from."""
    if isinstance(part, list):
        for item in part:
            _drop_metadata(item)
    elif isinstance(part, dict):
        if "metadata" in part and "inputs" in part:
            part["metadata"] = {
                key: part["metadata"][key] for key in _NODE_METADATA & part["metadata"].keys()
            }
        for item in part.values():
            _drop_metadata(item)


def _suspicious(member: str, content: bytes) -> str:
    """What about a member of the archive could run code, in words; empty where nothing could."""
    if not _MEMBER.fullmatch(member):
        return member
    if member.endswith("_config.json"):
        payloads = json.loads(content)["config"].values()
        return f"pickled objects ({member})" if any(payload["use_pickle"] for payload in payloads) else ""
    if member == "models/model.json":
        return next(_suspicious_parts(json.loads(content)), "")
    if member.startswith("data/sample_inputs/") and content:  # torch unpickles these if they are there
        return f"sample inputs ({member})"
    return ""


def _suspicious_parts(part: Any) -> Iterator[str]:
    if isinstance(part, list):
        for item in part:
            yield from _suspicious_parts(item)
    elif isinstance(part, dict):
        target = part.get("target")
        harmless = not isinstance(target, str) or (_OPERATOR.fullmatch(target) and "__" not in target)
        if "inputs" in part and not harmless:
            yield f"the operator {target}"
        size = _SYMBOL.sub("s0", str(part.get("expr_str", "")))
        names = re.findall(r"[^\W\d]\w*", size)
        if not _SIZE.fullmatch(size) or not all(_SIZE_NAME.fullmatch(name) for name in names):
            yield f"the size expression {part['expr_str']}"
        if "metadata" in part and "inputs" in part and set(part["metadata"]) - _NODE_METADATA:
            yield f"node metadata {', '.join(sorted(set(part['metadata']) - _NODE_METADATA))}"
        for spec in ("in_spec", "out_spec"):  # an enumeration or a default is found by importing its module
            if re.search("__enum__|default_factory", str(part.get(spec, ""))):
                yield f"the structure {part[spec]}"
        for item in part.values():
            yield from _suspicious_parts(item)
