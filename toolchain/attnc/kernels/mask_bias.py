"""The network of mask_bias.hpp."""

from __future__ import annotations

from attnc.kernels.latency import ADD, CLAMP, READ, REQUANTIZE, WRITE
from attnc.kernels.network import Loop, Network, alone, one
from attnc.kernels.ports import Port

MASK_BIAS = Network(
    name="mask_bias",
    header="mask_bias.hpp",
    ports=(Port("x", "load"), Port("mask", "load"), Port("y", "store")),
    scalars=("rows", "tiles", "multiplier", "shift"),
    processes=alone(
        "mask_bias",
        ("XT", "MT", "YT", "L"),
        Loop("MASK_BIAS", READ + REQUANTIZE + ADD + CLAMP + WRITE, runs=one(lambda n: n.vectors)),
    ),
    derived={"vectors": lambda n: n.rows * n.tiles},
    counts=("vectors",),
)
