"""The networks of lookup_linear.hpp: tables of sums of activations in place of multipliers."""

from __future__ import annotations

from attnc.kernels.latency import ADD, BRAM, LUTRAM, MULTIPLY, READ, TREE, WRITE
from attnc.kernels.linear import rescaling, ternary_bits
from attnc.kernels.network import Argument, Buffer, Fifo, Loop, Names, Network, Process, Runs, up, vector, word
from attnc.kernels.numbers import RECORD_BYTES
from attnc.kernels.ports import IntType, Port

CODE_BITS = {3: 5, 4: 4, 5: 8}
"""Of a code of so many weights: of ternary ones 3 or 5, of planes 4."""
ENTRIES = {3: 27, 4: 16, 5: 243}
TABLE_SIZE = {3: 32, 4: 16, 5: 256}


def _blocks(n: Names) -> list[int]:
    """Steps of each block."""
    return [min(n.steps, n.all_steps - first) for first in range(0, n.all_steps, n.steps)]


def _words(n: Names, steps: int) -> int:
    """That bring the codes of so many steps of Q channels, with their records and multipliers."""
    return steps * (n.Q * RECORD_BYTES // n.L + n.scales * (n.Q // n.L) + n.step_codes)


def _step_codes(n: Names) -> int:
    """Words with the codes of a step."""
    chunks = up(n.k_tiles, n.G)
    tail = n.k_tiles - n.G * (chunks - 1)
    tail_bits = tail if n.G == 4 else ternary_bits(tail)
    return n.planes * up(n.Q, 8) * ((chunks - 1) * CODE_BITS[n.G] + tail_bits)


def _sums(n: Names, steps: int) -> int:
    """Of a block of so many steps, those of a row in vectors of lanes."""
    return n.rows * steps * (n.Q // n.L)


def _look_up(n: Names) -> Runs:
    """The first block is loaded; then each is looked up while the next one is loaded."""
    blocks = _blocks(n)
    found = [(1, _words(n, blocks[0]) if blocks else 0)]
    for steps, following in zip(blocks, [*blocks[1:], 0], strict=True):
        found.append((1, max(_words(n, following), _visits(n, steps))))
    return tuple(found)


def _visits(n: Names, steps: int) -> int:
    """Cycles in which so many steps are looked up for every row, while tables are made for the next one."""
    return (n.row_visits + 1) * max(steps * n.planes, n.T // n.L * n.G + ENTRIES[n.G])


def _network(name: str, table: Argument) -> Network:
    template = ("XT", "PartT", "AccT", "L", "T", "Q", "K_TILES_MAX", "ROWS_MAX", "COLUMNS_MAX", "STEPS_MAX", "DEPTH_MAX", "SCALES_MAX")
    accumulate = Process(
        function="lookup_accumulate",
        template=(table, *template),
        reads=("x", "w"),
        writes=("records", "sums"),
        loops=(
            Loop("READ_X", READ + WRITE, runs=lambda n: ((n.k_tiles, n.rows),)),
            Loop("LOOK_UP", BRAM + LUTRAM + TREE + ADD + MULTIPLY + WRITE, late=_look_up),
        ),
        buffers=(
            Buffer("x_buffer", lambda n: n.K_TILES_MAX * n.ROWS_MAX, lambda n: 8 * n.L, placed=True),
            Buffer("w_buffer", lambda n: 2 * n.DEPTH_MAX, lambda n: n.L * CODE_BITS[n.G], banks=lambda n: n.Q * (n.T // n.L), placed=True),
            Buffer("s_buffer", lambda n: 2 * n.SCALES_MAX, lambda n: 8, banks=lambda n: n.Q),
            Buffer("parts", lambda n: n.COLUMNS_MAX, lambda n: n.Q * n.PartT),
            Buffer("accs", lambda n: n.STEPS_MAX, lambda n: n.Q * n.AccT),
        ),
        first=lambda n: _words(n, min(n.steps, n.all_steps)) + n.visits * max(n.steps * n.planes, n.T // n.L * n.G + ENTRIES[n.G]),
    )
    return Network(
        name=name,
        header="lookup_linear.hpp",
        ports=(Port("x", "load", IntType(8), raw=True), Port("w", "words"), Port("y", "store")),
        scalars=("rows", "k_tiles", "n_tiles", "low", "high", "steps", "planes", "both_signs", "group_tiles", "scales", "visits"),
        processes=(
            accumulate,
            rescaling(
                template=("AccT", "YT", "L", "Q", "Q", "ROWS_MAX", "STEPS_MAX", "L"),
                channels="Q",
                most=lambda n: n.STEPS_MAX,
                steps="steps",
                bytes_=lambda n: n.L,
                arriving=lambda n: _visits(n, min(n.steps, n.all_steps)) if n.STEPS_MAX * n.Q > n.L else 0,
            ),
        ),
        fifos=(
            Fifo("records", lambda n: word(n.L), lambda n: 2 * n.STEPS_MAX * n.Q * RECORD_BYTES // n.L),
            Fifo("sums", lambda n: vector(n.type("AccT"), n.Q), lambda n: 16),
        ),
        derived={
            "step_codes": _step_codes,
            "all_steps": lambda n: up(n.n_tiles, n.Q // n.L),
            "row_visits": lambda n: n.rows * n.visits,
            "outputs": lambda n: n.rows * n.n_tiles,
            "block_sums": lambda n: _sums(n, min(n.steps, n.all_steps)),
            "last_sums": lambda n: _sums(n, (n.all_steps - 1) % n.steps + 1) if n.steps else 0,
        },
        counts=("step_codes", "all_steps", "row_visits", "outputs", "block_sums", "last_sums"),
    )


TERNARY_LOOKUP = _network("ternary_lookup", lambda n: f"attnc::TernaryTable<{n.G}>")
PLANE_LOOKUP = _network("plane_lookup", lambda n: "attnc::PlaneTable")
