"""The network of mul.hpp."""

from __future__ import annotations

from attnc.kernels.latency import MULTIPLY, READ, REQUANTIZE, WRITE
from attnc.kernels.network import Loop, Network, alone
from attnc.kernels.ports import Port

PAIRED = "PAIRED"
"""The template argument that says whether b has rows of its own (1), or is always one row (0)."""

MULTIPLICATION = Network(
    name="mul",
    header="mul.hpp",
    ports=(Port("a", "load"), Port("b", "load"), Port("y", "store")),
    scalars=("rows", "tiles", "broadcast", "multiplier", "shift", "low", "high"),
    processes=alone(
        "mul",
        ("AT", "BT", "YT", "L", PAIRED),
        Loop(
            "MUL",
            READ + MULTIPLY + REQUANTIZE + WRITE,
            runs=lambda n: ((1, n.vectors),) if n.PAIRED else (),
            function="mul_rows",
        ),
        # The factors of the first tile are made before a vector passes, those of a later one meanwhile.
        Loop(
            "MUL_BY_ROW",
            READ + REQUANTIZE + WRITE,
            runs=lambda n: () if n.PAIRED else ((1, n.L + n.padded),),
            function="mul_by_row",
        ),
    ),
    derived={"vectors": lambda n: n.rows * n.tiles, "padded": lambda n: n.tiles * max(n.rows, n.L) if n.broadcast else 0},
    counts=("vectors", "padded"),
)
