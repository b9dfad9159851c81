"""The operators of ONNX that runtimes support, by their own lists."""

BOTH = frozenset({
    "Abs", "Add", "And", "ArgMax", "ArgMin", "Asin", "Atan", "AveragePool", "BatchNormalization", "Cast",
    "Ceil", "Clip", "Concat", "Conv", "ConvTranspose", "Cos", "CumSum", "DepthToSpace", "DequantizeLinear",
    "Div", "Einsum", "Elu", "Equal", "Exp", "Expand", "Flatten", "Floor", "Gather", "GatherElements",
    "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater", "GreaterOrEqual",
    "GridSample", "HardSigmoid", "HardSwish", "InstanceNormalization", "LRN", "LSTM", "LayerNormalization",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "LpNormalization", "MatMul", "Max", "MaxPool",
    "Mean", "Min", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pad", "Pow", "QuantizeLinear", "Reciprocal",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Relu", "Reshape", "Resize", "Round",
    "ScatterElements", "ScatterND", "Sigmoid", "Sign", "Sin", "Slice", "Softmax", "SpaceToDepth", "Split",
    "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Tile", "TopK", "Transpose", "Unsqueeze",
    "Where",
})  # fmt: skip
TENSORRT = BOTH | frozenset({
    "Acos", "Acosh", "Asinh", "Atanh", "CastLike", "Celu", "Constant", "ConstantOfShape", "Cosh", "Erf",
    "EyeLike", "GRU", "Identity", "If", "IsInf", "IsNaN", "Loop", "MeanVarianceNormalization", "Mish",
    "NonMaxSuppression", "NonZero", "OneHot", "RNN", "Range", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceSumSquare", "ReverseSequence", "RoiAlign", "Scan", "Selu", "Shape", "Shrink",
    "Sinh", "Size", "Softplus", "Softsign", "Tan", "Trilu", "Xor",
})  # fmt: skip
"""Those of docs/operators.md in onnx-tensorrt, for TensorRT 10.0, that zeropoint may write."""
QNN = BOTH | frozenset({
    "Inverse", "RandomUniformLike", "STFT",
})  # fmt: skip
"""Those of op_builder_factory.cc in onnxruntime-qnn, of March 2026, that zeropoint may write."""
