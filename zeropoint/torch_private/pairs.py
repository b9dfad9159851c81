"""The quantize and dequantize operators that the PyTorch compiler and the ONNX exporter know."""

import torch
import torch._inductor.decomposition  # registers torch.ops.quantized_decomposed

pairs = torch.ops.quantized_decomposed
