"""Nearly four hundred architectures with random weights, each with the inputs of one call."""

from . import patterns_other, patterns_sequence, patterns_vision, timm_models, torchvision_models
from . import transformers_models as language
from .spec import Architecture


def architectures() -> dict[str, Architecture]:
    """By name: plain patterns, then those of transformers, torchvision and timm."""
    patterns = (patterns_vision.patterns, patterns_sequence.patterns, patterns_other.patterns)
    libraries = (language.networks, torchvision_models.networks, timm_models.networks)
    return {one.name: one for make in (*patterns, *libraries) for one in make()}
