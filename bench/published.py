"""Published accelerators beside attnc's estimate for the same workload, board, clock and number of multipliers.

    python bench/published.py [--json]

What is reproduced is the cost model, not the design: attnc schedules the published workload on its own engines, of the same kind and
sizes where it has them (TeLLMe's tables), else with the DSPs that the published design took. A deviation says how far its estimate is
from a machine that was measured; nothing here was synthesized by attnc.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnc.ir import Graph, Node, TensorType
from attnc.kernels.design import Design
from attnc.ops import operator
from attnc.schedule.cost import estimate
from attnc.schedule.design import choose_design
from attnc.schedule.devices import BOARDS, Utilisation
from attnc.schedule.energy import power_watts
from attnc.schedule.program import build_program

WITHIN = 0.35


class Builder:
    """A quantized graph, node by node; weights are random, since only shapes and widths cost anything. They have 8 bits for the engine of
    multipliers, or are `ternary` for that of tables."""

    def __init__(self, name: str, rows: int, channels: int, ternary: bool = False) -> None:
        self.graph, self.ternary = Graph(name, inputs=["x"]), ternary
        self.graph.add_value("x", (rows, channels)).type = self.type_of(16)
        self.rng = np.random.default_rng(0)

    @staticmethod
    def type_of(bits: int) -> TensorType:
        """s8 or s16 with a plausible power-of-two scale."""
        return TensorType(bits, True, np.asarray(2.0**-5 if bits == 8 else 2.0**-10))

    def node(self, op: str, inputs: list[str], shape: tuple[int, int], bits: int = 8, attrs: Any = None, params: Any = None) -> str:
        """Add a node and quantize it."""
        name = f"{op}_{len(self.graph.nodes)}"
        made = Node(name, op, inputs, name, dict(attrs or {}), dict(params or {}))
        types = [self.graph.type(source) for source in inputs]
        output = operator(made).fixed_output_type(made, types) or self.type_of(bits)
        self.graph.add_value(name, shape).type = output
        operator(made).quantize(made, types, output)
        self.graph.nodes.append(made)
        return name

    def linear(self, x: str, outputs: int, bits: int = 8) -> str:
        """A product with [outputs, channels] weights."""
        rows, inputs = self.graph.value(x).shape
        unit, bias = 1 / math.sqrt(inputs), np.zeros(outputs)
        if not self.ternary:
            params = {"weight": unit * self.rng.normal(size=(outputs, inputs)), "bias": bias}
            return self.node("linear", [x], (rows, outputs), bits, params=params)
        params = {"weight_q": self.rng.integers(-1, 2, (outputs, inputs)).astype(np.int8), "weight_unit": np.full(outputs, unit)}
        params |= {"weight_multiplier": np.ones((outputs, 1), np.int64), "bias": bias}
        return self.node("linear", [x], (rows, outputs), bits, {"weights": "ternary", "engine": "lookup"}, params)

    def norm(self, x: str) -> str:
        """Layer normalisation to s8."""
        channels = self.graph.value(x).shape[1]
        params = {"gamma": np.ones(channels), "beta": np.zeros(channels)}
        return self.node("layer_normalization", [x], self.graph.value(x).shape, attrs={"epsilon": 1e-6}, params=params)

    def add(self, a: str, b: str) -> str:
        """The residual stream, s16."""
        return self.node("add", [a, b], self.graph.value(a).shape, 16)

    def attention(self, x: str, heads: int) -> str:
        """Queries, keys, values, attention and projection."""
        rows, width = self.graph.value(x).shape
        operands = [self.linear(x, width) for _ in range(3)]
        attrs = {"num_heads": heads, "num_kv_heads": heads, "groups": 1, "scale": (width // heads) ** -0.5}
        return self.linear(self.node("attention", operands, (rows, width), attrs=attrs), width, 16)

    def mlp(self, x: str, hidden: int) -> str:
        """Two products with a GELU between them."""
        up = self.linear(x, hidden, 16)
        active = self.node("unary", [up], self.graph.value(up).shape, attrs={"function": "gelu"})
        return self.linear(active, self.graph.value(x).shape[1], 16)

    def experts(self, x: str, hidden: int, experts: int, top: int) -> str:
        """A mixture of experts with evenly spread tokens: the rows of each expert are gathered, pass its MLP, and come back as a sum."""
        rows, width = self.graph.value(x).shape
        share = math.ceil(rows * top / experts)
        parts = []
        for expert in range(experts):
            chosen = tuple((expert * share + i) % rows for i in range(share))
            parts.append(self.mlp(self.node("gather_rows", [x], (share, width), attrs={"rows": chosen}), hidden))
        stacked = self.node("concat_rows", parts, (share * experts, width), 16)
        halves = [
            self.node("gather_rows", [stacked], (rows, width), 16, {"rows": tuple(range(i, i + rows))}) for i in (0, share * experts - rows)
        ]
        return self.add(halves[0], halves[1]) if top > 1 else halves[0]


def m3vit_tiny() -> Graph:
    """129 tokens of 128 patches 16x16 of a 128x256 image, width 192, 3 heads, 12 layers; every second MLP has 16 experts, top 2."""
    b = Builder("m3vit_tiny", 129, 192)
    x = "x"
    for layer in range(12):
        x = b.add(x, b.attention(b.norm(x), 3))
        y = b.norm(x)
        x = b.add(x, b.experts(y, 768, 16, 2) if layer % 2 else b.mlp(y, 768))
    b.graph.outputs = [b.norm(x)]
    return b.graph


def bitnet_prefill(layers: int) -> Graph:
    """128 tokens through ternary layers of BitNet 0.73B: width 1536, 16 heads, gated MLP of 4096 (the gate's SiLU as a unary function,
    norms as layer normalisations, rotary positions left out: a few per mille of the work)."""
    b = Builder("bitnet", 128, 1536, ternary=True)
    x = "x"
    for _ in range(layers):
        x = b.add(x, b.attention(b.norm(x), 16))
        y = b.norm(x)
        gate, up = b.linear(y, 4096, 16), b.linear(y, 4096)
        active = b.node("unary", [gate], (128, 4096), attrs={"function": "silu"})
        x = b.add(x, b.linear(b.node("mul", [active, up], (128, 4096)), 1536, 16))
    b.graph.outputs = [x]
    return b.graph


@dataclass(frozen=True)
class Published:
    """One design. `dsp_per_mac` is what a multiply-add of its types takes, against 0.5 for two packed int8 products: attnc gets as many
    multipliers, not as many DSPs. `repeats` multiplies the latency of `graph`. `figures` are what was published; `reason` explains
    deviations. A given `design` is what is estimated, else the best one that the search finds."""

    name: str
    board: str
    clock_mhz: float
    graph: Callable[[], Graph]
    dsp: int
    dsp_per_mac: float
    figures: dict[str, float]
    reason: str
    repeats: int = 1
    design: Design | None = None
    estimate: Callable[[Published], dict[str, float]] = field(default=lambda point: on_attnc(point))


def on_attnc(point: Published) -> dict[str, float]:
    """attnc's own engines: in the given design, or the best one that its search finds with as many multipliers as the published one."""
    graph, board = point.graph(), BOARDS[point.board]
    budget = point.dsp * 0.5 / point.dsp_per_mac
    limits = Utilisation(lut=0.85, ff=0.85, dsp=min(1.0, budget / board.dsp), bram36=0.95, uram=0.95)
    board = board.model_copy(update={"utilisation": limits})
    design = point.design or choose_design(graph, board, point.clock_mhz)
    cost = estimate(build_program(graph, design, None), board, point.clock_mhz)
    used = cost.used()
    scale = point.dsp_per_mac / 0.5
    return {
        "latency_ms": cost.latency_ms * point.repeats,
        "lut": used["lut"],
        "dsp": used["dsp"] * scale,
        "bram36": used["bram36"],
        "uram": used["uram"],
        "watts": power_watts(cost),
    }


POINTS = (
    Published(
        "CoQMoE (int8)",
        "zcu102",
        300,
        m3vit_tiny,
        1754,
        0.5,
        {"latency_ms": 6.47, "lut": 156_100, "dsp": 1754, "bram36": 383, "watts": 9.83},
        "its stages stream into each other, each with buffers and logic of its own, where attnc has one engine for all matrices; its "
        "operation count (2.45 G) is a fifth above ours",
    ),
    Published(
        "UbiMoE (W16A32)",
        "zcu102",
        300,
        m3vit_tiny,
        1850,
        2.0,
        {"latency_ms": 25.76, "lut": 123_400, "dsp": 1850, "bram36": 458, "watts": 11.50},
        "attnc has no 16x32-bit engine: it gets as many multipliers (2 DSPs each), but half the weights to read, narrower memories and "
        "logic",
    ),
    Published(
        "TeLLMe v2 (ternary), prefill of 128 tokens",
        "kv260",
        250,
        lambda: bitnet_prefill(1),
        610,
        0.5,
        {"latency_ms": 960, "lut": 98_303, "dsp": 610, "bram36": 98.5, "uram": 60, "watts": 4.8},
        "tables of 3 activations in both, 16 at a time here (a multiple of the 16 bytes of a port), 28 there; columns, and queries of "
        "attention, are not published: those whose logic and DSPs come nearest",
        repeats=24,
        design=Design.of(lanes=16, pe=16, rows=128, queries=16, tables=16, columns=16, group=3, depth=1024),
    ),
)


def compare(point: Published) -> list[dict[str, Any]]:
    """A row per published figure: deviation is (estimate - published) / published."""
    found = point.estimate(point)
    rows = []
    for figure, published in point.figures.items():
        deviation = found[figure] / published - 1
        rows.append(
            {
                "design": point.name,
                "figure": figure,
                "published": published,
                "estimate": round(found[figure], 3),
                "deviation_percent": round(100 * deviation, 1),
                "within": abs(deviation) <= WITHIN,
            }
        )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    rows = [row for point in POINTS for row in compare(point)]
    if as_json:
        json.dump(rows, sys.stdout, indent=1)
        return
    for point in POINTS:
        print(f"{point.name} on {point.board} at {point.clock_mhz:g} MHz: {point.reason}")
        for row in (row for row in rows if row["design"] == point.name):
            mark = "" if row["within"] else f"   beyond {WITHIN:.0%}"
            numbers = f"published {row['published']:>12,.2f}   estimate {row['estimate']:>12,.2f}   {row['deviation_percent']:+7.1f} %"
            print(f"  {row['figure']:12} {numbers}{mark}")


if __name__ == "__main__":
    main()
