"""The processes of memory.hpp, between memory and the streams of an engine, and of chain.hpp, between its kernels.

Their numbers are those of a walk (`Walk.numbers`), W, the words of a beat of the memory, S, the vectors that come at a time, and `more`
words that follow those of a walk.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from attnc.kernels.design import KEY_PORTS, WEIGHT_PORTS
from attnc.kernels.latency import ADD, BRAM, COMPARE, MEMORY, MULTIPLY, READ, WRITE
from attnc.kernels.network import Loop, Names, Process, one, up

REQUESTS = 16
"""Bursts that are asked for before the first one has come, at most."""


def _beats(n: Names) -> int:
    """Vectors of 16 bits take two words, and so two cycles where a beat is one."""
    return n.vectors * (2 if n.W == 1 and n.bytes == 2 else 1)


def _run_beats(n: Names) -> int:
    return n.count * (2 if n.W == 1 and n.bytes == 2 else 1)


def runs_ahead(beats: int) -> int:
    """Runs of so many beats that `load` asks for ahead."""
    return next((runs for least, runs in ((128, 2), (64, 3), (32, 5), (16, 9)) if beats >= least), REQUESTS)


def _asked(n: Names) -> int:
    return min(n.runs, runs_ahead(up(up(n.count, 2) if n.half else n.count * n.bytes, n.W)))


def _mover(function: str, *loops: Loop) -> Process:
    return Process(function, (), (), (), loops)


LOAD = _mover(
    "load",
    Loop("ASK_RUNS", ADD + COMPARE, runs=one(_asked)),
    Loop("LOAD", MEMORY + ADD + WRITE, runs=one(_beats)),
)


def _load_vectors(pointers: int) -> Process:
    """S vectors at a time through so many pointers, each of which brings a part of every run."""

    def asked(n: Names) -> int:
        vectors = n.count // pointers
        return min(n.runs, runs_ahead(up(vectors, 2 * n.W) if n.half else vectors * n.bytes // n.W))

    return _mover(
        "load_vectors" + (f"_{pointers}" if pointers > 1 else ""),
        Loop("ASK_RUNS", ADD + COMPARE, runs=one(asked), function="move_vectors"),
        Loop("LOAD_VECTORS", MEMORY + ADD + WRITE, runs=one(lambda n: n.vectors // n.S * n.bytes), function="move_vectors"),
    )


LOAD_VECTORS = {pointers: _load_vectors(pointers) for pointers in KEY_PORTS}
"""By the pointers that they come through."""


SCALE_BITS = 13
"""Of a scale of a token as the loader keeps it."""


def parts_of(stretches: Sequence[int], pointers: int) -> list[list[int]]:
    """Of each stretch of a tile, vectors that follow each other, how many each pointer brings."""
    part, ends = sum(stretches) // pointers, [*accumulate(stretches, initial=0)]
    return [[max(min((n + 1) * part, end) - max(n * part, start), 0) for start, end in pairwise(ends)] for n in range(pointers)]


def _load_mixed(pointers: int) -> Process:
    """The same of caches of two precisions: first the scales of tokens, where they have some."""

    def parts(n: Names) -> list[list[int]]:
        return parts_of((n.first, n.low, n.recent, n.count - n.first - n.recent), pointers)

    def asked(n: Names) -> int:
        tiles = n.vectors // (n.count + n.low)
        return max(
            min(tiles * sum(count > 0 for count in part), runs_ahead((up(sum(part) - part[1], n.W) + up(part[1], 2 * n.W)) // 4))
            for part in parts(n)
        )

    def scales(n: Names) -> int:
        return max(part[1] for part in parts(n)) * pointers // n.S if n.scales else 0

    return _mover(
        "load_mixed" + (f"_{pointers}" if pointers > 1 else ""),
        Loop("ASK_STRETCHES", ADD + COMPARE, runs=one(asked), function="move_mixed"),
        Loop("LOAD_SCALES", MEMORY + MULTIPLY + ADD + WRITE, runs=one(scales), function="move_mixed"),
        Loop("LOAD_MIXED", MEMORY + BRAM + MULTIPLY + ADD + WRITE, runs=one(lambda n: n.vectors // n.S), function="move_mixed"),
    )


LOAD_MIXED = {pointers: _load_mixed(pointers) for pointers in KEY_PORTS}
"""By the pointers that they come through."""
TAKE_RUN = _mover("take_run", Loop("TAKE_RUN", MEMORY + ADD + WRITE, runs=one(_run_beats)))
TAKE_RUN_WORDS = _mover("take_run_words", Loop("TAKE_RUN_WORDS", MEMORY + WRITE, runs=one(lambda n: n.count)))
LOAD_EACH_WORD = _mover("load_each_word", Loop("LOAD_EACH_WORD", MEMORY + WRITE, runs=one(lambda n: n.count + n.more)))


def _load_words(ports: int) -> Process:
    """Through one pointer, or several at a time."""
    name, trips = "load_words" + (f"_{ports}" if ports > 1 else ""), one(lambda n: up(n.count, ports * n.W) + up(n.more, ports * n.W))
    return _mover(name, Loop(name.upper(), MEMORY + WRITE, runs=trips))


LOAD_PARTS = {ports: _load_words(ports) for ports in WEIGHT_PORTS}
"""By the pointers that packed words come through."""
STORE = _mover(
    "store",
    Loop("STORE", READ + ADD + MEMORY, runs=one(_beats)),
    Loop("STORE_ANSWERS", MEMORY, runs=one(lambda n: min(n.runs, REQUESTS))),
)
FORWARD = _mover("forward", Loop("FORWARD", READ + WRITE, runs=one(lambda n: n.vectors)))
TEE = _mover("tee", Loop("TEE", READ + WRITE, runs=one(lambda n: n.vectors)))
FETCH = _mover(
    "fetch",
    Loop("FETCH", MEMORY + WRITE, runs=one(lambda n: n.count)),
    Loop("PATCH", READ + MULTIPLY + ADD + WRITE, runs=lambda n: ((1, n.more),) if n.more else ()),
)
"""Brings the integers of the next instruction, and changes those that registers do; it stands beside the function of the accelerator."""
QUEUE = _mover("read_queue", Loop("QUEUE", MEMORY + WRITE, runs=one(lambda n: n.count)))
"""Brings the entries of a queue of experts; it stands beside the function of the accelerator."""

MOVERS = (
    *(LOAD, *LOAD_VECTORS.values(), *LOAD_MIXED.values(), TAKE_RUN, TAKE_RUN_WORDS, *LOAD_PARTS.values()),
    *(LOAD_EACH_WORD, STORE, FORWARD, TEE, FETCH, QUEUE),
)
