"""The network of layer_normalization.hpp."""

from __future__ import annotations

from attnc.kernels.latency import ADD, BRAM, CLAMP, LUTRAM, MULTIPLY, READ, SHIFT, TREE, WIDE_MULTIPLY, WRITE
from attnc.kernels.network import Buffer, Loop, Names, Network, alone, one
from attnc.kernels.numbers import SHIFT_BITS
from attnc.kernels.ports import Port

SLOTS = 8
"""Cycles between two additions to the sums of a row; also words of a record."""
MANTISSA_BITS = 17
"""Of the reciprocal square root, besides its sign."""


def _stored(n: Names) -> int:
    """Bits of a row between the passes: factor, offset and shift."""
    return n.CountT + MANTISSA_BITS + max(n.DT + MANTISSA_BITS + 2, 33) + SHIFT_BITS


LAYER_NORMALIZATION = Network(
    name="layer_normalization",
    header="layer_normalization.hpp",
    ports=(Port("x", "load"), Port("w", "words"), Port("y", "store")),
    scalars=("rows", "tiles", "channels", "centred", "together", "epsilon_low", "epsilon_high", "shift", "low", "high"),
    processes=alone(
        "layer_normalization",
        ("XT", "CountT", "SumT", "SquareT", "VT", "DT", "ZT", "AccT", "YT", "Rom", "L", "TILES_MAX", "ROWS_MAX"),
        Loop(
            "NORM_ACCUMULATE",
            READ + MULTIPLY + TREE + ADD + WRITE,
            runs=one(lambda n: n.padded),
            function="norm_accumulate",
        ),
        Loop("NORM_TOTAL", LUTRAM + ADD + WRITE, late=lambda n: ((1, n.rows),) if n.together else ()),
        Loop("NORM_STATISTICS", LUTRAM + 2 * WIDE_MULTIPLY + BRAM + 3 * MULTIPLY + SHIFT + WRITE, late=one(lambda n: n.rows)),
        Loop(
            "SCALE_ROWS",
            READ + BRAM + WIDE_MULTIPLY + SHIFT + WIDE_MULTIPLY + ADD + SHIFT + CLAMP + WRITE,
            late=one(lambda n: SLOTS + n.padded),
            function="norm_scale",
        ),
        buffers=(
            Buffer("buffer", lambda n: n.TILES_MAX * n.ROWS_MAX, lambda n: 16 * n.L, placed=True),
            Buffer("sums", lambda n: n.ROWS_MAX, lambda n: n.SumT, static=False),
            Buffer("squares", lambda n: n.ROWS_MAX, lambda n: n.SquareT, static=False),
            Buffer("stats", lambda n: n.ROWS_MAX, _stored, static=False),
        ),
    ),
    derived={"padded": lambda n: n.tiles * max(n.rows, SLOTS)},
    counts=("padded",),
)
