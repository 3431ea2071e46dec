"""The network of unary_chord.hpp."""

from __future__ import annotations

from attnc.kernels.latency import BRAM, CLAMP, MULTIPLY, READ, REQUANTIZE, SHIFT, WRITE
from attnc.kernels.network import Loop, Network, alone, one
from attnc.kernels.ports import Port

UNARY_CHORD = Network(
    name="unary_chord",
    header="unary_chord.hpp",
    ports=(Port("x", "load"), Port("y", "store")),
    scalars=("rows", "tiles", "channels", "step", "left", "right", "multiplier", "shift", "low", "high"),
    processes=alone(
        "unary_chord",
        ("XT", "AccT", "YT", "Rom", "L"),
        Loop("UNARY_CHORD", READ + REQUANTIZE + BRAM + MULTIPLY + SHIFT + CLAMP + WRITE, runs=one(lambda n: n.vectors)),
    ),
    derived={"vectors": lambda n: n.rows * n.tiles},
    counts=("vectors",),
)
