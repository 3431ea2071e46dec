"""The network of combine.hpp."""

from __future__ import annotations

from attnc.kernels.dispatch import SETTLE, moving
from attnc.kernels.latency import ADD, BRAM, MULTIPLY, READ, REQUANTIZE, WRITE
from attnc.kernels.network import Buffer, Loop, Network, alone, one
from attnc.kernels.numbers import ACTIVATION_BITS
from attnc.kernels.ports import Port

_DEPTH = BRAM + READ + MULTIPLY + ADD + REQUANTIZE + WRITE

COMBINE = Network(
    name="combine",
    header="combine.hpp",
    ports=(Port("x", "load"), Port("places", "load", first=True), Port("scores", "load", first=True), Port("y", "store")),
    scalars=("rows", "k", "tiles", "multiplier", "shift", "low", "high"),
    processes=alone(
        "combine",
        ("XT", "IT", "ST", "AccT", "YT", "L", "ROWS_MAX", "PAIRS_MAX"),
        Loop("TAKE_PAIRS", READ + WRITE, runs=one(lambda n: n.rows)),
        Loop("COMBINE", _DEPTH, runs=one(lambda n: n.trips)),
        buffers=(
            Buffer("made", lambda n: 2 * n.PAIRS_MAX, lambda n: ACTIVATION_BITS * n.L, placed=True),
            Buffer("place", lambda n: n.ROWS_MAX, lambda n: ACTIVATION_BITS * n.L, static=False),
            Buffer("score", lambda n: n.ROWS_MAX, lambda n: ACTIVATION_BITS * n.L, static=False),
        ),
        first=lambda n: n.rows + n.pairs + SETTLE + _DEPTH,
    ),
    derived={"pairs": lambda n: n.rows * n.k, "trips": moving},
    counts=("pairs", "trips"),
    opening={"places": lambda n: n.rows, "scores": lambda n: n.rows},
    trailing={"x": lambda n: n.rows + n.pairs + SETTLE},  # it waits for the places, and its last tile leaves when it has come
)
