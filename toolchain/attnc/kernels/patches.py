"""The network of patches.hpp."""

from __future__ import annotations

from attnc.kernels.latency import READ, REQUANTIZE, WRITE
from attnc.kernels.network import Loop, Network, alone, one
from attnc.kernels.ports import Port

PATCHES = Network(
    name="patches",
    header="patches.hpp",
    ports=(Port("x", "load"), Port("y", "store")),
    scalars=("tiles", "used", "height", "width", "top", "bottom", "left", "right", "multiplier", "shift", "low", "high"),
    processes=alone(
        "patches",
        ("XT", "YT", "L"),
        Loop("PATCHES", READ + REQUANTIZE + WRITE, runs=one(lambda n: n.vectors)),
    ),
    derived={"vectors": lambda n: n.tiles * n.height * n.width},
    counts=("vectors",),
)
