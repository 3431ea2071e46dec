"""The network of unary_polynomial.hpp."""

from __future__ import annotations

from attnc.kernels.latency import MULTIPLY, READ, REQUANTIZE, WRITE
from attnc.kernels.network import Loop, Network, alone, one
from attnc.kernels.ports import Port

UNARY_POLYNOMIAL = Network(
    name="unary_polynomial",
    header="unary_polynomial.hpp",
    ports=(Port("x", "load"), Port("y", "store")),
    scalars=(
        *("rows", "tiles", "channels", "fraction", "limit", "linear", "n0", "n1", "n2", "n_end", "p0", "p1", "p2", "p_end"),
        *("multiplier", "shift", "low", "high"),
    ),
    processes=alone(
        "unary_polynomial",
        ("XT", "AccT", "YT", "L"),
        Loop("UNARY_POLYNOMIAL", READ + REQUANTIZE + 2 * MULTIPLY + REQUANTIZE + WRITE, runs=one(lambda n: n.vectors)),
    ),
    derived={"vectors": lambda n: n.rows * n.tiles},
    counts=("vectors",),
)
