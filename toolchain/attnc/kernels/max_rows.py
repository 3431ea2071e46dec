"""The network of max_rows.hpp."""

from __future__ import annotations

from attnc.kernels.latency import COMPARE, READ, REQUANTIZE, WRITE
from attnc.kernels.network import Loop, Network, alone, one
from attnc.kernels.ports import Port

MAX_ROWS = Network(
    name="max_rows",
    header="max_rows.hpp",
    ports=(Port("x", "load"), Port("y", "store")),
    scalars=("groups", "rows", "multiplier", "shift", "low", "high"),
    processes=alone(
        "max_rows",
        ("XT", "YT", "L"),
        Loop("MAX_ROWS", READ + COMPARE + REQUANTIZE + WRITE, runs=one(lambda n: n.vectors)),
    ),
    derived={"vectors": lambda n: n.groups * n.rows},
    counts=("vectors",),
)
