"""The versions of zeropoint and of the libraries that matter to it."""

import importlib.metadata

LIBRARIES = ("zeropoint", "torch", "onnxruntime", "openvino", "executorch", "numpy")


def versions() -> dict[str, str]:
    """The version of each of LIBRARIES that is installed; none is imported."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
