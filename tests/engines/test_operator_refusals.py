import doctest

from zeropoint.engines import refusals
from zeropoint.engines.refusals import refusal

OPENVINO = """Check 'false' failed at src/frontends/common_translators/src/unconverted_ops_report.cpp:151:
FrontEnd API failed with OpConversionFailure:
Model wasn't fully converted.
Summary:
-- No conversion rule found for operations: aten._fft_r2c.default, aten.angle.default
"""
ONNX = "Failed to convert the exported program to an ONNX model. \x1b[96mThis is step 3/3\x1b[0m.\n- ..."


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_openvino_lacks_operators():
    assert refusal(RuntimeError(OPENVINO)).startswith("it has no aten._fft_r2c and aten.angle; ")


def test_the_exporter_to_onnx_lacks_an_operator():
    lacking = RuntimeError(
        "No ONNX function found for <OpOverload(op='prims.bessel_j0', overload='default')>."
    )
    assert refusal(caused(RuntimeError(ONNX), lacking)).startswith("it has no prims.bessel_j0; ")


def test_an_operator_that_an_engine_has_but_not_so():
    openvino = RuntimeError(
        OPENVINO.partition("Summary")[0]
        + "Summary:\n-- Conversion is failed for: aten.convolution.default, torch::None"
    )
    node = "%conv2d : [num_users=1] = call_function[target=torch.ops.aten.conv2d.default](args = (%x,))"
    onnx = caused(RuntimeError(ONNX), RuntimeError(f"Error when translating node {node}."))
    assert refusal(openvino).startswith("it cannot run, as it is used here, aten.convolution; ")
    assert refusal(onnx).startswith("it cannot run, as it is used here, aten.conv2d; ")


def test_without_names_it_is_the_first_cause():
    cause = caused(
        RuntimeError("Error when translating node %add"), ValueError("\x1b[96mshapes differ\x1b[0m")
    )
    assert refusal(caused(RuntimeError(ONNX), cause)) == "shapes differ"
    assert (
        refusal(RuntimeError("Exception from src/core.cpp:1:\nCheck 'a == b' failed at x\nno memory"))
        == "no memory"
    )
    assert refusal(RuntimeError("Check 'a == b' failed at x.cpp:1")) == "Check 'a == b' failed at x.cpp:1"
    assert refusal(KeyError()) == "KeyError"


def test_the_example():
    assert doctest.testmod(refusals).failed == 0
