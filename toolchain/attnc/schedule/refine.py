"""The last part of the search: what a design that is the best of those that are cut alike gains where engines differ from each other.

From there on the design goes to the best of its neighbours, while one is better. They have one number larger or smaller, or one larger and
another smaller: what an engine gives back that does not bind goes to one that does. Or values are cut into a block of rows more or less; or
an engine takes half a block at a time, so that others start on its first half while it works on the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import product

from attnc.kernels.design import KEY_PORTS, WEIGHT_PORTS, AttentionNumbers, Design, LinearNumbers, LookupNumbers, Numbers

Rank = tuple[float, ...]
"""What designs are ranked by: lower is better."""
LEAST_ROWS = 16
"""Of a block, where a value has more."""
COPIES = (1, 2)
"""Whether engines may have copies of small kernels (2)."""
MOST_QUERIES = 16
LARGEST = 512
"""Of what counts channels or tables."""


def refined(
    start: tuple[Rank, Design],
    rank: Callable[[Design, Rank], Rank | None],
    kinds: Collection[type[Numbers]],
    height: int,
    cached: bool = False,
) -> tuple[Rank, Design]:
    """The design that is reached from `start`, with what it is ranked by. `rank` gives None for what does not fit, or cannot be as good as
    the best that it is told; `kinds` are the numbers that engines of the model have, `height` are the rows of the largest value; `cached`:
    keys come from caches."""
    best, seen = start, {start[1]}
    while True:
        better = best
        for design in neighbours(best[1], kinds, height, cached):
            if design in seen:
                continue
            seen.add(design)
            found = rank(design, better[0])
            if found is not None and found < better[0]:
                better = found, design
        if better is best:
            return best
        best = better


def neighbours(design: Design, kinds: Collection[type[Numbers]], height: int, cached: bool = False) -> Iterator[Design]:
    """Designs that differ in little."""
    yield from filter(_possible, _cut_otherwise(design, kinds, height))
    less, more = _steps(design, kinds)
    single = [{name: number} for name, number in (*less.items(), *more.items())]
    pairs = [{given: less[given], taken: more[taken]} for given, taken in product(less, more) if given != taken]
    keys = [*_keys_at_once(design)] if cached and AttentionNumbers in kinds else []
    keys += [{**changes, given: less[given]} for changes in keys for given in less if given not in changes]
    yield from filter(_possible, (design.having(**changes) for changes in (*single, *pairs, *keys)))


def _keys_at_once(design: Design) -> Iterator[dict[str, int]]:
    """More keys or fewer, with as many queries as they need."""
    now, queries = design.attention.keys, design.attention.queries
    for keys in (now * 2, now // 2):
        if 1 <= keys <= KEY_PORTS[-1] * design.beat:
            yield {"keys": keys, "queries": max(queries, keys)}


def _possible(design: Design) -> bool:
    linear, attention = design.linear, design.attention
    if linear.pe < design.lanes or linear.rows_at_once > (linear.rows or design.rows):
        return False
    return attention.keys <= min(attention.queries, attention.rows or design.rows)


def _cut_otherwise(design: Design, kinds: Collection[type[Numbers]], height: int) -> Iterator[Design]:
    """With a block more, as many, or a block less, and with an engine that takes half of it at a time, none, or the one that does now."""
    count = math.ceil(height / design.rows)
    halving = [name for name, numbers in design.engines.items() if numbers.rows is not None]
    choices = {(), tuple(halving), *((kind.kernel,) for kind in kinds)}
    for blocks, halves in product((count, count - 1, count + 1), sorted(choices)):
        rows = math.ceil(height / max(blocks, 1))
        if rows >= min(LEAST_ROWS, height):
            own = {name: math.ceil(rows / 2) if name in halves else None for name in design.engines}
            yield replace(design, rows=rows).having_engines({name: replace(n, rows=own[name]) for name, n in design.engines.items()})


def _steps(design: Design, kinds: Collection[type[Numbers]]) -> tuple[dict[str, int], dict[str, int]]:
    """The next smaller number for each that may be smaller, and the next larger one."""
    powers = [1 << bits for bits in range(LARGEST.bit_length())]
    wide = [power for power in powers if power >= design.lanes]
    rows = design.linear.rows or design.rows
    choices: dict[str, Collection[int]] = {"copies": COPIES}
    if LinearNumbers in kinds:
        cut = {math.ceil(rows / blocks) for blocks in range(1, rows + 1)}  # others would leave multipliers idle in the last of the rows
        choices |= {"pe": wide, "rows_at_once": cut, "weight_ports": WEIGHT_PORTS}
    if AttentionNumbers in kinds:
        choices |= {"queries": [power for power in powers if power <= MOST_QUERIES]}
    if LookupNumbers in kinds:
        choices |= {"tables": wide, "columns": wide}
    now = {key: number for numbers in design.engines.values() for key, number in vars(numbers).items() if key != "rows"}
    now["copies"] = design.copies
    less = {name: max((n for n in numbers if n < now[name]), default=None) for name, numbers in choices.items()}
    more = {name: min((n for n in numbers if n > now[name]), default=None) for name, numbers in choices.items()}
    return {name: n for name, n in less.items() if n is not None}, {name: n for name, n in more.items() if n is not None}
