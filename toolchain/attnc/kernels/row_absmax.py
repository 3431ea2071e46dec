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
        Loop("ABSMAX_WRITE", LUTRAM + REQUANTIZE + WRITE, late=one(lambda n: n.peaks)),
        buffers=(Buffer("peaks", lambda n: max(n.ROWS_MAX, SLOTS), lambda n: 18, static=False),),
    ),
    derived={
        "lone": lambda n: int(n.rows == 1),
        "padded": lambda n: n.tiles if n.lone else n.tiles * max(n.rows, SLOTS),
        "peaks": lambda n: min(n.tiles, SLOTS) if n.lone else n.rows,
    },
    counts=("lone", "padded", "peaks"),
)
