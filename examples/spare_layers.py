"""Find the layers that lose accuracy, and fix only those.

Four bits and nearest rounding cost the built-in MobileNet some accuracy. `diagnose` measures which layers
lose it and which fixes help; `fixed` applies those that do.
"""

import zeropoint as zp
from zeropoint import data, models

digits = data.resolve("digits")
images, _ = digits.evaluation[0]
program = zp.capture(models.resolve("digits/mobilenet"), images)
options = zp.Options(rounding="nearest").at("W4A4")
quantized = zp.quantize(program, "static", calibration=digits.calibration, options=options)

diagnosis = zp.diagnose(quantized, digits.validation)
for layer in diagnosis.layers[:5]:
    print(f"{layer.name}: {layer.alone_db:.1f} dB at the outputs if only this layer is quantized")

better, advice = zp.fixed(quantized, diagnosis, digits.validation)
for taken in advice:
    print(f"{taken.fix.layer}: {taken.fix.what}, +{taken.gain_db:.2f} dB")

for name, run in {"float32": program, "W4A4": quantized, "W4A4 with fixes": better}.items():
    print(f"{name}: top-1 {zp.evaluate(run, digits.evaluation).accuracy.top1:.2%}")
