"""The texts of a shipped folder: README.md, requirements.txt and Dockerfile."""

from typing import Any

from zeropoint.shipping.layouts import LAYOUTS, REPOSITORY

PYTHON = "3.12"
_OF_TORCH = ("torch", "executorch")  # packages that run on PyTorch
_CPU_TORCH = "--extra-index-url https://download.pytorch.org/whl/cpu\n"


def requirements(manifest: dict[str, Any]) -> str:
    """What the folder needs, as pip reads it."""
    engine = manifest["engine"]
    bound = f"=={engine['version']}" if engine["exact"] else f">={engine['minimum']}"
    lines = f"{engine['package']}{bound}\nnumpy\n"
    if manifest["preprocessing"] is not None:
        lines += "pillow\n"
    if engine["package"] == "executorch":  # whose package does not ask for it
        lines += f"torch=={engine['settings']['torch']}\n"
    return _CPU_TORCH + lines if engine["package"] in _OF_TORCH else lines


def dockerfile(manifest: dict[str, Any]) -> str:
    """An image that runs predict.py; its build ends with verify.py, so that a wrong copy is not built."""
    compiler = ""
    if manifest["engine"]["package"] in _OF_TORCH:
        compiler = "RUN apt-get update && apt-get install -y --no-install-recommends libgomp1\n"
    return (
        f"FROM python:{PYTHON}-slim\n"
        f"{compiler}"
        "WORKDIR /model\n"
        "COPY requirements.txt .\n"
        "RUN pip install --no-cache-dir -r requirements.txt\n"
        "COPY . .\n"
        'ENTRYPOINT ["python", "predict.py"]\n'
    )


def readme(manifest: dict[str, Any], layout: str = "folder") -> str:
    """What the folder is, the lines to run it, and what it takes."""
    engine, measured = manifest["engine"], manifest["measured"]
    example = "golden/images/*" if manifest["golden"]["images"] else "golden/inputs.npz"
    bits = manifest["weight_bits"], manifest["activation_bits"]
    method = manifest["method"] + (f" W{bits[0]}A{bits[1]}" if bits[0] < 16 else "")
    lines = [
        f"# {manifest['model']}, {method}, on {engine['package']}",
        "",
        "Run it, and check that it computes here what it did where it was made:",
        "",
        "    pip install -r requirements.txt",
        f"    python predict.py {example}",
        "    python verify.py",
        "",
        *_needs(manifest),
        *_server(layout),
        *_cpp(engine["name"]),
        "",
        "| | name | type | shape | |",
        "| :-- | :-- | :-- | :-- | :-- |",
    ]
    for kind in ("input", "output"):
        for port in manifest[f"{kind}s"]:
            shape = " × ".join(map(str, port["shape"]))
            lines.append(
                f"| {kind} | `{port['name']}` | {port['dtype']} | {shape} | {port.get('meaning', '')} |"
            )
    lines += ["", f"Preparation: {manifest['prepare']}.", "", *_numbers(manifest, measured), ""]
    lines += [
        "`manifest.json` holds all of this as data, with the size and the digest of every file. `verify.py`",
        "ends with status 0 if the outputs are right here, and 1 if not. `predict.py` is also a module:",
        '`predict.load("this/folder")({"name": array})`.',
        "",
    ]
    return "\n".join(lines)


def _needs(manifest: dict[str, Any]) -> list[str]:
    engine = manifest["engine"]
    least = (
        f"{engine['package']} {engine['version']}"
        if engine["exact"]
        else f"{engine['package']} {engine['minimum']} or newer"
    )
    lines = [
        f"It needs {least} and NumPy" + (", and Pillow for images." if manifest["preprocessing"] else ".")
    ]
    if engine["package"] == "torch":
        lines.append(
            "This engine is PyTorch itself: unlike the other engines, its folder needs `torch` to run."
        )
    if engine["package"] == "executorch":
        lines.append(
            "ExecuTorch's Python runtime needs `torch`, too. On a phone its C++, Java or Swift runtime loads"
            " `model.pte` and needs neither Python nor PyTorch."
        )
    made = next(
        (
            kind
            for kind in manifest["processor"]["kinds"]
            if kind["name"] == manifest["processor"]["made_for"]
        ),
        None,
    )
    if made is not None:
        lines.append(f"It was made for this kind of processor: {made['words']}.")
    return lines


def _cpp(engine: str) -> list[str]:
    """The first lines of CMakeLists.txt say how it is built."""
    if engine in _OF_TORCH:
        return []
    return ["", "`cpp/` holds the same in C++: `predict.cpp`, and how to build it in `CMakeLists.txt`."]


def _server(layout: str) -> list[str]:
    if layout == "folder":
        return []
    return ["", f"The folder `{REPOSITORY}` is laid out for {layout}:", "", f"    {LAYOUTS[layout].start}"]


def _numbers(manifest: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    latency, on = measured["latency_ms"], manifest["processor"]["measured_on"]
    lines = [
        f"Measured on {on['name']}, {measured['threads']} thread(s), batches of {measured['batch_size']}:"
    ]
    lines += [""] + (
        [f"- latency: {latency['p50']:.3g} ms (median), {latency['p90']:.3g} ms (p90)"] if latency else []
    )
    for name, value in measured["metrics"].items():
        if value is not None:
            lines.append(f"- {name}: {value:.4g}")
    if measured["sqnr_db"] is not None:
        lines.append(f"- SQNR to float32: {measured['sqnr_db']:.1f} dB")
    kernels = measured["kernels"]
    lines.append(f"- layers in int8: {kernels['int8']} of {kernels['int8'] + kernels['float']}")
    lines.append(f"- memory of a process that runs it: {measured['memory_bytes'] / 1e6:.0f} MB")
    lines.append(f"- from import to the first outputs: {measured['first_result_seconds']:.2f} s")
    return lines
