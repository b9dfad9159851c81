"""Seals: a digest at the end of an artefact, by which damage to any of its files is noticed."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

KEY = "zeropoint_sha256"
_HEX = 64


def onnx_seal() -> tuple[bytes, bytes]:
    """What stands before and after the digest in an ``.onnx``: an entry of its metadata.

    A message of protobuf may have its fields in any order, so that the entry (``metadata_props``, field 14 of
    ModelProto, with key and value in fields 1 and 2) can be added at the end of the file.
    """
    key = KEY.encode()
    entry = b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([_HEX])
    return b"\x72" + bytes([len(entry) + _HEX]) + entry, b""


def xml_seal() -> tuple[bytes, bytes]:
    """What stands before and after the digest in an ``.xml``: a comment after its root."""
    return f"<!--{KEY} ".encode(), b"-->"


def seal(files: Sequence[Path], form: tuple[bytes, bytes]) -> None:
    """Adds to the first of the files a digest of all of them."""
    before, after = form
    digest = _digest(files[0].read_bytes(), files[1:])
    with files[0].open("ab") as file:
        file.write(before + digest + after)


def damage(files: Sequence[Path], form: tuple[bytes, bytes]) -> str | None:
    """That the files are not what was sealed, in words; None if they are, or carry no seal."""
    before, after = form
    content = files[0].read_bytes()
    length = len(before) + _HEX + len(after)
    trailer = content[-length:]
    if KEY.encode() not in content:
        return None
    sealed = trailer.startswith(before) and trailer.endswith(after)
    if sealed and trailer[len(before) :][:_HEX] == _digest(content[:-length], files[1:]):
        return None
    return "its digest is another than when it was written: it is damaged, or was changed"


def _digest(content: bytes, others: Sequence[Path]) -> bytes:
    made = hashlib.sha256(content)
    for path in others:
        made.update(path.read_bytes())
    return made.hexdigest().encode()
