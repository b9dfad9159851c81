"""Train a network with quantizers in it (QAT): at two bits, calibration alone is not enough.

The folder qat-digits/ keeps checkpoints and metrics. After Ctrl-C, run the script with --resume to continue.
"""

import sys

import zeropoint as zp
from zeropoint import data, models

digits = data.resolve("digits")
images, _ = digits.evaluation[0]
program = zp.capture(models.resolve("digits/resnet"), images)
options = zp.Options(training=zp.TrainingOptions(epochs=2)).at("W2A2")

static = zp.quantize(program, "static", calibration=digits.calibration, options=options)
trained = zp.train_quantized(
    static,
    digits.train,
    teacher=program,  # training follows the labels and the float network
    validation=digits.validation,  # the epoch that is best on it is kept
    options=options,
    folder="qat-digits",
    resume="--resume" in sys.argv,
)
for name, run in {"float32": program, "static W2A2": static, "trained W2A2": trained}.items():
    print(f"{name}: top-1 {zp.evaluate(run, digits.evaluation).accuracy.top1:.2%}")
