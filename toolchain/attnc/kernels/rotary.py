"""The network of rotary.hpp."""

from __future__ import annotations

from attnc.kernels.latency import ADD, BRAM, MULTIPLY, READ, REQUANTIZE, WRITE
from attnc.kernels.network import Buffer, Loop, Network, alone, one
from attnc.kernels.ports import Port

ROTATED = READ + BRAM + MULTIPLY + ADD + REQUANTIZE + WRITE

ROTARY = Network(
    name="rotary",
    header="rotary.hpp",
    ports=(Port("x", "load"), Port("other", "load"), Port("w", "words"), Port("y", "store")),
    scalars=(
        *("rows", "table_rows", "heads", "head_tiles", "turned_tiles", "half_tiles", "rotary_dims", "one", "multiplier", "shift"),
        *("low", "high"),
    ),
    processes=alone(
        "rotary",
        ("XT", "YT", "TILES_MAX", "ROWS_MAX", "L"),
        Loop("READ_TABLE", READ + WRITE, runs=one(lambda n: n.words)),
        Loop("ROTATE", ROTATED, runs=one(lambda n: n.vectors)),
        buffers=(Buffer("table", lambda n: n.TILES_MAX * n.ROWS_MAX, lambda n: 16 * n.L, reads=2),),
        first=lambda n: n.words + ROTATED,
    ),
    derived={"words": lambda n: 2 * n.table_rows * n.turned_tiles, "vectors": lambda n: n.rows * n.heads * n.head_tiles},
    counts=("words", "vectors"),
    opening={"w": lambda n: n.words},
)
