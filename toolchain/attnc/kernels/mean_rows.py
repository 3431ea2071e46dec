"""The network of mean_rows.hpp."""

from __future__ import annotations

from attnc.kernels.latency import ADD, READ, REQUANTIZE, WRITE
from attnc.kernels.network import Loop, Network, alone, one
from attnc.kernels.ports import Port

MEAN_ROWS = Network(
    name="mean_rows",
    header="mean_rows.hpp",
    ports=(Port("x", "load"), Port("y", "store")),
    scalars=("groups", "rows", "multiplier", "shift", "low", "high"),
    processes=alone(
        "mean_rows",
        ("XT", "AccT", "YT", "L"),
        Loop("MEAN_ROWS", READ + ADD + REQUANTIZE + WRITE, runs=one(lambda n: n.vectors)),
    ),
    derived={"vectors": lambda n: n.groups * n.rows},
    counts=("vectors",),
)
