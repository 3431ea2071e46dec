"""Compares the weight quantizers on a real layer: how far its output moves, for every format.

    python models/compare_quantizers.py
    python models/compare_quantizers.py --layer node_linear_2_1 --group-sizes 0 64 --json

The layer comes out of a model through attnc's frontend. Its inputs on the calibration samples (of an int8 device) make the gram
that the quantizers see; the error ||X (W - Q)^T|| / ||X W^T|| is measured on inputs of other samples, in float.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from attnc.errors import AttncError, ConfigError
from attnc.frontend import import_model
from attnc.golden import run_reference
from attnc.ir import Graph, TensorType
from attnc.model import Model
from attnc.ops.base import Array
from attnc.quant.calibration import Observer, symmetric_scale
from attnc.quant.gram import GramObserver
from attnc.quant.samples import Edge, chunks, count_samples, load_samples
from attnc.quant.weights import QUANTIZERS, output_error, quantize
from attnc.weights import WeightFormat

DIGITS = Path(__file__).parent / "vit_digits"
FORMATS = ("int8", "int6", "int5", "int4", "int3", "int2", "ternary", "binary4", "binary3", "binary2")
CHUNK = 64


def observe(model: Model, path: Path, *observers: GramObserver | Observer) -> None:
    """Run the float graph over the samples in `path`."""
    samples = load_samples(path, model.inputs)
    for feeds in chunks(Edge(model).feeds(samples), CHUNK):
        for observer in observers:
            run_reference(model.graph, feeds, observer)


def int8_type(model: Model, name: str, calib: Path) -> TensorType:
    """The type of value `name` on the device: 8 bits, the scale with the least error."""
    observer = Observer(count_samples(load_samples(calib, model.inputs), model.inputs))
    observe(model, calib, observer)
    return TensorType(8, True, np.asarray(symmetric_scale(observer.found[name], 8, "mse")))


def find_layer(graph: Graph, name: str | None) -> tuple[str, str, Array]:
    """Name, input and weight [N, K] of the layer called `name`, or of the one with the most inputs."""
    layers = {node.name: node for node in graph.nodes if node.op == "linear"}
    if name is not None and name not in layers:
        raise ConfigError(f"--layer: needed one of {', '.join(layers)}, found {name!r}")
    node = layers[name] if name is not None else max(layers.values(), key=lambda node: node.params["weight"].shape[1])
    return node.name, node.inputs[0], np.asarray(node.params["weight"], np.float64)


def compare(weight: Array, calibration: Array, test: Array, group_sizes: list[int], name: str) -> list[dict[str, object]]:
    """Relative output error and time of every quantizer that can do a format; None where it cannot."""
    rows: list[dict[str, object]] = []
    for format_name in FORMATS:
        for size in group_sizes:
            format = WeightFormat.parse(format_name, size)
            errors: dict[str, float] = {}
            seconds: dict[str, float] = {}
            for quantizer, entry in QUANTIZERS.items():
                if format.kind not in entry.kinds or (quantizer == "absmean_tensor" and size):
                    continue
                start = time.perf_counter()
                found = quantize(quantizer, weight, format, calibration, name)
                seconds[quantizer] = round(time.perf_counter() - start, 4)
                errors[quantizer] = output_error(weight, found, test)
            rows.append({"format": format_name, "group_size": size, "error": errors, "seconds": seconds})
    return rows


def show(rows: list[dict[str, object]], title: str) -> None:
    """The errors in percent as a table, the best of each row in bold."""
    table = Table(
        "format", "group", *QUANTIZERS, title=title, caption="relative error of the layer's output on held-out samples, in percent"
    )
    for row in rows:
        errors = row["error"]
        assert isinstance(errors, dict)
        best = min(errors.values())
        cells = [
            f"[bold]{errors[q]:.3%}[/bold]" if errors.get(q) == best else f"{errors[q]:.3%}" if q in errors else "" for q in QUANTIZERS
        ]
        table.add_row(str(row["format"]), str(row["group_size"] or "channel"), *(cell.replace("%", "") for cell in cells))
    Console(width=max(110, Console().width)).print(table)


def main() -> int:
    """Compare from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=DIGITS / "vit_digits.onnx")
    parser.add_argument("--calib", type=Path, default=DIGITS / "calib.npz", help="inputs that the quantizers see")
    parser.add_argument("--heldout", type=Path, default=DIGITS / "heldout.npz", help="inputs on which the error is measured")
    parser.add_argument("--layer", help="name of a linear layer (default: the one with the most inputs)")
    parser.add_argument("--group-sizes", type=int, nargs="+", default=[0, 32], help="0: a scale per channel")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    try:
        model = import_model(args.model)
        name, value, weight = find_layer(model.graph, args.layer)
        seen = GramObserver([value], {value: int8_type(model, value, args.calib)})
        observe(model, args.calib, seen)
        test = GramObserver([value])
        observe(model, args.heldout, test)
        rows = compare(weight, seen.gram(value), test.gram(value), args.group_sizes, name)
    except AttncError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps({"model": args.model.name, "layer": name, "shape": list(weight.shape), "rows": rows}, indent=1))
    else:
        show(rows, f"{args.model.name}, layer {name} [{weight.shape[0]} x {weight.shape[1]}]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
