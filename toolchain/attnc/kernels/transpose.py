"""The network of transpose.hpp."""

from __future__ import annotations

from attnc.kernels.latency import READ, REQUANTIZE, WRITE
from attnc.kernels.network import Loop, Network, alone, one
from attnc.kernels.ports import Port

_DEPTH = READ + REQUANTIZE + WRITE

TRANSPOSE = Network(
    name="transpose",
    header="transpose.hpp",
    ports=(Port("x", "load"), Port("y", "store")),
    scalars=("blocks", "rows", "tiles", "channels", "multiplier", "shift", "low", "high"),
    processes=alone(
        "transpose",
        ("XT", "YT", "L"),
        Loop("TRANSPOSE", _DEPTH, runs=one(lambda n: (n.squares + 1) * n.L)),
        first=lambda n: n.L + _DEPTH,
    ),
    derived={"squares": lambda n: n.blocks * n.tiles},
    counts=("squares",),
)
