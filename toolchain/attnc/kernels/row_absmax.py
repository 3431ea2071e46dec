"""The network of row_absmax.hpp."""

from __future__ import annotations

from attnc.kernels.latency import COMPARE, LUTRAM, READ, REQUANTIZE, TREE, WRITE
from attnc.kernels.network import Buffer, Loop, Network, alone, one
from attnc.kernels.ports import Port

SLOTS = 4
"""Cycles between two looks at the maximum of a row."""

ROW_ABSMAX = Network(
    name="row_absmax",
    header="row_absmax.hpp",
    ports=(Port("x", "load"), Port("y", "store")),
    scalars=("rows", "tiles", "multiplier", "shift", "high"),
    processes=alone(
        "row_absmax",
        ("XT", "YT", "L", "ROWS_MAX"),
        Loop("ABSMAX_ROWS", READ + TREE + COMPARE + WRITE, runs=one(lambda n: n.padded)),
        Loop("ABSMAX_WRITE", LUTRAM + REQUANTIZE + WRITE, late=one(lambda n: n.rows)),
        buffers=(Buffer("peaks", lambda n: n.ROWS_MAX, lambda n: 18, static=False),),
    ),
    derived={"padded": lambda n: n.tiles * max(n.rows, SLOTS)},
    counts=("padded",),
)
