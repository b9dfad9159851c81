"""OpenVINO's kernels: for every int8 convolution the one that is fastest on this machine, by measurement.

OpenVINO takes the first of a fixed list that fits. On AVX-512 VNNI its other kernels take 72 to 170% of that
one's time, layer by layer, and shapes alone do not tell which: the best for each layer gain 3% on
MobileNetV3, 2% on EfficientNetV2-S and ShuffleNetV2, and half a percent on ResNets. All compute the same
integers.
"""

import statistics
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

# Kernels to try on all convolutions, the first that fits; and what has to come before them: where the
# processor multiplies matrices by AMX, nothing else is as fast.
TRIED = (("jit_avx512_dw", "jit_avx512_1x1", "jit_avx512"), ("jit_avx512_dw", "jit_avx512"))
BEFORE = ("brgconv_avx512_amx_1x1", "brgconv_avx512_amx")
SECONDS = 0.5  # of calls of all candidates together
ROUNDS = (5, 30)  # at least and at most
GAIN = 0.97  # of the time of OpenVINO's own choice that another has to do with; less may be noise
WORTH = 0.1  # of a model's time that its int8 convolutions have to take


@dataclass(frozen=True)
class Timed:
    """A compiled model: the kernel of each int8 convolution by its layer's name, and a call of it.

    The call gives the seconds of every layer that computes.
    """

    kernels: Mapping[str, str]
    call: Callable[[], Mapping[str, float]]


def choose_kernels(path: Path, compile: Callable[[Path], Timed]) -> None:
    """Writes into OpenVINO's ``.xml`` at ``path`` which kernels its int8 convolutions are to use.

    ``compile`` is given ``path``, and other models beside it that share its weights.
    """
    own = compile(path)
    own.call()
    taken = own.call()
    if sum(taken[name] for name in own.kernels) <= WORTH * sum(taken.values()):
        return
    candidates = [own]
    for number, kernels in enumerate(TRIED):
        other = path.with_name(f"kernels-{number}.xml")
        _write(path, other, dict.fromkeys(own.kernels, kernels))
        candidates.append(compile(other))
        other.unlink()
    chosen = {}
    seconds = _interleave(candidates, own.kernels)
    for name, first in own.kernels.items():
        times = [seconds[name][number] for number in range(len(candidates))]
        best = min(range(len(candidates)), key=times.__getitem__)
        if times[best] < GAIN * times[0] and candidates[best].kernels[name] != first:
            chosen[name] = TRIED[best - 1]
    if chosen:
        _write(path, path, chosen)


def _interleave(candidates: list[Timed], names: Collection[str]) -> dict[str, list[float]]:
    """For each convolution its median time in each candidate, over rounds of one call of all."""
    samples: dict[str, list[list[float]]] = {name: [[] for _ in candidates] for name in names}
    for candidate in candidates:
        candidate.call()
    end = time.perf_counter() + SECONDS
    least, most = ROUNDS
    for number in range(most):
        if number >= least and time.perf_counter() > end:
            break
        for position, candidate in enumerate(candidates):
            taken = candidate.call()
            for name in names:
                samples[name][position].append(taken[name])
    return {name: [statistics.median(times) for times in columns] for name, columns in samples.items()}


def _write(source: Path, path: Path, chosen: Mapping[str, tuple[str, ...]]) -> None:
    """Writes the model at ``source`` to ``path``, with an order of kernels for the layers of these names.

    The attribute is OpenVINO's own; of kernels that it names none, OpenVINO takes those of its list.
    """
    tree = ElementTree.parse(source)
    for layer in tree.iter("layer"):
        kernels = chosen.get(layer.get("name", ""))
        if kernels is None:
            continue
        attributes = layer.find("rt_info")
        if attributes is None:
            attributes = ElementTree.Element("rt_info")
            layer.insert(1, attributes)  # behind its data
        order = ",".join(f"cpu:{kernel}" for kernel in (*BEFORE, *kernels))
        facts = {"name": "primitives_priority", "version": "0", "value": order}
        ElementTree.SubElement(attributes, "attribute", facts)
    tree.write(path, xml_declaration=True, encoding="utf-8")
