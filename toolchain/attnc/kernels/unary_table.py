"""The network of unary_table.hpp."""

from __future__ import annotations

from attnc.kernels.latency import BRAM, READ, WRITE
from attnc.kernels.network import Buffer, Loop, Network, alone, one
from attnc.kernels.ports import Port

ENTRIES = 256

UNARY_TABLE = Network(
    name="unary_table",
    header="unary_table.hpp",
    ports=(Port("x", "load"), Port("w", "words"), Port("y", "store")),
    scalars=("rows", "tiles", "channels"),
    processes=alone(
        "unary_table",
        ("XT", "YT", "L"),
        Loop("FILL_TABLE", READ + WRITE, runs=one(lambda n: ENTRIES)),
        Loop("UNARY_TABLE", READ + BRAM + WRITE, runs=one(lambda n: n.vectors)),
        buffers=(Buffer("table", lambda n: ENTRIES, lambda n: 16, banks=lambda n: n.L, lutram=True),),
    ),
    derived={"vectors": lambda n: n.rows * n.tiles},
    counts=("vectors",),
)
