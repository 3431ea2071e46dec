"""Packing of a billion weights: seconds, bits per weight and memory, for every format and engine.

    python bench/packing.py
    python bench/packing.py --weights 100000000 --formats int4/64 ternary --json

A matrix of 4096 x 4096 random codes is packed as a compilation does it, that is by `build_program` for a graph with one linear layer, as
often as the weights ask for. `bits_per_weight` counts the codes and the multipliers of groups, not the 8 bytes per channel of bias and
scale. `peak_mb` is the most that packing held at once beside the matrix itself (tracemalloc); it does not grow with the number of weights.
`scaled_s` is what a billion takes at that rate. A run without options is stored in bench/results/packing.json; every run is compared
with it.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.common import last, machine, present, store

from attnc.errors import AttncError
from attnc.ir import Graph, Node, TensorType
from attnc.kernels.design import Design
from attnc.ops import operator
from attnc.schedule.program import build_program
from attnc.weights import WeightFormat

BILLION = 1_000_000_000
SIDE = 4096
RECORD_BITS = 64
MOST_SECONDS = 60.0
CASES: dict[str, tuple[str, int, str, int]] = {
    "int8": ("int8", 0, "dsp", 3),
    "int8/64": ("int8", 64, "dsp", 3),
    **{f"int{bits}": (f"int{bits}", 0, "lookup", 3) for bits in (6, 5, 4, 3, 2)},
    "int4/64": ("int4", 64, "lookup", 3),
    "int4, dsp": ("int4", 0, "dsp", 3),
    "ternary": ("ternary", 0, "lookup", 3),
    "ternary, 5 a table": ("ternary", 0, "lookup", 5),
    "ternary/128": ("ternary", 128, "lookup", 3),
    "ternary, dsp": ("ternary", 0, "dsp", 3),
    **{f"binary{planes}": (f"binary{planes}", 0, "lookup", 3) for planes in (4, 3, 2)},
}
"""Format, group size, engine, and ternary weights per table, by the name of the case."""


def layer(format_: WeightFormat, engine: str, side: int, seed: int = 0) -> Graph:
    """A quantized graph of one linear layer [side, side] with random codes over the whole grid."""
    rng = np.random.default_rng(seed)
    planes = (format_.bits,) if format_.kind == "binary" else ()
    groups = math.ceil(side / format_.group_size) if format_.group_size else 1
    q = rng.integers(-1, 1, (*planes, side, side), np.int8) * 2 + 1 if planes else None
    params = {
        "weight_q": rng.integers(-format_.limit, format_.limit + 1, (side, side), np.int8) if q is None else q.astype(np.int8),
        "weight_unit": np.full(side, 1e-4),
        "weight_multiplier": rng.integers(1, 256, (*planes, side, groups)) if groups > 1 or planes else np.ones((side, 1), np.int64),
        "bias": np.zeros(side),
    }
    graph = Graph("packing", inputs=["x"], outputs=["y"])
    types = TensorType(8, True, np.asarray(0.02)), TensorType(16, True, np.asarray(1.0))
    for name, type_ in zip("xy", types, strict=True):
        graph.add_value(name, (1, side)).type = type_
    node = Node("n", "linear", ["x"], "y", {"weights": format_.name, "group_size": format_.group_size, "engine": engine}, params)
    graph.nodes.append(node)
    operator(node).quantize(node, types[:1], types[1])
    return graph


def measure(case: str, weights: int, side: int = SIDE) -> dict[str, float]:
    """Pack about `weights` weights (whole matrices, at least one) of one case."""
    name, group_size, engine, group = CASES[case]
    graph, design = layer(WeightFormat.parse(name, group_size), engine, side), Design.of(group=group)
    rounds, total = max(1, round(weights / side**2)), 0

    def count(part: bytes) -> int:
        nonlocal total
        total += len(part)
        return len(part)

    tracemalloc.start()
    start = time.perf_counter()
    for _ in range(rounds):
        build_program(graph, design, count)
    spent = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    packed = rounds * side**2
    return {
        "weights": packed,
        "seconds": round(spent, 3),
        "scaled_s": round(spent * BILLION / packed, 3),
        "bits_per_weight": round(8 * total / packed - RECORD_BITS / side, 4),
        "peak_mb": round(peak / 1e6, 1),
    }


def show(results: dict[str, Any], before: dict[str, Any]) -> None:
    """A line per case, with what a billion took last time."""
    print(f"{'weights':22}{'bits':>8}{'s per billion':>15}{'last':>9}{'peak MB':>9}")
    for case, found in results.items():
        old = f"{before[case]['scaled_s']:9.2f}" if case in before else f"{'-':>9}"
        verdict = f"at most {MOST_SECONDS:g}: {'met' if found['scaled_s'] <= MOST_SECONDS else 'MISSED'}"
        print(f"{case:22}{found['bits_per_weight']:8.3f}{found['scaled_s']:15.2f}{old}{found['peak_mb']:9.1f}  {verdict}")


def main() -> int:
    """Measure, print, compare, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=BILLION, help="weights to pack per case")
    parser.add_argument("--formats", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    facts, before, results = machine(), last("packing"), {}
    try:
        for case in args.formats:
            print(f"packing {args.weights:,} weights: {case}", file=sys.stderr)
            results[case] = measure(case, args.weights)
    except AttncError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.weights == BILLION and args.formats == list(CASES):
        store("packing", facts, results)
    present(facts, results, args.json, lambda: show(results, before))
    return 0


if __name__ == "__main__":
    sys.exit(main())
