"""The network of rescale.hpp."""

from __future__ import annotations

from attnc.kernels.latency import READ, REQUANTIZE, WRITE
from attnc.kernels.network import ENTER, LEAVE, Loop, Network, alone
from attnc.kernels.ports import Port

RECORD_PLANES = 4
"""Words of the records of a tile."""
_DEPTH = READ + REQUANTIZE + WRITE

RESCALE = Network(
    name="rescale",
    header="rescale.hpp",
    ports=(Port("x", "load"), Port("w", "words"), Port("y", "store")),
    scalars=("rows", "tiles", "low", "high"),
    processes=alone(
        "rescale",
        ("XT", "YT", "L"),
        Loop(
            "RESCALE_ROWS",
            _DEPTH,
            runs=lambda n: ((1, RECORD_PLANES), (n.tiles, max(n.rows, RECORD_PLANES))),
        ),
        first=lambda n: RECORD_PLANES - 1 + _DEPTH + ENTER + LEAVE + _DEPTH,  # the records of the first tile come alone
    ),
)
