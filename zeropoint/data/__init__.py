"""Data by name: the digits, folders of images, random inputs, and loaders of the user's own files."""

from collections.abc import Mapping
from pathlib import Path

from torch.utils.data import DataLoader, RandomSampler

from zeropoint.data import batches
from zeropoint.data.digits import digits
from zeropoint.data.imagefolder import imagefolder
from zeropoint.data.loaders import Loaders, limited
from zeropoint.data.noise import noise
from zeropoint.errors import InputError, closest
from zeropoint.models.source import Preprocessing, RandomInputs
from zeropoint.models.userfile import call, is_userfile

__all__ = ["Loaders", "resolve"]

FACTS = ("mean", "std", "sample_rate")  # of the inputs, beside the loaders


def resolve(
    spec: str,
    *,
    batch_size: int = 32,
    limit_batches: int | None = None,
    seed: int = 0,
    inputs: RandomInputs | None = None,
    preprocessing: Preprocessing | None = None,
) -> Loaders:
    """The loaders of the data that ``spec`` names.

    ``spec`` is ``digits``, ``imagefolder:DIR`` (images of any size, to which ``preprocessing`` is applied),
    ``random`` (the ``inputs`` of the model, or images), ``random:3x32x32`` or ``FILE.py:FUNCTION``: user
    code, called with no arguments, that returns a dict of the loaders ``calibration`` and ``evaluation`` and
    perhaps ``train`` and ``validation``, and of ``mean``, ``std`` and ``sample_rate``.
    ``batch_size`` and ``seed`` do not reach user code; ``limit_batches`` cuts every loader.

    Raises InputError for unknown names and for data that cannot be used.
    """
    if batch_size < 1:
        raise InputError(f"batch size {batch_size} is no size; give 1 or more")
    kind, colon, rest = spec.partition(":")
    if is_userfile(spec):
        loaders = _user_loaders(spec)
    elif spec == "digits":
        loaders = digits(batch_size, seed)
    elif kind == "imagefolder" and rest:
        how = preprocessing or Preprocessing()
        loaders = imagefolder(Path(rest), batch_size=batch_size, seed=seed, preprocessing=how)
    elif kind == "random" and bool(rest) == bool(colon):
        loaders = noise(rest, inputs, batch_size, seed)
    else:
        valid = "digits, imagefolder:DIR, random, random:3x32x32 or FILE.py:FUNCTION"
        raise InputError(f"unknown data {spec}; give {valid}")
    return limited(loaders, limit_batches)


def _user_loaders(spec: str) -> Loaders:
    parts = call(spec, "make_loaders")
    required, optional = ("calibration", "evaluation"), ("train", "validation")
    if not isinstance(parts, dict):
        raise InputError(
            f"{spec} returned a {type(parts).__name__}; return a dict of {' and '.join(required)}"
        )
    for name in parts:
        if name not in required + optional + FACTS:
            raise InputError(
                f"{spec} returned an unknown loader {name}; {closest(str(name), required + optional + FACTS)}"
            )
    for name in required:
        if parts.get(name) is None:
            raise InputError(f"{spec} returned no {name} loader; add it to the dict")
    for name in required + optional:
        if (loader := parts.get(name)) is None:
            continue
        batches.check(loader, f"the {name} loader of {spec}")
        if name != "train" and isinstance(loader, DataLoader) and isinstance(loader.sampler, RandomSampler):
            raise InputError(f"the {name} loader of {spec} shuffles; make it with shuffle=False")
        try:
            batch = batches.first_batch(loader)
            if not (isinstance(batch, Mapping) and batch):  # whose keys are arguments of the model
                batches.split(batch)
        except InputError as error:
            raise InputError(f"the {name} loader of {spec}: {error}") from error
    return Loaders(name=spec, **parts)
