"""The network of dispatch.hpp."""

from __future__ import annotations

from attnc.kernels.latency import BRAM, READ, REQUANTIZE, WRITE
from attnc.kernels.network import Buffer, Loop, Names, Network, alone, one
from attnc.kernels.numbers import ACTIVATION_BITS
from attnc.kernels.ports import Port

SETTLE = 4
"""Cycles after which what was written can be read."""
_DEPTH = BRAM + READ + REQUANTIZE + WRITE


def moving(n: Names) -> int:
    """Iterations in which tile after tile comes, while the one before leaves."""
    return (n.tiles + 1) * (n.pairs + SETTLE)


DISPATCH = Network(
    name="dispatch",
    header="dispatch.hpp",
    ports=(Port("x", "load"), Port("places", "load", first=True), Port("y", "store")),
    scalars=("rows", "k", "tiles", "multiplier", "shift", "low", "high"),
    processes=alone(
        "dispatch",
        ("XT", "IT", "YT", "L", "ROWS_MAX", "PAIRS_MAX"),
        Loop("TAKE_PLACES", READ + WRITE, runs=one(lambda n: n.pairs)),
        Loop("DISPATCH", _DEPTH, runs=one(lambda n: n.trips)),
        buffers=(
            Buffer("held", lambda n: 2 * n.ROWS_MAX, lambda n: ACTIVATION_BITS * n.L, placed=True),
            Buffer("token", lambda n: n.PAIRS_MAX, lambda n: 15, static=False),
        ),
        first=lambda n: 2 * (n.pairs + SETTLE) + _DEPTH,
    ),
    derived={"pairs": lambda n: n.rows * n.k, "trips": moving},
    counts=("pairs", "trips"),
    trailing={"x": lambda n: 2 * n.pairs + SETTLE},  # it waits for the places, and its last tile leaves when it has come
)
