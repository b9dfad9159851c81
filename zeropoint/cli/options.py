"""The command line's arguments and options that several commands share."""

from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="torchvision/NAME, digits/resnet, digits/mobilenet, a saved m.pt2, or FILE.py:FUNCTION"
        " (which runs the code in FILE.py and calls FUNCTION() for an nn.Module).",
    ),
]
SavedOrModel = Annotated[
    str, typer.Argument(metavar="MODEL", help="A saved m.pt2, or a model as for compare.")
]
SavedOrArtefact = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A saved m.pt2, a model as for compare, or an engine's artefact: .onnx, .openvino.xml,"
        " .torch.pt2, or a compiled package, .aoti.pt2 (which is native code, and is run).",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        help="digits, imagefolder:DIR, random, random:3x32x32, or FILE.py:FUNCTION (which runs the code in"
        " FILE.py and calls FUNCTION() for a dict of the loaders calibration, evaluation and perhaps train)."
    ),
]
Weights = Annotated[
    str,
    typer.Option(help="default, none (random), a name such as IMAGENET1K_V2, or a .safetensors or .pt file."),
]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Images per batch of calibration, evaluation and training.")
]
LimitBatches = Annotated[int | None, typer.Option(min=1, help="Read at most so many batches of each part.")]
Engine = Annotated[
    str, typer.Option(help="torch, onnxruntime, openvino, or auto: the fastest one on this machine.")
]
Threads = Annotated[int, typer.Option(min=1, help="Threads that latency is measured with.")]
Target = Annotated[
    str,
    typer.Option(
        help="The engine whose placement rules are used; auto: the one that runs it fastest on this machine,"
        " at batch 1 on one thread."
    ),
]
BITS = "Bits of weights, 2 to 8, and activations, 2 to 16: W8A8, W4A8, W8A16."
EndBits = Annotated[
    int | None,
    typer.Option(
        help="Bits of the first and last layer. Default: 8 for their inputs, and for weights below 4."
    ),
]
WeightSymmetric = Annotated[
    bool | None, typer.Option("--weight-symmetric/--weight-affine", help="Default: as suits the target.")
]
ActivationSymmetric = Annotated[
    bool | None,
    typer.Option("--activation-symmetric/--activation-affine", help="Default: as suits the target."),
]
WeightGranularity = Annotated[
    str | None, typer.Option(help="per-channel, per-tensor or per-group. Default: as suits the target.")
]
GroupSize = Annotated[
    int | None,
    typer.Option(help="Inputs that share a scale in per-group weights. Default: 128, or 32 of fewer."),
]
Ranges = Annotated[
    str, typer.Option(help="Activation ranges: minmax, moving-average, percentile, mse or entropy.")
]
WeightRanges = Annotated[
    str | None, typer.Option(help="Weight ranges: minmax (by itself at 8 bits) or mse (below).")
]
Rounding = Annotated[
    str,
    typer.Option(help="Of static weights: gptq fits them to the data, adaround takes longer; or nearest."),
]
Skip = Annotated[
    list[str] | None,
    typer.Option(help="Keep modules float: a glob over module names, such as 'layer4.*'. Repeatable."),
]
NoFuse = Annotated[
    list[str] | None,
    typer.Option(help="Keep conv, batch norm and ReLU apart there, each with its own quantizer. Repeatable."),
]
Activation16 = Annotated[
    list[str] | None,
    typer.Option(
        "--activation16",
        help="16-bit activations in and out of modules there, such as 'blocks.*.norm*'. Repeatable.",
    ),
]
Processor = Annotated[
    str,
    typer.Option(
        help="The kind of processor to quantize for: native (this machine's), avx2, avx512, vnni, amx, arm or"
        " any, which is right on all."
    ),
]
CalibrationBatches = Annotated[int | None, typer.Option(help="Calibrate on at most so many batches.")]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else on stdout.")]
FreeSizes = Annotated[
    bool,
    typer.Option("--free-sizes", help="Leave all sizes of inputs free, such as height and width."),
]
Epochs = Annotated[int, typer.Option(help="Epochs of quantization-aware training.")]
LearningRate = Annotated[
    float | None,
    typer.Option(
        help="Of quantization-aware training: what a weight moves by, in steps of its grid."
        " Default: 0.003, and 0.03 for weights below 4 bits."
    ),
]
Optimizer = Annotated[str, typer.Option(help="sgd or adamw.")]
WeightDecay = Annotated[float, typer.Option(help="Decay of all but biases, norms and step sizes.")]
Warmup = Annotated[float, typer.Option(help="Share of the steps in which the learning rate rises.")]
Accumulate = Annotated[int, typer.Option(help="Batches whose gradients make one step.")]
Average = Annotated[float, typer.Option(help="Decay of a moving average of the weights; 0: none.")]
Precision = Annotated[str, typer.Option(help="auto (bf16 on a GPU, 32 on a CPU), 32 or bf16.")]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the steps: a minute or two first, then they are faster.")
]
Seed = Annotated[int, typer.Option(help="Of the order of the data, and all else that is random.")]
