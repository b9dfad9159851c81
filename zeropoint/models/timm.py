"""timm's models by name, with the preprocessing of their own configs."""

from types import ModuleType

from zeropoint.errors import InputError, closest, first_line
from zeropoint.models.source import Preprocessing, Source, normal, settled
from zeropoint.models.vision import torchvision


def package() -> ModuleType:
    """timm. Raises InputError if it is not installed."""
    try:
        torchvision()  # which timm imports
        import timm
    except (InputError, ModuleNotFoundError) as error:
        raise InputError("timm is not installed; run: pip install 'zeropoint[timm]'") from error
    return timm


def names() -> list[str]:
    """The names of its architectures, without those of weights."""
    return list(package().list_models())


def source(name: str, weights: str) -> Source:
    """The model ``name``, perhaps with a tag, as in ``resnet50.a1_in1k``; ``weights``: default or none.

    Raises InputError for an unknown name or weights, and a download that fails.
    """
    timm = package()
    if weights not in ("default", "none"):
        fix = "give default, none or a file; the tag of weights is part of the name, as in resnet50.a1_in1k"
        raise InputError(f"unknown weights {weights} for timm/{name}; {fix}")
    if not timm.is_model(name.partition(".")[0]):
        raise InputError(f"unknown model timm/{name}; {closest(name, names())}")
    try:
        network = timm.create_model(name, pretrained=weights == "default")
    except Exception as error:  # of tags, and of the network: timm and its hub client raise many types
        fix = "give --weights none, or --weights with the path of a state dict"
        raise InputError(f"cannot get timm/{name}: {first_line(error)}; {fix}") from error
    config = timm.data.resolve_model_data_config(network)
    channels, height, width = config["input_size"]
    inputs = normal(channels, height, width)
    # The share of the image that the crop takes; "squash" changes the ratio of its sides, "center" does not.
    larger = [int(side / config["crop_pct"]) for side in (height, width)]
    resize = (larger[0], larger[1]) if config["crop_mode"] == "squash" else max(larger)
    preprocessing = Preprocessing(
        resize, (height, width), tuple(config["mean"]), tuple(config["std"]), config["interpolation"]
    )
    return Source(settled(network, inputs) if weights == "none" else network, inputs, preprocessing)
