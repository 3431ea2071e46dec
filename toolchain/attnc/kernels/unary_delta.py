"""The network of unary_delta.hpp."""

from __future__ import annotations

from attnc.kernels.latency import BRAM, MULTIPLY, READ, REQUANTIZE, WRITE
from attnc.kernels.network import Loop, Network, alone, one
from attnc.kernels.ports import Port

UNARY_DELTA = Network(
    name="unary_delta",
    header="unary_delta.hpp",
    ports=(Port("x", "load"), Port("y", "store")),
    scalars=("rows", "tiles", "channels", "step", "below", "above", "multiplier", "shift", "low", "high"),
    processes=alone(
        "unary_delta",
        ("XT", "AccT", "ValueT", "YT", "Rom", "RELU", "L"),
        Loop("UNARY_DELTA", READ + REQUANTIZE + BRAM + MULTIPLY + REQUANTIZE + WRITE, runs=one(lambda n: n.vectors)),
    ),
    derived={"vectors": lambda n: n.rows * n.tiles},
    counts=("vectors",),
)
