"""Quantize a network in ten lines: float network in, int8 ONNX file out.

Writes digits.pt2, which zeropoint and plain PyTorch open, and digits.onnx, for deploy.py.
"""

import zeropoint as zp
from zeropoint import data, models

network = models.resolve("digits/resnet")  # any nn.Module; this one comes with zeropoint, trained
digits = data.resolve("digits")
images, _ = digits.evaluation[0]

program = zp.capture(network, images)
quantized = zp.quantize(program, "static", calibration=digits.calibration, target="onnxruntime")
quantized.save("digits.pt2")

runner = zp.compile(quantized, engine="onnxruntime", threads=1, path="digits.onnx")
result = zp.evaluate(runner, digits.evaluation, float32=program)
print(f"top-1 {result.accuracy.top1:.2%}, SQNR {result.fidelity.sqnr_db:.1f} dB")
