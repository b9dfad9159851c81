"""Run an artefact with its engine alone: this script does not import zeropoint or torch.

quantize.py writes digits.onnx. Copy the file and this code to the machine that it is for.
"""

import numpy as np
import onnxruntime
from sklearn.datasets import load_digits

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession("digits.onnx", options, providers=["CPUExecutionProvider"])
entry = session.get_inputs()[0]
print(f"input {entry.name}: {entry.type}, shape {entry.shape}")

pixels, labels = load_digits(return_X_y=True)
small = pixels.reshape(-1, 8, 8).astype(np.float32) / 16
# The network takes 32×32 images with mean 0 and deviation 1; it was trained on smoothly enlarged digits.
places = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
low = np.minimum(places.astype(int), 6)
share = (places - low).astype(np.float32)
wide = small[:, :, low] * (1 - share) + small[:, :, low + 1] * share
large = wide[:, low] * (1 - share[:, None]) + wide[:, low + 1] * share[:, None]
images = (large[:, None] - 0.305) / 0.324

(logits,) = session.run(None, {entry.name: images.astype(np.float32)})
print(f"{np.mean(logits.argmax(1) == labels):.2%} of {len(labels)} digits recognized")
