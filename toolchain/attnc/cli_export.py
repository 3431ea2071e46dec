"""`attnc export-qdq`: a build as an ONNX model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attnc.console import Build, Json, Verbose, Verify, print_json
from attnc.files import check_replaceable
from attnc.messages import clean
from attnc_host import manifest as manifests

EXPORT_QDQ: dict[str, Any] = {
    "name": "export-qdq",
    "short_help": "Write a build as an ONNX model.",
    "no_args_is_help": True,
    "epilog": "\b\nExamples:\n  attnc export-qdq build/ -o quantized.onnx",
}


def export_qdq(
    build: Build,
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")],
    verify: Verify = True,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write the quantized graph of a build as an ONNX model with QuantizeLinear and DequantizeLinear, which onnxruntime runs."""
    from attnc.verify.export_qdq import made_by_attnc, save_qdq

    check_replaceable(output, made_by_attnc, [build])
    model = save_qdq(manifests.load(build, verify, edited=True), output)
    nodes, size, opset = len(model.graph.node), output.stat().st_size, model.opset_import[0].version
    if as_json:
        print_json({"output": str(output), "opset": opset, "nodes": nodes, "bytes": size})
    else:
        print(f"{clean(str(output))}: {nodes} nodes, {size:,} bytes, opset {opset}")
