"""The arithmetic of quantization: tensors in, tensors out."""
