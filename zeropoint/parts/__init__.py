"""Parts: the submodules of a model that can be captured, quantized, and run on an engine inside the model."""
