"""Data by name: digits, folders of images and sounds, texts, random inputs, and the user's loaders."""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch.utils.data import DataLoader, RandomSampler

from zeropoint.data import batches
from zeropoint.data import datasets as saved
from zeropoint.data import jsonl as lines
from zeropoint.data.audiofolder import audiofolder
from zeropoint.data.coco import coco
from zeropoint.data.digits import digits
from zeropoint.data.imagefolder import imagefolder
from zeropoint.data.loaders import Loaders, limited
from zeropoint.data.noise import noise
from zeropoint.data.voc import voc
from zeropoint.errors import InputError, closest
from zeropoint.models.source import Preprocessing, RandomInputs
from zeropoint.models.userfile import call, is_userfile

__all__ = ["Loaders", "resolve", "task_of"]

FORMS = (
    "digits, imagefolder:DIR, coco:DIR, voc:DIR, audiofolder:DIR, jsonl:FILE, datasets:DIR, random,"
    " random:3x32x32 or FILE.py:FUNCTION"
)
FACTS = ("mean", "std", "sample_rate", "preprocessing")  # of the inputs, beside the loaders


def task_of(spec: str | None) -> str | None:
    """The task that the data is for, if the form of the data says it; None if its batches are to tell."""
    kind, _, rest = (spec or "").partition(":")
    if kind == "jsonl" and rest:
        return lines.task_of(_options(rest)[0])
    if kind == "datasets" and rest:
        return saved.task_of(_options(rest)[0])
    return {"coco": "detection", "voc": "segmentation"}.get(kind)


def resolve(
    spec: str,
    *,
    batch_size: int = 32,
    limit_batches: int | None = None,
    seed: int = 0,
    inputs: RandomInputs | None = None,
    preprocessing: Preprocessing | None = None,
    tokenizer: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Loaders:
    """The loaders of the data that ``spec`` names. What is read is said in one line.

    ``spec`` is ``digits``, ``imagefolder:DIR``, ``coco:DIR`` or ``voc:DIR`` (images of any size, to which
    ``preprocessing`` is applied; None if the model tells none), ``audiofolder:DIR``, ``jsonl:FILE`` (texts,
    through the model's ``tokenizer``), ``datasets:DIR`` (images or texts), ``random`` (the ``inputs`` of the
    model, or images), ``random:3x32x32`` or ``FILE.py:FUNCTION``: user code, called with no arguments, that
    returns a dict of the loaders ``calibration`` and ``evaluation`` and perhaps ``train`` and ``validation``,
    and of ``mean``, ``std``, ``sample_rate`` and ``preprocessing``. The length of sounds and texts may
    follow, as in ``audiofolder:DIR@16000``, and a tokenizer of texts, as in ``jsonl:FILE@FOLDER`` or
    ``datasets:DIR@FOLDER@64``. ``batch_size`` and ``seed`` do not reach user code; ``limit_batches`` cuts
    every loader.

    Raises InputError for unknown names and for data that cannot be used.
    """
    if batch_size < 1:
        raise InputError(f"batch size {batch_size} is no size; give 1 or more")
    kind, colon, rest = spec.partition(":")
    how = preprocessing or Preprocessing()
    path, length, folder = _options(rest)
    if is_userfile(spec):
        loaders = _user_loaders(spec)
    elif spec == "digits":
        loaders = digits(batch_size, seed)
    elif kind == "imagefolder" and rest:
        loaders = imagefolder(Path(rest), batch_size=batch_size, seed=seed, preprocessing=how)
    elif kind == "coco" and rest:
        loaders = coco(Path(rest), batch_size=batch_size, seed=seed, preprocessing=preprocessing)
    elif kind == "voc" and rest:
        loaders = voc(Path(rest), batch_size=batch_size, seed=seed, preprocessing=how)
    elif kind == "audiofolder" and rest:
        loaders = audiofolder(path, length, batch_size=batch_size, seed=seed)
    elif kind == "jsonl" and rest:
        loaders = lines.jsonl(path, folder or tokenizer, length, batch_size=batch_size, seed=seed)
    elif kind == "datasets" and rest:
        loaders = saved.datasets(
            path, length, folder, tokenizer=tokenizer, batch_size=batch_size, seed=seed, preprocessing=how
        )
    elif kind == "random" and bool(rest) == bool(colon):
        loaders = noise(rest, inputs, batch_size, seed)
    else:
        raise InputError(f"unknown data {spec}; give {FORMS}")
    most = f"; at most {limit_batches} of its batches in each part" if limit_batches else ""
    say(f"data: {loaders.description}{most}")
    return limited(loaders, limit_batches)


def _options(rest: str) -> tuple[Path, int | None, str | None]:
    """The path of PATH@LENGTH@FOLDER, and the two options, in any order; None for one that is not given."""
    if Path(rest).exists():
        return Path(rest), None, None
    path, *given = rest.split("@")
    lengths = [one for one in given if one.isdecimal()]
    folders = [one for one in given if not one.isdecimal()]
    if len(lengths) > 1 or len(folders) > 1:
        raise InputError(f"{rest} has two lengths or two folders; give one, as in {path}@{given[0]}")
    return Path(path), int(lengths[0]) if lengths else None, folders[0] if folders else None


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
    first = batches.shapes(batches.first_batch(parts["evaluation"]))
    return Loaders(name=spec, **parts, description=f"{spec}, whose first batch is {first}")
