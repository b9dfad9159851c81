"""The ``.pt2`` archive: kept small on disk, and found harmless before ``torch.export.load`` sees it.

By itself torch may run code from the file: it unpickles what the archive marks as pickled, loads compiled code
that lies in it, resolves operators by walking attributes from ``torch``, and evaluates the text of symbolic
sizes. A saved Program needs none of that beyond ATen operators and arithmetic on sizes.
"""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zeropoint.errors import InputError

_OPERATOR = re.compile(r"torch\.ops\.[a-z]\w*\.\w+\.\w+|torch\.sym_\w+|_operator\.[a-z]+|math\.[a-z]+")
# A size as SymPy spells it, such as Mul(Integer(2), Symbol('s77', positive=True, integer=True)).
_SYMBOL = re.compile(r"'[su]\d+'")
_SIZE = re.compile(r"[\w\s+\-*/%(),<>=]*")
_SIZE_NAME = re.compile(
    r"Symbol|Integer|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|ModularIndexing"
    r"|[su]\d+|positive|nonnegative|integer|True|False"
)
_NODE_METADATA = {"nn_module_stack"}


def repack(source: Path, destination: Path, *, deflate: tuple[str, ...], drop: tuple[str, ...] = ()) -> None:
    """Copies a ``.pt2`` archive, members with the endings ``deflate`` compressed; torch reads either kind.

    The graph is JSON of about 1 kB an operator, which would outweigh the weights of a small network; it shrinks to
    a twelfth, a compiled library to a quarter. Members with the endings ``drop`` are left out.
    """
    with zipfile.ZipFile(source) as plain, zipfile.ZipFile(destination, "w") as packed:
        for member in plain.infolist():
            if not member.filename.endswith(drop):
                kind = zipfile.ZIP_DEFLATED if member.filename.endswith(deflate) else zipfile.ZIP_STORED
                packed.writestr(member.filename, plain.read(member), kind)


def read_metadata(path: Path, name: str) -> dict[str, Any]:
    """The JSON that the archive holds as extra file ``name``, once the whole archive has been found harmless.

    Raises InputError for a file that is missing, damaged, no such archive, or that holds what could be code.
    """
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.partition("/")[2]: archive.getinfo(member) for member in archive.namelist()}
            if f"extra/{name}" not in members:
                raise InputError(f"{path} is not a Program saved by zeropoint (no {name} in it)")
            if damaged := archive.testzip():
                raise InputError(f"{path} is damaged at {damaged}; save it again")
            for member, information in members.items():
                if reason := _suspicious(member, information, archive):
                    raise InputError(f"{path} holds {reason}: refused, since loading it could run code")
            return json.loads(archive.read(members[f"extra/{name}"]))
    except (zipfile.BadZipFile, EOFError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a saved Program, or is truncated ({error}); save it again") from error


def _suspicious(member: str, information: zipfile.ZipInfo, archive: zipfile.ZipFile) -> str:
    """What about a member of the archive could run code, in words; empty where nothing could."""
    if member.endswith("_config.json"):
        payloads = json.loads(archive.read(information))["config"].values()
        return f"pickled objects ({member})" if any(payload["use_pickle"] for payload in payloads) else ""
    if member.startswith("models/"):
        return next(_suspicious_parts(json.loads(archive.read(information))), "")
    if member.startswith("data/sample_inputs/"):  # torch unpickles these if they are there
        return f"sample inputs ({member})" if information.file_size else ""
    if member.startswith("data/") and not member.startswith("data/weights/weight_"):
        return member
    return ""


def _suspicious_parts(part: Any) -> Iterator[str]:
    if isinstance(part, list):
        for item in part:
            yield from _suspicious_parts(item)
    elif isinstance(part, dict):
        target = part.get("target")
        if isinstance(target, str) and "inputs" in part and not (_OPERATOR.fullmatch(target) and "__" not in target):
            yield f"the operator {target}"
        size = _SYMBOL.sub("s0", str(part.get("expr_str", "")))
        names = re.findall(r"[^\W\d]\w*", size)
        if not _SIZE.fullmatch(size) or not all(_SIZE_NAME.fullmatch(name) for name in names):
            yield f"the size expression {part['expr_str']}"
        if "metadata" in part and "inputs" in part and set(part["metadata"]) - _NODE_METADATA:
            yield f"node metadata {', '.join(sorted(set(part['metadata']) - _NODE_METADATA))}"
        for item in part.values():
            yield from _suspicious_parts(item)
