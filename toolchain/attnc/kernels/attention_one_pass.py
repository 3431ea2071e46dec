"""The networks of attention_one_pass.hpp, one for each way in which biases come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from attnc.arrays import Array
from attnc.kernels.attention import (
    BIAS_BITS,
    CHANNELS,
    ELEMENTS,
    MADE,
    OUTPUTS,
    SCORE,
    SCORED,
    TABLE,
    factor_width,
    factor_words,
    normalise,
    operands,
    reciprocal,
)
from attnc.kernels.latency import ADD, BRAM, COMPARE, EXP2, MULTIPLY, READ, SHIFT, TREE, WRITE
from attnc.kernels.network import Buffer, Element, Fifo, Loop, Names, Network, Process, Runs, up, vector
from attnc.kernels.numbers import SCORE_BITS, SCORE_FRACTION_BITS, SHIFT_BITS
from attnc.kernels.ports import IntType, Port
from attnc.kernels.softmax import PROBABILITY, SCALE

WHOLE_BITS = SCORE_BITS + 2 - SCORE_FRACTION_BITS
"""Of a maximum, which is a whole number."""


def met(n: Names) -> Array:
    """Steps of S keys [blocks of keys, blocks of queries] that a call takes for one head: `key_steps` of the header."""
    first = np.arange(up(n.rows, n.P)) * n.P
    last = np.minimum(first + n.P, n.rows)
    begin = np.clip(n.position + first - n.before, 0, n.keys - 1)
    end = np.minimum(np.maximum(n.position + last + n.after, begin + 1), n.keys)
    starts = np.arange(n.key_blocks)[:, None] * n.key_step
    stops = np.where(np.arange(n.key_blocks)[:, None] + 1 == n.key_blocks, n.keys, starts + n.key_step)
    low, high = np.maximum(begin, starts), np.minimum(end, stops)
    return np.where(low < high, -(-(high - starts) // n.S) - (low - starts) // n.S, 0)


def _times(trips: Iterable[int], times: int = 1) -> Runs:
    """Runs of so many iterations each, `times` over."""
    return tuple((count * times, each) for each, count in sorted(Counter(map(int, trips)).items()))


def _missing(n: Names, per_step: int, words: int, loads: int) -> Runs:
    """What of `words` words is left to load when a block of keys is done, in which one comes in each step: of all blocks but the first,
    which is loaded alone."""
    taken = [min(words, int(steps.sum()) * per_step) for steps in met(n)]
    every = [taken[number % n.key_blocks] for number in range(n.heads * n.key_blocks)]
    left = [words, *(words - here for here in every[: loads - 1])]
    return _times(left)


_TABLE = Process(
    function="one_pass_bias",
    template=("BiasT", "BLOCK_MAX", "BIAS_ROWS_MAX", "CHANNELS_MAX", "PER_STEP", "L", "P", "S"),
    reads=("bias",),
    writes=("biases",),
    loops=(
        Loop("LOAD_BIAS", READ + WRITE, runs=lambda n: ((n.biased * n.key_blocks, n.bias_words),)),
        Loop("EMIT_BIAS", MADE, runs=lambda n: _times(met(n).ravel(), n.biased)),
    ),
    buffers=(Buffer("buffer", lambda n: up(n.BLOCK_MAX, n.L) * up(n.BIAS_ROWS_MAX, n.P), lambda n: BIAS_BITS * n.L, banks=lambda n: n.P),),
    first=lambda n: (n.bias_words if n.bias_heads else 0) + MADE,
)
_FACTORS = Process(
    function="one_pass_bias",
    template=_TABLE.template,
    reads=("bias",),
    writes=("biases",),
    loops=(
        Loop(
            "LOAD_Q_FACTORS",
            READ + WRITE,
            runs=lambda n: ((n.biased, n.bias_words), (n.biased * (n.key_blocks - 1), 0)),
        ),
        Loop("LOAD_K_FACTORS", READ + WRITE, runs=lambda n: ((n.biased * n.key_blocks, n.key_factor_words),)),
        Loop("EMIT_BIAS", MADE, runs=lambda n: _times((met(n) * up(n.bias_channels, n.PER_STEP)).ravel(), n.biased)),
    ),
    buffers=(
        Buffer(
            "q_factors",
            lambda n: factor_words(n) * up(n.BIAS_ROWS_MAX, n.P),
            lambda n: BIAS_BITS * factor_width(n),
            banks=lambda n: n.P,
        ),
        Buffer("k_factors", lambda n: factor_words(n) * up(n.BLOCK_MAX, n.S), lambda n: BIAS_BITS * factor_width(n), banks=lambda n: n.S),
    ),
    first=lambda n: (n.bias_words + n.key_factor_words if n.bias_heads else 0) + MADE,
)


def _scores(n: Names) -> Runs:
    """The first keys are loaded before any score is made: these loops run and have nothing to do."""
    return (*_times((met(n) * n.qk_tiles).ravel(), n.heads), (up(n.rows, n.P), 0))


def _load_k(n: Names) -> Runs:
    return (*_missing(n, n.qk_tiles, n.k_words, n.sweeps), (1, 0))


def _load_v(n: Names) -> Runs:
    return (*_missing(n, n.v_tiles, n.v_words, n.sweeps), (n.heads + 1, 0))


def _met_or_merged(n: Names) -> Runs:
    """Per head each block of keys that a block of queries meets, then the sweep that merges lanes."""
    steps = met(n)
    return (*_times(steps[steps > 0], n.heads), (n.heads * up(n.rows, n.P), 0))


def _tiles(n: Names) -> Runs:
    return tuple((times * n.v_tiles, trips) for times, trips in _met_or_merged(n))


def _per_tile(n: Names) -> Runs:
    return ((sum(times for times, _ in _tiles(n)), n.P),)


_ONLINE = READ + EXP2 + TREE + ADD + WRITE
_SUMMED = BRAM + MULTIPLY + TREE + ADD + WRITE


def _one_pass(name: str, bias: Port, biases: Process) -> Network:
    scores = lambda n: vector(SCORE, n.P * n.S)  # noqa: E731
    updates = lambda n: Element(f"attnc::Vec<attnc::OnlineUpdate, {n.P * n.S}>", (WHOLE_BITS + SHIFT_BITS) * n.P * n.S)  # noqa: E731
    return Network(
        name=name,
        header="attention_one_pass.hpp",
        ports=operands(bias),
        scalars=(
            *("heads", "rows", "keys", "block_keys", "key_step", "key_blocks", "qk_tiles", "v_tiles", "position", "before", "after"),
            *("score_multiplier", "score_shift", "cap_multiplier", "cap_shift", "bias_heads", "bias_rows", "bias_shift"),
            *("bias_channels", "output_multiplier", "output_shift", "low", "high"),
        ),
        processes=(
            biases,
            Process(
                function="one_pass_scores",
                template=("XT", "BiasT", "ScoreT", "Cap", "HEAD_TILES_MAX", "BLOCK_MAX", "ROWS_MAX", "L", "P", "S"),
                reads=("q", "k", "biases"),
                writes=("scores",),
                loops=(
                    Loop("LOAD_Q", READ + WRITE, runs=lambda n: ((n.heads, n.q_words), (n.heads * (n.key_blocks - 1) + 1, 0))),
                    Loop("SCORES", SCORED, runs=_scores),
                    Loop("LOAD_K", READ + WRITE, runs=_load_k),
                ),
                buffers=(
                    Buffer("k_buffer", lambda n: n.HEAD_TILES_MAX * up(n.BLOCK_MAX, n.S), lambda n: n.XT * n.L, banks=lambda n: 2 * n.S),
                    Buffer("q_buffer", lambda n: n.HEAD_TILES_MAX * up(n.ROWS_MAX, n.P), lambda n: n.XT * n.L, banks=lambda n: n.P),
                ),
                first=lambda n: (n.block_keys + n.rows + 1) * n.qk_tiles + 2 * SCORED,
            ),
            Process(
                function="one_pass_maximum",
                template=("ROWS_MAX", "P", "S"),
                reads=("scores",),
                writes=("row", "sum_updates", "value_updates"),
                loops=(
                    Loop(
                        "MAXIMUM",
                        READ + TREE + COMPARE + WRITE,
                        runs=lambda n: (*_times(met(n).ravel(), n.heads), (n.heads * up(n.rows, n.P), 0)),
                    ),
                ),
                buffers=(Buffer("maxima", lambda n: up(n.ROWS_MAX, n.P), lambda n: WHOLE_BITS * n.P * n.S),),
                first=lambda n: int(met(n)[0, 0]) * n.qk_tiles + READ + TREE + COMPARE + WRITE,
            ),
            Process(
                function="one_pass_exponential",
                template=("SumT", "Exp2", "ROWS_MAX", "P", "S"),
                reads=("row", "sum_updates"),
                writes=("probabilities", "sums"),
                loops=(Loop("EXPONENTIAL", _ONLINE, runs=_met_or_merged),),
                buffers=(Buffer("sums", lambda n: up(n.ROWS_MAX, n.P), lambda n: n.SumT * n.P * n.S),),
                rest=lambda n: int(met(n)[-1, -1]) + _ONLINE,
            ),
            reciprocal("P", 1, 1),
            Process(
                function="one_pass_weighted",
                template=("VT", "AccT", "VALUE_TILES_MAX", "BLOCK_MAX", "ROWS_MAX", "L", "P", "S"),
                reads=("v", "probabilities", "value_updates"),
                writes=("weighted",),
                loops=(
                    Loop("RESCALE", READ + BRAM + SHIFT + WRITE, runs=_per_tile),
                    Loop("WEIGHTED", _SUMMED, runs=_tiles),
                    Loop("KEEP", READ + WRITE, runs=_per_tile),
                    Loop("LOAD_V", READ + WRITE, runs=_load_v),
                ),
                buffers=(
                    Buffer("v_buffer", lambda n: n.VALUE_TILES_MAX * up(n.BLOCK_MAX, n.S), lambda n: n.VT * n.L, banks=lambda n: 2 * n.S),
                    Buffer("p_buffer", lambda n: up(n.BLOCK_MAX, n.S), lambda n: PROBABILITY.bits * n.P * n.S),
                    Buffer("state", lambda n: n.VALUE_TILES_MAX * up(n.ROWS_MAX, n.P) * n.P, lambda n: n.AccT * n.S * n.L),
                ),
                rest=lambda n: up(n.rows, n.P) * n.v_tiles * (2 * n.P + 2 * _SUMMED),
            ),
            normalise(placed=False),
        ),
        fifos=(
            Fifo("biases", lambda n: vector(IntType(BIAS_BITS), n.P * n.S), lambda n: 16),
            Fifo("scores", scores, lambda n: 4),
            Fifo("row", scores, lambda n: n.BLOCK_MAX // n.S + 3),
            Fifo("sum_updates", updates, lambda n: 2),
            Fifo("value_updates", updates, lambda n: 4),
            Fifo("probabilities", lambda n: vector(PROBABILITY, n.P * n.S), lambda n: 4),
            Fifo("sums", lambda n: vector(n.type("SumT"), n.P), lambda n: 2),
            Fifo("scales", lambda n: SCALE, lambda n: 2 * n.P),
            Fifo("weighted", lambda n: vector(n.type("AccT"), n.L), lambda n: 16),
        ),
        derived={
            "R": lambda n: n.P,
            "leaving": lambda n: n.P,
            "biased": lambda n: n.heads if n.bias_heads else 0,
            "words": lambda n: up(n.bias_channels, n.L // 2),
            "bias_words": lambda n: n.rows * n.words if bias is CHANNELS else up(n.block_keys, n.L) * n.bias_rows,
            "key_factor_words": lambda n: n.block_keys * n.words if bias is CHANNELS else 0,
            "q_words": lambda n: n.rows * n.qk_tiles,
            "k_words": lambda n: n.block_keys * n.qk_tiles,
            "v_words": lambda n: n.block_keys * n.v_tiles,
            "sweeps": lambda n: n.heads * n.key_blocks,
            **OUTPUTS,
        },
        counts=("bias_words", "key_factor_words", "k_words", "v_words", "q_words", "sums", "outputs", "sweeps", "blocks"),
        elements=ELEMENTS,
    )


ATTENTION_ONE_PASS = _one_pass("attention_one_pass", TABLE, _TABLE)
ATTENTION_ONE_PASS_CHANNELS = _one_pass("attention_one_pass_channels", CHANNELS, _FACTORS)
