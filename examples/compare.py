"""Compare methods on engines from Python: the table of `zeropoint compare`, as data.

Writes a run folder, compare-digits/, with every number and every artefact in it.
"""

import zeropoint as zp
from zeropoint import data, models

digits = data.resolve("digits")
images, _ = digits.evaluation[0]
program = zp.capture(models.resolve("digits/resnet"), images)
results = zp.compare(
    program,
    digits,
    out="compare-digits",
    methods=["fp32", "static"],
    engines=["onnxruntime"],
    bits=["W8A8", "W4A8"],
    say=print,
)
for row in results.rows:
    print(f"{row.name}: top-1 {row.top1:.2%}, {row.latency_ms.p50:.3f} ms, {row.size_bytes / 1e6:.3f} MB")

smallest = min(results.rows, key=lambda row: row.size_bytes)
print(f"smallest: {smallest.name}, in compare-digits/{smallest.artefact}")
