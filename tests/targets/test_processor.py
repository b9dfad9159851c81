from pathlib import Path

import pytest

from zeropoint.errors import InputError, InputWarning
from zeropoint.targets import processor
from zeropoint.targets.options import Options
from zeropoint.targets.processor import (
    PROCESSORS,
    find,
    mismatch,
    native,
    of_instruction_sets,
    parse_cpuinfo,
    warn_of,
)


@pytest.mark.parametrize(
    ("sets", "name"),
    [
        (["avx2"], "avx2"),
        (["avx2", "avx512f"], "avx512"),
        (["avx2", "avx512f", "avx512_vnni"], "vnni"),
        (["avx2", "avx_vnni"], "vnni"),  # Alder Lake has it without AVX-512
        (["avx2", "avx512f", "avx512_vnni", "amx_int8"], "amx"),
        (["asimddp"], "arm"),
        ([], "any"),
    ],
)
def test_a_machine_is_of_the_newest_kind_that_it_has_instructions_of(sets: list[str], name: str):
    assert of_instruction_sets(sets).name == name


def test_native_is_one_of_them_and_what_options_mean_by_default():
    assert PROCESSORS[native().name] == native() == find("native")
    assert Options().processor == native().name
    assert Options(processor="vnni").processor == "vnni"


def test_an_unknown_name_is_told_with_those_there_are():
    with pytest.raises(
        InputError, match="unknown processor 'avx1'; valid: native, amx, vnni, avx512, avx2, arm, any"
    ):
        Options(processor="avx1")


@pytest.mark.parametrize(
    ("made_for", "here", "words"),
    [
        ("vnni", "avx2", "its int8 results overflow on this one, x86 with AVX2, without VNNI; quantize with"),
        ("arm", "avx512", "overflow"),
        ("avx2", "vnni", "right on this one"),
        ("avx2", "avx512", None),
        ("vnni", "amx", None),
        ("any", "avx2", None),
        ("any", "vnni", None),
        ("", "avx2", None),
        ("of a newer version", "avx2", None),
    ],
)
def test_what_becomes_of_an_artefact_on_another_processor(made_for: str, here: str, words: str | None):
    told = mismatch(made_for, PROCESSORS[here])
    assert told is None if words is None else (told is not None and words in told)


def test_the_kind_is_read_from_the_flags_of_the_first_core(monkeypatch: pytest.MonkeyPatch):
    _, sets = parse_cpuinfo("flags\t\t: fpu avx2 avx512f\n\nflags\t\t: fpu avx2 avx512f avx512_vnni\n")
    assert of_instruction_sets(sets).name == "avx512"
    monkeypatch.setattr(processor.platform, "machine", lambda: "aarch64")
    native.cache_clear()
    assert native().name == "arm"
    native.cache_clear()


def test_a_machine_whose_system_does_not_tell_is_any(monkeypatch: pytest.MonkeyPatch):
    def read_text(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(processor.Path, "read_text", lambda _: "flags\t: avx2 avx512_vnni\n")
    native.cache_clear()
    assert native().name == "vnni"
    monkeypatch.setattr(processor.Path, "read_text", read_text)
    native.cache_clear()
    assert native().name == "any"
    native.cache_clear()


def test_an_artefact_for_another_processor_is_warned_of(monkeypatch: pytest.MonkeyPatch, recwarn):
    monkeypatch.setattr(processor, "native", lambda: PROCESSORS["avx2"])
    for fit in ("avx512", "any", ""):
        warn_of(fit, "model.onnx")
    assert not recwarn.list
    assert mismatch("vnni") == mismatch("vnni", PROCESSORS["avx2"])
    with pytest.warns(InputWarning, match="model.onnx was made for x86 with VNNI: its int8 results overflow"):
        warn_of("vnni", "model.onnx")
