"""The network of layer_normalization.hpp."""

from __future__ import annotations

from attnc.kernels.latency import ADD, BRAM, CLAMP, LUTRAM, MULTIPLY, READ, SHIFT, TREE, WIDE_MULTIPLY, WRITE
from attnc.kernels.network import Buffer, Loop, Names, Network, alone, one
from attnc.kernels.numbers import SHIFT_BITS
from attnc.kernels.ports import Port

SLOTS = 8
"""Cycles between two additions to the same sums."""
RECORD_WORDS, GAIN_WORDS = 8, 3
"""Of a tile: with an offset, and without."""
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
            runs=one(lambda n: n.accumulated),
            function="norm_accumulate",
        ),
        Loop("NORM_TOTAL", LUTRAM + ADD + WRITE, late=lambda n: ((1, n.totalled),) if n.totalled else ()),
        Loop("NORM_STATISTICS", LUTRAM + 2 * WIDE_MULTIPLY + BRAM + 3 * MULTIPLY + SHIFT + WRITE, late=one(lambda n: n.rows)),
        Loop(
            "SCALE_ROWS",
            READ + BRAM + WIDE_MULTIPLY + SHIFT + WIDE_MULTIPLY + ADD + SHIFT + CLAMP + WRITE,
            late=one(lambda n: n.words + n.scaled),
            function="norm_scale",
        ),
        buffers=(
            Buffer("buffer", lambda n: n.TILES_MAX * n.ROWS_MAX, lambda n: 16 * n.L, placed=True),
            Buffer("sums", lambda n: max(n.ROWS_MAX, SLOTS), lambda n: n.SumT, static=False),
            Buffer("squares", lambda n: max(n.ROWS_MAX, SLOTS), lambda n: n.SquareT, static=False),
            Buffer("stats", lambda n: n.ROWS_MAX, _stored, static=False),
        ),
    ),
    derived={
        "lone": lambda n: int(n.rows == 1),
        "words": lambda n: RECORD_WORDS if n.centred else GAIN_WORDS,
        "accumulated": lambda n: n.tiles if n.lone else n.tiles * max(n.rows, SLOTS),
        "totalled": lambda n: min(n.tiles, SLOTS) if n.lone else n.rows if n.together else 0,
        "scaled": lambda n: n.tiles * max(n.rows, n.words),
    },
    counts=("lone", "words", "accumulated", "totalled", "scaled"),
)
