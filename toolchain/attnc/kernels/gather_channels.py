"""The network of gather_channels.hpp."""

from __future__ import annotations

from attnc.kernels.latency import BRAM, READ, REQUANTIZE, WRITE
from attnc.kernels.network import Buffer, Loop, Network, alone, one
from attnc.kernels.numbers import ACTIVATION_BITS
from attnc.kernels.ports import Port

INDEX_BYTES = 2
"""Words of the indices of a vector, and slots in which they come."""

GATHER_CHANNELS = Network(
    name="gather_channels",
    header="gather_channels.hpp",
    ports=(Port("x", "load"), Port("w", "words"), Port("y", "store")),
    scalars=("rows", "tiles", "out_tiles", "shared", "multiplier", "shift", "low", "high"),
    processes=alone(
        "gather_channels",
        ("XT", "YT", "L", "READS", "TILES_MAX", "ROWS_MAX"),
        Loop("GATHER_READ", READ + WRITE, runs=one(lambda n: n.vectors)),
        Loop(
            "GATHER_CHANNELS",
            READ + BRAM + READ + REQUANTIZE + WRITE,
            late=one(lambda n: n.slots),
        ),
        buffers=(
            Buffer("buffer", lambda n: n.TILES_MAX * n.ROWS_MAX, lambda n: ACTIVATION_BITS * n.L, banks=lambda n: n.READS, placed=True),
        ),
    ),
    derived={
        "vectors": lambda n: n.tiles * n.rows,
        "slots": lambda n: n.out_tiles * n.rows * (INDEX_BYTES + n.L // n.READS),
    },
    counts=("vectors", "slots"),
)
