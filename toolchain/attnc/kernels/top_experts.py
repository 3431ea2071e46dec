"""The network of top_experts.hpp."""

from __future__ import annotations

from attnc.kernels.latency import COMPARE, LUTRAM, READ, TREE, WRITE
from attnc.kernels.network import Buffer, Loop, Network, alone, one
from attnc.kernels.numbers import ACTIVATION_BITS
from attnc.kernels.ports import Port

SETTLE = 16
"""Cycles after which what a row found can be read."""

TOP_EXPERTS = Network(
    name="top_experts",
    header="top_experts.hpp",
    ports=(Port("x", "load"), Port("y", "store")),
    scalars=("rows", "tiles", "channels", "k"),
    processes=alone(
        "top_experts",
        ("XT", "YT", "L", "TILES_MAX", "ROWS_MAX"),
        Loop("TAKE_CHOICES", READ + WRITE, runs=one(lambda n: n.vectors)),
        Loop("PICK", 2 * LUTRAM + COMPARE + TREE + COMPARE + WRITE, late=one(lambda n: n.trips)),
        Loop("GIVE_PICKS", LUTRAM + WRITE, late=one(lambda n: n.rows)),
        buffers=(
            Buffer("choices", lambda n: n.TILES_MAX * n.ROWS_MAX, lambda n: ACTIVATION_BITS * n.L),
            Buffer("best", lambda n: n.ROWS_MAX, lambda n: 2 * ACTIVATION_BITS, static=False),
            Buffer("last", lambda n: n.ROWS_MAX, lambda n: 2 * ACTIVATION_BITS, static=False),
            Buffer("picks", lambda n: n.ROWS_MAX, lambda n: ACTIVATION_BITS * n.L, static=False),
        ),
    ),
    derived={"vectors": lambda n: n.rows * n.tiles, "trips": lambda n: n.k * n.tiles * max(n.rows, SETTLE)},
    counts=("vectors", "trips"),
)
