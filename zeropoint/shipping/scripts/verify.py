"""Checks this folder where it is deployed: python verify.py.

Files and digests, the engine's version, the processor, the preprocessing, outputs against the golden ones,
the kernels that ran, latency and memory; and says in words why something is slower, larger or different.

The exit status is 0 if the model computes what it did where it was made, 1 if not, and 2 if there is nothing
to check. What is only slower or larger is a warning. Needs what predict.py needs, and no more.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()

import numpy as np  # noqa: E402  # after the clock is started
import predict  # noqa: E402
from differences import difference, sqnr_db  # noqa: E402

OK, WARNING, FAILED = "ok", "warning", "FAILED"
SLOWER, LARGER = 1.25, 1.5  # times what was measured, from which on there is a warning


@dataclass(frozen=True)
class Finding:
    """What one check found: ``ok``, a ``warning`` or ``FAILED``, and that in words."""

    check: str
    status: str
    words: str


def verify(
    folder: Path, *, prepared: str | None = None, threads: int | None = None, seconds: float = 2.0
) -> list[Finding]:
    """Every check of a folder, in order; after damaged files or without the engine it goes no further.

    ``prepared``: an .npz file with the inputs that the caller's own code makes of the sample images.
    """
    manifest = predict.read_manifest(folder)
    found = [files(folder, manifest)]
    if found[0].status == FAILED:
        return found
    engine = predict.engine_of(manifest)
    found.append(engine_version(manifest, engine.version()))
    cpu = this_processor()
    found.append(processor(manifest, cpu))
    found += preprocessing(folder, manifest, prepared)
    inputs = predict.of_arrays(str(folder / manifest["golden"]["inputs"]))
    golden = predict.of_arrays(str(folder / manifest["golden"]["outputs"]))
    try:
        model = predict.load(folder, threads, check=False)
        arrays = model.checked(inputs)
        given = model.flat(arrays)
    except predict.WrongError:
        raise
    except Exception as error:  # engines fail in any way on what an older one does not know
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        why = f"{manifest['engine']['package']} cannot run it: {line}"
        return [*found, Finding("outputs", FAILED, f"{why}; {found[1].words}")]
    seen = {
        "first_result_seconds": time.perf_counter() - STARTED,
        "latency_ms": latency(model, arrays, manifest, seconds),
        "memory_bytes": peak_memory(),
        "threads": threads or manifest["measured"]["threads"],
        "kernels": engine.kernels(
            folder / manifest["engine"]["files"][0],
            manifest,
            threads or manifest["measured"]["threads"],
            arrays,
        ),
        "engine_version": engine.version(),
        "cpu": cpu,
    }
    names = [port["name"] for port in manifest["outputs"]]
    found.append(outputs(manifest, golden, dict(zip(names, given, strict=True)), found[2]))
    return [
        *found,
        kernels(manifest, seen),
        timing(manifest, seen),
        first(manifest, seen),
        memory(manifest, seen),
    ]


def files(folder: Path, manifest: Mapping[str, Any]) -> Finding:
    """Sizes first, then digests, of every file that the manifest lists."""
    problems = [
        problem
        for name, known in manifest["files"].items()
        if (problem := predict.damage(folder, name, known))
    ]
    if problems:
        return Finding("files", FAILED, "; ".join(problems))
    return Finding("files", OK, f"{len(manifest['files'])} files have the sizes and digests of the manifest")


def engine_version(manifest: Mapping[str, Any], here: str) -> Finding:
    """The version of the engine against the one that it was measured with, and the minimal one."""
    engine = manifest["engine"]
    made, least, name = engine["version"], engine["minimum"], engine["package"]
    if _numbers(here) < _numbers(least):
        words = f"{name} {here} is older than {least}, the minimum; run: pip install -r requirements.txt"
        return Finding("engine", FAILED, words)
    if engine["exact"] and _numbers(here) != _numbers(made):
        return Finding("engine", FAILED, f"{name} is {here}; this artefact runs on {made} alone")
    if _numbers(here) < _numbers(made):
        return Finding("engine", WARNING, f"{name} {here} is older than {made}, which it was measured with")
    return Finding("engine", OK, f"{name} {here}, made with {made}")


def processor(manifest: Mapping[str, Any], cpu: Mapping[str, Any]) -> Finding:
    """Whether the artefact was made for this kind of processor."""
    known = {kind["name"]: kind for kind in manifest["processor"]["kinds"]}
    here, made = known[kind_of(cpu, known)], known.get(manifest["processor"]["made_for"])
    if made is None:
        return Finding("processor", OK, f"{here['words']}; a float model runs on all")
    if made["name"] == "any" or made["saturates"] == here["saturates"]:
        return Finding("processor", OK, f"{here['words']}; made for {made['words']}")
    fix = f"quantize with --processor {here['name']}, or any for all processors"
    if here["saturates"]:
        words = f"this processor has no VNNI and the artefact was made for one ({made['words']})"
        return Finding("processor", FAILED, f"{words}: its int8 results overflow here; {fix}")
    words = f"made for {made['words']}: right on this one, {here['words']}, but not as accurate as can be"
    return Finding("processor", WARNING, f"{words}; {fix}")


def preprocessing(folder: Path, manifest: Mapping[str, Any], prepared: str | None) -> list[Finding]:
    """Whether the sample images become the golden inputs, by predict.py and by the caller's own code."""
    golden, images = manifest["golden"], manifest["golden"]["images"]
    if prepared is None and (not images or manifest["preprocessing"] is None):
        return [Finding("preprocessing", OK, "none to check: the folder holds no images")]
    name = manifest["inputs"][0]["name"]
    wanted = predict.of_arrays(str(folder / golden["inputs"]))[name]
    made = []
    if images and manifest["preprocessing"] is not None:
        try:
            found = predict.of_images([str(folder / image) for image in images], manifest)[name]
        except predict.WrongError as error:
            return [Finding("preprocessing", WARNING, f"not checked: {error}")]
        made.append(_prepared("preprocessing", wanted[: len(images)], found, "predict.py and manifest.json"))
    if prepared is not None:
        arrays = predict.of_arrays(prepared)
        found = arrays.get(name, next(iter(arrays.values())))
        made.append(_prepared("your preprocessing", wanted, found, prepared))
    return made


def _prepared(check: str, wanted: np.ndarray, found: np.ndarray, what: str) -> Finding:
    if np.array_equal(wanted, found):
        return Finding(check, OK, f"{what} make the golden inputs of the sample images, to the bit")
    problem = difference(wanted, found)
    if problem is None:
        return Finding(check, OK, f"{what} make the golden inputs, but for rounding and decoders")
    return Finding(check, FAILED, f"{what} make other inputs of the sample images: {problem}")


def outputs(
    manifest: Mapping[str, Any],
    golden: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    processor: Finding,
) -> Finding:
    """The outputs against the golden ones: to the bit, or by their SQNR in dB."""
    if all(
        np.array_equal(golden[name], array, equal_nan=array.dtype.kind == "f")
        for name, array in found.items()
    ):
        return Finding("outputs", OK, "equal to the golden ones to the bit")
    worst = min(sqnr_db(golden[name], array) for name, array in found.items())
    least, words = manifest["golden"]["least_db"], f"{worst:.0f} dB of SQNR to the golden ones"
    if manifest["task"] == "classification":
        name, array = next(iter(found.items()))
        same = (array.argmax(-1) == golden[name].argmax(-1)).mean()
        words += f", the same class for {same:.0%} of the samples"
    if worst >= least:
        return Finding("outputs", OK, f"{words}; another processor or engine rounds otherwise")
    why = processor.words if processor.status != OK else "the engine computes something else here than there"
    return Finding("outputs", FAILED, f"{words}, and not {least:.0f} or more; {why}")


def latency(
    model: predict.Model, arrays: Sequence[np.ndarray], manifest: Mapping[str, Any], seconds: float
) -> float:
    """The median time of a call in milliseconds, on the batch that it was measured with."""
    one = batch(arrays, manifest)
    for _ in range(3):
        model.flat(one)
    times = list[float]()
    end = time.perf_counter() + seconds
    while len(times) < 20 or time.perf_counter() < end:
        start = time.perf_counter()
        model.flat(one)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def batch(arrays: Sequence[np.ndarray], manifest: Mapping[str, Any]) -> list[np.ndarray]:
    """The first golden item, repeated to the batch size of the measurement."""
    made = []
    for array, port in zip(arrays, manifest["inputs"], strict=True):
        if "batch" in port["shape"]:
            axis = port["shape"].index("batch")
            array = array.take([0] * manifest["measured"]["batch_size"], axis)
        made.append(np.ascontiguousarray(array))
    return made


def kernels(manifest: Mapping[str, Any], seen: Mapping[str, Any]) -> Finding:
    """How many layers ran in int8, against the number where the folder was made."""
    then, now = manifest["measured"]["kernels"], seen["kernels"]
    words = f"{now['int8']} of {now['int8'] + now['float']} layers ran in int8"
    if now["int8"] < then["int8"]:
        lost = f"{words}, and {then['int8']} where it was made"
        return Finding(
            "kernels",
            WARNING,
            f"{lost}: {manifest['engine']['package']} has no int8 kernels for the rest here",
        )
    return Finding("kernels", OK, words)


def timing(manifest: Mapping[str, Any], seen: Mapping[str, Any]) -> Finding:
    """The latency against what was measured, and why it is longer."""
    then, now = manifest["measured"]["latency_ms"], seen["latency_ms"]
    if then is None:
        return Finding("latency", OK, f"{now:.3g} ms; none was measured before")
    words = f"{now:.3g} ms, {now / then['p50']:.2f} times the {then['p50']:.3g} ms that were measured"
    if now <= SLOWER * then["p50"]:
        return Finding("latency", OK, words)
    return Finding("latency", WARNING, f"{words}: {'; '.join(reasons(manifest, seen))}")


def reasons(manifest: Mapping[str, Any], seen: Mapping[str, Any]) -> list[str]:
    """Why the model may be slower here than where it was measured."""
    there, here, found = manifest["processor"]["measured_on"], seen["cpu"], []
    if missing := [one for one in there["instruction_sets"] if one not in here["instruction_sets"]]:
        found.append(f"this processor lacks {', '.join(missing)}")
    if here["cores"] < seen["threads"]:
        found.append(f"{seen['threads']} threads share {here['cores']} cores")
    if seen["threads"] < manifest["measured"]["threads"]:
        found.append(f"{seen['threads']} threads and not {manifest['measured']['threads']}")
    if (now := seen["kernels"]["int8"]) < (then := manifest["measured"]["kernels"]["int8"]):
        found.append(f"{now} layers run in int8 and not {then}")
    if seen["engine_version"] != manifest["engine"]["version"]:
        found.append(f"the engine is {seen['engine_version']} and not {manifest['engine']['version']}")
    if here["load"] >= here["cores"]:
        found.append(f"the machine is busy (load {here['load']:.1f} on {here['cores']} cores)")
    if here["name"] != there["name"]:
        found.append(f"this is another processor: {here['name']} and not {there['name']}")
    return found or ["the same processor and engine: other work, a power limit or a virtual machine slows it"]


def first(manifest: Mapping[str, Any], seen: Mapping[str, Any]) -> Finding:
    """The time from the first import to the first outputs; the files may be in the system's cache."""
    return Finding("start", OK, f"{seen['first_result_seconds']:.2f} s from import to first outputs")


def memory(manifest: Mapping[str, Any], seen: Mapping[str, Any]) -> Finding:
    """The most memory of this process against what was measured."""
    then, now = manifest["measured"]["memory_bytes"], seen["memory_bytes"]
    words = f"{now / 1e6:.0f} MB at most"
    if not then or not now or now <= LARGER * then:
        return Finding("memory", OK, words)
    why = (
        "another version of the engine"
        if seen["engine_version"] != manifest["engine"]["version"]
        else "more threads or another allocator"
    )
    return Finding("memory", WARNING, f"{words}, and {then / 1e6:.0f} MB where it was made: {why}")


def this_processor() -> dict[str, Any]:
    """Name, instruction sets, cores and load of this machine."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        text = ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return of_cpuinfo(text) | {"cores": cores, "load": load, "machine": platform.machine().lower()}


def of_cpuinfo(text: str) -> dict[str, Any]:
    """The processor's name and instruction sets from the text of /proc/cpuinfo; Arm calls them Features."""
    first: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        first.setdefault(key.strip(), value.strip())
    flags = (first.get("flags") or first.get("Features") or "").split()
    return {"name": first.get("model name") or platform.machine(), "instruction_sets": flags}


def kind_of(cpu: Mapping[str, Any], kinds: Mapping[str, Any]) -> str:
    """The kind of a processor by its instruction sets: the first of ``kinds`` that has any of them."""
    if cpu.get("machine") in ("arm64", "aarch64"):
        return "arm"
    sets = set(cpu["instruction_sets"])
    return next((name for name, kind in kinds.items() if sets & set(kind["flags"])), "any")


def peak_memory() -> int:
    """The most memory that was resident in this process, in bytes; 0 where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8").partition("VmHWM:")[2]
        return int(status.split(maxsplit=1)[0]) * 1024
    except (OSError, ValueError, IndexError):
        return 0


def measure(folder: Path) -> dict[str, Any]:
    """What zeropoint writes in the manifest of a new folder, and its golden outputs, which it saves."""
    manifest = predict.read_manifest(folder)
    model = predict.load(folder, check=False)
    arrays = model.checked(predict.of_arrays(str(folder / manifest["golden"]["inputs"])))
    given = model.flat(arrays)
    seconds = time.perf_counter() - STARTED
    names = [port["name"] for port in manifest["outputs"]]
    np.savez(folder / manifest["golden"]["outputs"], **dict(zip(names, given, strict=True)))
    engine, threads = predict.engine_of(manifest), manifest["measured"]["threads"]
    model.flat(batch(arrays, manifest))
    found = {"first_result_seconds": seconds, "memory_bytes": peak_memory(), "version": engine.version()}
    path = folder / manifest["engine"]["files"][0]
    checked = preprocessing(folder, manifest, None)[0]
    return found | {
        "kernels": engine.kernels(path, manifest, threads, arrays),
        "again": all(map(np.array_equal, given, model.flat(arrays))),
        "preprocessing": [checked.status, checked.words],
    }


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, as in 1.22.0; what follows + is left out."""
    return tuple(
        int("".join(filter(str.isdigit, part)) or 0) for part in version.partition("+")[0].split(".")[:3]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and gives the exit status."""
    parser = argparse.ArgumentParser(description="Check this folder where it is deployed.")
    parser.add_argument("folder", nargs="?", default=str(Path(__file__).parent), help="default: this one")
    parser.add_argument("--prepared", help=".npz of the inputs that your own code makes of golden/images")
    parser.add_argument("--threads", type=int, help="threads; default: those of the measurement")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds to measure latency")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    folder = Path(given.folder)
    try:
        if given.measure:
            print(json.dumps(measure(folder)))
            return 0
        found = verify(folder, prepared=given.prepared, threads=given.threads, seconds=given.seconds)
    except predict.WrongError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = [one.check for one in found if one.status == FAILED]
    if given.json:
        print(json.dumps([vars(one) for one in found], indent=2))
    else:
        for one in found:
            print(f"{one.status:8}{one.check}: {one.words}")
        warnings = sum(one.status == WARNING for one in found)
        verdict = f"{', '.join(failed)} failed" if failed else "it computes what it did where it was made"
        print(
            f"{folder}: {verdict}" + (f", with {warnings} warning{'s' * (warnings > 1)}" if warnings else "")
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
