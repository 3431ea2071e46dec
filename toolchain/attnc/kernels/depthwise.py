"""The network of depthwise.hpp."""

from __future__ import annotations

from attnc.kernels.latency import ADD, MULTIPLY, READ, REQUANTIZE, WRITE
from attnc.kernels.network import Buffer, Loop, Network, alone
from attnc.kernels.ports import IntType, Port

RECORD_PLANES = 8
"""Words of the record of a tile: bias, multiplier and shift."""

DEPTHWISE = Network(
    name="depthwise",
    header="depthwise.hpp",
    ports=(Port("x", "load", IntType(8)), Port("w", "words"), Port("y", "store")),
    scalars=("rows", "tiles", "taps", "low", "high"),
    processes=alone(
        "depthwise",
        ("XT", "WT", "AccT", "YT", "L", "TAPS_MAX", "ROWS_MAX"),
        Loop("READ_WEIGHTS", READ + WRITE, runs=lambda n: ((n.tiles, RECORD_PLANES + n.taps),)),
        Loop("READ_X", READ + WRITE, runs=lambda n: ((n.tiles * n.taps, n.rows),)),
        Loop("MULTIPLY", READ + MULTIPLY + ADD + REQUANTIZE + WRITE, runs=lambda n: ((n.tiles, n.products),)),
        buffers=(Buffer("buffer", lambda n: n.TAPS_MAX * n.ROWS_MAX, lambda n: n.XT * n.L),),
    ),
    elements={"x": "XT"},
    derived={"products": lambda n: n.rows * n.taps},
    counts=("products",),
)
