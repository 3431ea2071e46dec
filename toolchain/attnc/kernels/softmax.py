"""The network of softmax.hpp."""

from __future__ import annotations

from attnc.fixedpoint import MULTIPLIER_BITS
from attnc.kernels.latency import BRAM, DIVIDE, EXP2, READ, REQUANTIZE, TREE, WRITE
from attnc.kernels.network import Buffer, Element, Fifo, Loop, Network, Process, one, scalar, vector
from attnc.kernels.numbers import ACTIVATION_BITS, PROBABILITY_BITS, SCORE_BITS, SHIFT_BITS
from attnc.kernels.ports import IntType, Port

SCALE = Element("attnc::SoftmaxScale", MULTIPLIER_BITS + 1 + SHIFT_BITS)
"""The factor of a row of probabilities."""
SCORE = IntType(SCORE_BITS)
PROBABILITY = IntType(PROBABILITY_BITS + 1, signed=False)
_DIVISION = READ + DIVIDE + WRITE

SOFTMAX = Network(
    name="softmax",
    header="softmax.hpp",
    ports=(Port("x", "load"), Port("y", "store")),
    scalars=("rows", "channels", "tiles", "score_multiplier", "score_shift", "output_multiplier", "output_shift", "low", "high"),
    processes=(
        Process(
            function="softmax_scores",
            template=("XT", "TILES_MAX", "ROWS_MAX", "L"),
            reads=("x",),
            writes=("scores", "maxima"),
            loops=(
                Loop("READ_X", READ + WRITE, runs=one(lambda n: n.vectors)),
                Loop("SCORES", BRAM + REQUANTIZE + TREE + WRITE, late=one(lambda n: n.vectors)),
            ),
            buffers=(Buffer("x_buffer", lambda n: n.TILES_MAX * n.ROWS_MAX, lambda n: ACTIVATION_BITS * n.L, placed=True),),
            first=lambda n: n.tiles + BRAM + REQUANTIZE + TREE + WRITE,
        ),
        Process(
            function="softmax_exponential",
            template=("SumT", "Exp2", "TILES_MAX", "ROWS_MAX", "L"),
            reads=("scores", "maxima"),
            writes=("probabilities", "sums"),
            loops=(Loop("EXPONENTIAL", READ + EXP2 + TREE + WRITE, late=one(lambda n: n.vectors)),),
            first=lambda n: n.tiles + READ + EXP2 + TREE + WRITE,
            rest=lambda n: n.tiles + READ + EXP2 + TREE + WRITE,
        ),
        Process(
            function="softmax_reciprocal",
            template=("SumT", "Division", "ROWS_MAX"),
            reads=("sums",),
            writes=("scales",),
            loops=(Loop("RECIPROCAL", _DIVISION, late=one(lambda n: n.rows)),),
        ),
        Process(
            function="softmax_normalise",
            template=("YT", "TILES_MAX", "ROWS_MAX", "L"),
            reads=("probabilities", "scales"),
            writes=("y",),
            loops=(
                Loop("NORMALISE", READ + REQUANTIZE + WRITE, late=one(lambda n: n.vectors)),
                Loop("WRITE_Y", BRAM + WRITE, late=one(lambda n: n.vectors)),
            ),
            buffers=(Buffer("y_buffer", lambda n: n.TILES_MAX * n.ROWS_MAX, lambda n: ACTIVATION_BITS * n.L, placed=True),),
            rest=lambda n: n.tiles * (n.rows + 1) + READ + REQUANTIZE + BRAM + 2 * WRITE,
        ),
    ),
    fifos=(
        Fifo("scores", lambda n: vector(SCORE, n.L), lambda n: n.TILES_MAX + 2),
        Fifo("maxima", lambda n: scalar(SCORE), lambda n: 2),
        # The rows whose factors are inside the pipelined division, which a stalling pipeline gives only when more sums come.
        Fifo("probabilities", lambda n: vector(PROBABILITY, n.L), lambda n: 48 * n.TILES_MAX),
        Fifo("sums", lambda n: scalar(n.type("SumT")), lambda n: 4),
        Fifo("scales", lambda n: SCALE, lambda n: 4),
    ),
    derived={"vectors": lambda n: n.rows * n.tiles},
    counts=("vectors",),
)
