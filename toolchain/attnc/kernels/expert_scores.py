"""The network of expert_scores.hpp."""

from __future__ import annotations

from attnc.kernels.latency import ADD, CLAMP, DIVIDE, LUTRAM, MULTIPLY, READ, SHIFT, TREE, WRITE
from attnc.kernels.network import Buffer, Loop, Network, alone, one
from attnc.kernels.numbers import ACTIVATION_BITS
from attnc.kernels.ports import Port

SETTLE = 4
"""Cycles after which what a row picked can be read."""

EXPERT_SCORES = Network(
    name="expert_scores",
    header="expert_scores.hpp",
    ports=(Port("x", "load"), Port("which", "load", first=True), Port("y", "store")),
    scalars=("rows", "tiles", "k", "normalise", "multiplier", "shift", "low", "high"),
    processes=alone(
        "expert_scores",
        ("XT", "IT", "YT", "L", "ROWS_MAX"),
        Loop("TAKE_CHANNELS", READ + WRITE, runs=one(lambda n: n.rows)),
        Loop("PICK_SCORES", READ + LUTRAM + WRITE, runs=one(lambda n: n.trips)),
        Loop("GIVE_SCORES", LUTRAM + TREE + SHIFT + DIVIDE + MULTIPLY + ADD + SHIFT + CLAMP + WRITE, late=one(lambda n: n.rows)),
        buffers=(
            Buffer("channels", lambda n: n.ROWS_MAX, lambda n: ACTIVATION_BITS * n.L, static=False),
            Buffer("picked", lambda n: n.ROWS_MAX, lambda n: ACTIVATION_BITS * n.L, static=False),
        ),
    ),
    derived={"trips": lambda n: n.tiles * max(n.rows, SETTLE)},
    counts=("trips",),
)
