"""Saved Programs notice damage: by the digest of every member, and by sizes before anything is unpacked."""

import json
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from networks import images, residual

from zeropoint.errors import InputError
from zeropoint.graph import archive
from zeropoint.graph.program import load


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "a.pt2"
    residual().save(path)
    return path


def with_members(saved, target, change):
    """A copy with ``change`` applied to the members, and the old digests."""
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(target, "w") as made:
        for name in source.namelist():
            content = change(name.partition("/")[2], source.read(name))
            if content is not None:
                made.writestr(name, content)
    return target


def test_every_member_has_its_digest(saved):
    members = archive.members(saved)
    assert json.loads(members[archive.DIGESTS]).keys() == members.keys() - {archive.DIGESTS}
    assert torch.export.load(str(saved)).module()(images(2)).shape == (2, 5)


def test_a_flipped_bit_is_noticed_in_every_member(saved, tmp_path):
    """With checksums that fit, as of a copy that damages memory before it writes."""
    for member in [name for name, content in archive.members(saved).items() if content]:

        def flipped(name, content, member=member):
            if name != member or not content:
                return content
            return (
                content[: len(content) // 2]
                + bytes([content[len(content) // 2] ^ 4])
                + content[len(content) // 2 + 1 :]
            )

        with pytest.raises(InputError, match=r"digest|damaged|newer") as error:
            load(with_members(saved, tmp_path / "b.pt2", flipped))
        assert "\n" not in str(error.value)


def test_a_member_that_is_missing_is_noticed(saved, tmp_path):
    weight = next(name for name in archive.members(saved) if "weights/weight_" in name)
    path = with_members(saved, tmp_path / "b.pt2", lambda name, content: None if name == weight else content)
    with pytest.raises(InputError, match=f"{weight} has another digest than when it was saved"):
        load(path)


def test_digests_that_are_missing_are_noticed(saved, tmp_path):
    path = with_members(
        saved, tmp_path / "b.pt2", lambda name, content: None if name == archive.DIGESTS else content
    )
    with pytest.raises(InputError, match="damaged"):
        load(path)


def test_random_flips_are_noticed_or_harmless(saved, tmp_path):
    content, generator = saved.read_bytes(), np.random.default_rng(0)
    expected, seen = residual()(images()), 0
    for place in generator.integers(0, 8 * len(content), 80):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << (place % 8)
        (tmp_path / "b.pt2").write_bytes(damaged)
        try:
            found = load(tmp_path / "b.pt2")(images())
        except InputError:
            seen += 1
            continue
        assert torch.equal(found, expected)
    assert seen > 60


def test_an_archive_that_unpacks_to_far_more_is_refused_before(tmp_path):
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("bomb/extra/zeropoint.json", b"{}")
        for number in range(8):
            made.writestr(f"bomb/data/weights/weight_{number}", bytes(2**25))
    assert path.stat().st_size < 2**19
    tracemalloc.start()
    with pytest.raises(InputError, match=r"bomb\.pt2 would unpack to 0\.3 GB: refused"):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_size_that_lies_is_noticed(tmp_path):
    """The size in the directory is what is read at most, and the checksum is then wrong."""
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("bomb/extra/zeropoint.json", bytes(2**26))
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02") + 24  # the unpacked size of the directory's only entry
    content[place : place + 4] = (16).to_bytes(4, "little")
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(InputError, match="damaged"):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_a_file_far_smaller_unpacked_opens(tmp_path):
    """A network of few weights, whose graph of JSON shrinks most."""
    residual().save(tmp_path / "a.pt2")
    unpacked = sum(len(content) for content in archive.members(tmp_path / "a.pt2").values())
    assert unpacked < archive.MOST_UNPACKED * (tmp_path / "a.pt2").stat().st_size / 2
