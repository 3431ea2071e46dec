"""The network of linear.hpp: multipliers, and the process that rescales sums, which lookup_linear.hpp has too."""

from __future__ import annotations

from attnc.kernels.latency import ADD, BRAM, MULTIPLY, READ, REQUANTIZE, TREE, WRITE
from attnc.kernels.network import Argument, Buffer, Count, Fifo, Loop, Names, Network, Process, Runs, one, up, vector, word
from attnc.kernels.numbers import ACTIVATION_BITS, RECORD_BYTES
from attnc.kernels.ports import AHEAD, FILL, SIDES, IntType, Port

SETTLE = 4
"""Cycles after which what a pipeline wrote to a buffer can be read."""


TERNARY_TILES = 3
"""Tiles of a ternary code in memory, and of an element of w_buffer."""
_PRODUCT = BRAM + MULTIPLY + TREE + ADD + WRITE
_RESCALE = READ + ADD + REQUANTIZE + WRITE


def ternary_bits(tiles: int) -> int:
    """Bits of the code of `tiles` ternary weights: the least that hold 3**tiles values."""
    return {1: 2, 2: 4, 3: 5, 4: 7}.get(tiles, 8)


def _unit(n: Names, tiles: int, bits: int, unit_tiles: int) -> int:
    """Beats of a unit of so many tiles; bytes have none."""
    if not tiles or bits == 8:
        return 0
    return up(up(n.PE, 8) * (ternary_bits(tiles) if unit_tiles == TERNARY_TILES else bits * tiles), n.W_WORDS)


def _tail(k_tiles: int, unit_tiles: int) -> int:
    """Tiles of the last unit."""
    return (k_tiles - 1) % unit_tiles + 1 if k_tiles else 0


def _group(n: Names, k_tiles: int, bits: int, scales: int, units: int, unit_beats: int, tail_beats: int) -> int:
    """Beats in which the multipliers and weights of a group come."""
    if not k_tiles:
        return 0
    beat = n.W_WORDS * n.L
    first = up(scales, beat // n.PE) if beat > n.PE else scales * up(n.PE, beat)
    return first + (n.PE // n.W_WORDS * k_tiles if bits == 8 else (units - 1) * unit_beats + tail_beats)


def _own(n: Names) -> int:
    """Of a group of this run."""
    return _group(n, n.k_tiles if n.all_steps else 0, n.bits, n.scales, n.units, n.unit_beats, n.tail_beats)


def _next(n: Names) -> int:
    """Of the first group of the next run."""
    return _group(n, n.next_k_tiles, n.next_bits, n.next_scales, n.next_units, n.next_unit_beats, n.next_tail_beats)


def _computing(n: Names) -> int:
    """Iterations that compute: group after group, each while its records and the weights of the next one come, or those of the next run."""
    if not n.all_steps:
        return 0
    every, last = n.records + n.weights + SETTLE, n.records + n.next_weights
    return (n.all_steps - 1) * max(every, n.steps) + max(last, n.steps)


def _groups(n: Names) -> Runs:
    """One pipeline for all groups. The weights of the first one come beside the operand, where this run waits for either."""
    first = max(n.weights if n.all_steps and not n.w_ready else 0, n.fill if n.fill_first else 0)
    return ((1, (first + SETTLE if first else 0) + n.computing),)


def _last_sums(n: Names) -> Runs:
    """The last sums leave, and what is left of an operand that is brought for a later run comes."""
    left = 0 if n.fill_first else n.fill - _groups(n)[0][1]
    return ((1, max(left, n.R * n.tiles)),)


def _first_records(n: Names) -> int:
    """Cycles until the records of the first group leave, with its first sums behind them: those of a run that found its weights are taken
    a block of rows later."""
    if n.w_ready:
        return n.row_slots
    return (0 if n.fill_first else n.weights + SETTLE) + max(n.row_slots - n.records, 0)


def _behind_weights(n: Names) -> int:
    """Cycles from the last word to the end: with those of the last group sums are made, while those of the next run come; when the last
    product has left its pipeline the last sums leave theirs, and where outputs of several tiles are put in order, these behind the last
    one."""
    meanwhile = n.records + n.next_weights if n.next_k_tiles else 0
    rescaled = n.block_sums + SETTLE if n.tiles > 1 else 0
    return max(n.steps - meanwhile, 0) + _PRODUCT + n.R * n.tiles + _RESCALE + rescaled


ACCUMULATE = Process(
    function="linear_accumulate",
    template=(
        *("XT", "WT", "AccT", "L", "PE", "R", "UNITS_MAX", "STORED", "HALVES", "QUARTERS", "LARGEST", "X_TILES_MAX", "X_BYTES"),
        *(SIDES, "ROWS_MAX", "SCALES_MAX", "PACKED", "W_WORDS", "held_sums"),
    ),
    reads=("x", "w"),
    writes=("records", "sums"),
    loops=(
        Loop(
            "MULTIPLY",
            _PRODUCT,
            runs=lambda n: _groups(n) if n.fill_first else (),
            late=lambda n: _last_sums(n) if n.fill_first else (*_groups(n), *_last_sums(n)),
            going_on=lambda n: n.computing if n.fill_first else 0,
        ),
    ),
    buffers=(
        Buffer(
            "x_buffer",
            lambda n: n.X_SIDES * n.X_TILES_MAX * up(n.ROWS_MAX, n.R),
            lambda n: 8 * n.L,
            banks=lambda n: n.R,
            placed=True,
        ),
        Buffer("w_buffer", lambda n: 2 * n.UNITS_MAX, lambda n: n.STORED * n.L, banks=lambda n: n.PE, placed=True),
        Buffer("s_buffer", lambda n: 2 * n.SCALES_MAX, lambda n: 8, banks=lambda n: n.PE),
    ),
    first=_first_records,
)


def rescaling(
    template: tuple[Argument, ...],
    channels: str,
    most: Count,
    steps: str | int,
    bytes_: Count,
    placed: bool = False,
    arriving: Count = lambda n: 0,
) -> Process:
    """`linear_rescale` for blocks of up to `most` steps of as many channels as `channels` names; of the records `bytes_` bytes come at a
    time. Its buffer is `placed` where the emitted code says where it lies. The sums of the first block take as many cycles as `arriving`
    to come, where they are not made one per cycle."""

    def tiles(n: Names) -> int:
        return int(getattr(n, channels)) // n.L

    def per_block(n: Names) -> int:
        return steps if isinstance(steps, int) else int(getattr(n, steps))

    def records(n: Names) -> int:
        """Iterations in which those of a step come."""
        return int(getattr(n, channels)) * RECORD_BYTES // bytes_(n)

    def whole(n: Names) -> int:
        """Iterations in which the sums of the first block come, or the outputs of the last one leave."""
        return buffered(n) * (n.block_sums + SETTLE)

    def trips(n: Names) -> int:
        """Block after block its records and its sums, while the outputs of the one before leave."""
        return n.all_steps * records(n) + n.outputs + whole(n)

    def buffered(n: Names) -> int:
        return int(most(n) * tiles(n) > 1)

    return Process(
        function="linear_rescale",
        template=template,
        reads=("records", "sums"),
        writes=("y",),
        loops=(Loop("RESCALE", _RESCALE, late=one(trips)),),
        buffers=(
            Buffer(
                "y_buffer",
                lambda n: 2 * buffered(n) * most(n) * tiles(n) * n.ROWS_MAX,
                lambda n: ACTIVATION_BITS * n.L,
                placed=placed,
            ),
            Buffer("kept", lambda n: most(n) * tiles(n), lambda n: 8 * bytes_(n), lambda n: RECORD_BYTES * n.L // bytes_(n), static=False),
        ),
        first=lambda n: max(records(n) * min(per_block(n), n.all_steps) + whole(n), arriving(n)) + _RESCALE,
        rest=lambda n: _RESCALE + whole(n),
    )


LINEAR = Network(
    name="linear",
    header="linear.hpp",
    ports=(Port("x", "load", IntType(8), raw=True), Port("w", "words"), Port("y", "store")),
    scalars=("rows", "k_tiles", "n_tiles", "low", "high", "bits", "unit_tiles", "group_tiles", "scales", "x_bytes", *FILL, *AHEAD),
    processes=(
        ACCUMULATE,
        rescaling(
            template=("AccT", "YT", "L", "PE", "L", "ROWS_MAX", 1, lambda n: str(n.W_WORDS * n.L)),
            channels="PE",
            most=lambda n: 1,
            steps=1,
            bytes_=lambda n: n.W_WORDS * n.L,
            placed=True,
        ),
    ),
    fifos=(
        # The records of a group are written while those of the one before may still be there.
        Fifo("records", lambda n: word(n.W_WORDS * n.L), lambda n: 2 * n.PE * RECORD_BYTES // n.L // n.W_WORDS),
        Fifo("sums", lambda n: vector(n.type("AccT"), n.L), lambda n: n.held_sums),
    ),
    derived={
        "tiles": lambda n: n.PE // n.L,
        "all_steps": lambda n: up(n.n_tiles * n.L, n.PE),
        "records": lambda n: n.PE * RECORD_BYTES // n.L // n.W_WORDS,
        "held_sums": lambda n: max(32, n.records),
        "weights": _own,
        "next_weights": _next,
        "row_slots": lambda n: max(n.k_tiles * n.x_bytes, n.R * n.tiles),
        "steps": lambda n: up(n.rows, n.R) * n.row_slots,
        "fill": lambda n: n.fill_rows * n.fill_tiles * n.fill_bytes,
        "units": lambda n: up(n.k_tiles, n.unit_tiles) if n.unit_tiles else 0,
        "next_units": lambda n: up(n.next_k_tiles, n.next_unit_tiles) if n.next_unit_tiles else 0,
        "unit_beats": lambda n: _unit(n, n.unit_tiles, n.bits, n.unit_tiles),
        "tail_beats": lambda n: _unit(n, _tail(n.k_tiles, n.unit_tiles), n.bits, n.unit_tiles),
        "next_unit_beats": lambda n: _unit(n, n.next_unit_tiles, n.next_bits, n.next_unit_tiles),
        "next_tail_beats": lambda n: _unit(n, _tail(n.next_k_tiles, n.next_unit_tiles), n.next_bits, n.next_unit_tiles),
        "computing": _computing,
        "outputs": lambda n: n.rows * n.n_tiles,
        "block_sums": lambda n: n.rows * n.tiles if n.all_steps else 0,
        "last_sums": lambda n: n.block_sums,
    },
    counts=(
        *("all_steps", "units", "unit_beats", "tail_beats", "weights"),
        *("next_units", "next_unit_beats", "next_tail_beats", "next_weights"),
        *("fill", "outputs", "block_sums", "last_sums"),
    ),
    beats={"w": "W_WORDS"},
    leaving=lambda n: n.rows * min(n.tiles, n.n_tiles),
    opening={"w": lambda n: (n.records + (0 if n.w_ready else n.weights)) * n.W_WORDS if n.all_steps else 0},
    trailing={"w": _behind_weights},
)
