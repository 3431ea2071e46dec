"""The network of scale_rows.hpp."""

from __future__ import annotations

from attnc.fixedpoint import MULTIPLIER_BITS
from attnc.kernels.latency import ADD, CLAMP, LUTRAM, READ, SHIFT, WIDE_MULTIPLY, WRITE
from attnc.kernels.network import Buffer, Loop, Network, alone, one
from attnc.kernels.ports import Port

RECORD_PLANES = 4
"""Words of the records of a tile."""

SCALE_ROWS = Network(
    name="scale_rows",
    header="scale_rows.hpp",
    ports=(Port("x", "load"), Port("peak", "load", first=True), Port("w", "words"), Port("y", "store")),
    scalars=("rows", "tiles", "multiplier", "shift", "low", "high"),
    processes=alone(
        "scale_rows",
        ("XT", "PeakT", "AccT", "YT", "L", "ROWS_MAX"),
        Loop("FACTORS", READ + WIDE_MULTIPLY + WRITE, runs=one(lambda n: n.rows)),
        Loop(
            "SCALE_ROWS",
            READ + LUTRAM + WIDE_MULTIPLY + SHIFT + ADD + CLAMP + WRITE,
            runs=one(lambda n: RECORD_PLANES + n.padded),
        ),
        buffers=(Buffer("factors", lambda n: n.ROWS_MAX, lambda n: n.PeakT + MULTIPLIER_BITS, static=False),),
    ),
    derived={"padded": lambda n: n.tiles * max(n.rows, RECORD_PLANES)},
    counts=("padded",),
)
