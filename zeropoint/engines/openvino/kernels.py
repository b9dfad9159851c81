"""OpenVINO's kernels: for every int8 convolution the one that is fastest on this machine, by measurement.

OpenVINO takes the first of a fixed list that fits. On AVX-512 VNNI its other kernels take 72 to 170% of that
one's time, layer by layer, and shapes alone do not tell which: the best for each layer gain 3% on
MobileNetV3, 2% on EfficientNetV2-S and ShuffleNetV2, and half a percent on ResNets. All compute the same
integers.
"""

import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

# Kinds of processors with such kernels: with AVX2 alone there is one for each kind of convolution.
CHOSEN_FOR = ("avx512", "vnni", "amx")
# Kernels to try on all convolutions, the first that fits. Those of BEFORE go first: where the processor
# multiplies matrices by AMX, nothing else is as fast.
TRIED = (("jit_avx512_dw", "jit_avx512_1x1", "jit_avx512"), ("jit_avx512_dw", "jit_avx512"))
BEFORE = ("brgconv_avx512_amx_1x1", "brgconv_avx512_amx")
SECONDS = 0.5  # of calls of all candidates together
ROUNDS = 30  # at most
# What another kernel has to gain over OpenVINO's own choice; less may be noise: a share, and seconds.
GAIN, LEAST = 0.03, 1e-6
WORTH = 0.1  # of a model's time that its int8 convolutions have to take


@dataclass(frozen=True)
class Timed:
    """A compiled model: the kernel of each int8 convolution by its layer's name, and a call of it.

    ``seconds`` gives what every layer took on average since it was last asked.
    """

    kernels: Mapping[str, str]
    run: Callable[[], None]
    seconds: Callable[[], Mapping[str, float]]


def choose_kernels(path: Path, compile: Callable[[Path], Timed]) -> None:
    """Writes into OpenVINO's ``.xml`` at ``path`` which kernels its int8 convolutions are to use.

    ``compile`` is given ``path``, and other models beside it that share its weights.
    """
    own = compile(path)
    if not own.kernels:
        return
    own.run()
    taken = own.seconds()
    if sum(taken[name] for name in own.kernels) <= WORTH * sum(taken.values()):
        return
    others = {}
    for number, kernels in enumerate(TRIED):
        file = path.with_name(f"kernels-{number}.xml")
        _write(path, file, dict.fromkeys(own.kernels, kernels))
        try:
            other = compile(file)
        except RuntimeError:  # an order that this OpenVINO cannot take
            continue
        finally:
            file.unlink()
        if other.kernels.keys() == own.kernels.keys() and other.kernels != own.kernels:
            others[kernels] = other
    if others and (chosen := _fastest(own, others)):
        _write(path, path, chosen)


def _fastest(own: Timed, others: Mapping[tuple[str, ...], Timed]) -> dict[str, tuple[str, ...]]:
    """For each convolution that another kernel is faster for than its own, the order that gives it."""
    models = [own, *others.values()]
    for model in models:
        model.run()  # the first call takes several times as long
        model.seconds()
    end = time.perf_counter() + SECONDS
    for _ in range(ROUNDS):
        for model in models:
            model.run()
        if time.perf_counter() > end:
            break
    before, *after = (model.seconds() for model in models)
    chosen = {}
    for name in own.kernels:
        seconds, kernels = min((taken[name], kernels) for taken, kernels in zip(after, others, strict=True))
        if before[name] - seconds > max(GAIN * before[name], LEAST):
            chosen[name] = kernels
    return chosen


def _write(source: Path, path: Path, chosen: Mapping[str, tuple[str, ...]]) -> None:
    """Writes the model at ``source`` to ``path``, with an order of kernels for the layers of these names.

    The attribute is OpenVINO's own. Where none of these kernels fits a layer, OpenVINO goes on with its list.
    """
    tree = ElementTree.parse(source)
    for layer in tree.iter("layer"):
        kernels = chosen.get(layer.get("name", ""))
        if kernels is None:
            continue
        attributes = layer.find("rt_info")
        if attributes is None:
            attributes = ElementTree.Element("rt_info")
            layer.insert(1, attributes)  # after its data
        order = ",".join(f"cpu:{kernel}" for kernel in (*BEFORE, *kernels))
        facts = {"name": "primitives_priority", "version": "0", "value": order}
        ElementTree.SubElement(attributes, "attribute", facts)
    tree.write(path, xml_declaration=True, encoding="utf-8")
