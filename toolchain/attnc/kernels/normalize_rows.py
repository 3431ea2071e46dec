"""The network of normalize_rows.hpp."""

from __future__ import annotations

from attnc.fixedpoint import MULTIPLIER_BITS
from attnc.kernels.latency import CLAMP, DIVIDE, LUTRAM, MULTIPLY, READ, SHIFT, WRITE
from attnc.kernels.network import Buffer, Loop, Network, alone, one
from attnc.kernels.numbers import SHIFT_BITS
from attnc.kernels.ports import Port

NORMALIZE_ROWS = Network(
    name="normalize_rows",
    header="normalize_rows.hpp",
    ports=(Port("x", "load"), Port("peak", "load", first=True), Port("y", "store")),
    scalars=("rows", "tiles", "multiplier", "shift", "limit"),
    processes=alone(
        "normalize_rows",
        ("XT", "PeakT", "YT", "L", "ROWS_MAX"),
        Loop("RECIPROCALS", READ + SHIFT + DIVIDE + WRITE, runs=one(lambda n: n.rows)),
        Loop("NORMALIZE_ROWS", READ + LUTRAM + MULTIPLY + SHIFT + CLAMP + WRITE, runs=one(lambda n: n.vectors)),
        buffers=(Buffer("scales", lambda n: n.ROWS_MAX, lambda n: MULTIPLIER_BITS + 2 + SHIFT_BITS, static=False),),
    ),
    derived={"vectors": lambda n: n.rows * n.tiles},
    counts=("vectors",),
)
