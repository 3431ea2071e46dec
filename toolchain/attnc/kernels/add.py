"""The network of add.hpp."""

from __future__ import annotations

from attnc.kernels.latency import ADD, CLAMP, READ, SHIFT, WIDE_MULTIPLY, WRITE
from attnc.kernels.network import Loop, Network, alone, one
from attnc.kernels.ports import Port

ADDITION = Network(
    name="add",
    header="add.hpp",
    ports=(Port("a", "load"), Port("b", "load"), Port("y", "store")),
    scalars=("rows", "tiles", "broadcast", "multiplier_a", "multiplier_b", "shift", "low", "high"),
    processes=alone(
        "add",
        ("AT", "BT", "YT", "L"),
        Loop("ADD", READ + WIDE_MULTIPLY + ADD + SHIFT + CLAMP + WRITE, runs=one(lambda n: n.vectors)),
    ),
    derived={"vectors": lambda n: n.rows * n.tiles},
    counts=("vectors",),
)
