"""Refusals: why an engine cannot run a Program, as one line out of what its exporter says."""

import re

from zeropoint.errors import first_line

# In which OpenVINO's front end, the exporter to ONNX and ExecuTorch name the operators that they do not know.
_LACKING = re.compile(
    r"No conversion rule found for operations: (?P<openvino>.+)"
    r"|No ONNX function found for <OpOverload\(op='(?P<onnx>[^']+)'"
    r"|Operator torch\._ops\.(?P<executorch>[\w.]+) is not in Core ATen opset"
)
# In which they name one that they know, but not as it is used there.
_FAILED = re.compile(
    r"Conversion is failed for: (?P<openvino>aten\.[^\s,]+)"
    r"|Error when translating node .*target=torch\.ops\.(?P<onnx>[\w.]+)"
    r"|Missing out variants: \{(?P<executorch>.+)\}"
)
_COLOUR = re.compile(r"\x1b\[\d*m")
_SETTING = (
    "Exception from ",
    "Check '",
    "FrontEnd API failed",
    "Failed to convert the exported program",
    "Error when translating",
)


def refusal(error: BaseException) -> str:
    """The operators that an engine lacks, if the error or its causes name them; else what its cause says.

    >>> refusal(RuntimeError("-- No conversion rule found for operations: aten.angle.default"))
    'it has no aten.angle; take another engine, or leave that to the code around the model'
    """
    causes = _causes(error)
    for pattern, words in ((_LACKING, "has no"), (_FAILED, "cannot run, as it is used here,")):
        found = [match for cause in causes for match in pattern.finditer(str(cause))]
        if names := [
            name.strip(" '").replace("::", ".")
            for match in found
            for name in next(filter(None, match.groupdict().values())).split(",")
        ]:
            operators = " and ".join(dict.fromkeys(name.removesuffix(".default") for name in names))
            return f"it {words} {operators}; take another engine, or leave that to the code around the model"
    for cause in reversed(causes):
        lines = [_COLOUR.sub("", line).strip("- ") for line in str(cause).splitlines()]
        if said := [line for line in lines if line and not line.startswith(_SETTING)]:
            return said[0]
    return first_line(error)


def _causes(error: BaseException) -> list[BaseException]:
    """An error, its cause, that of it, and so on."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    return causes
