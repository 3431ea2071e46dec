"""Walks that touch the same memory."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from attnc.kernels.call import Walk
from attnc.schedule.overlap import overlap


def words(walk: Walk) -> set[int]:
    """All that a walk touches, by its definition."""
    found = set()
    for i0, i1, i2, i3 in product(*map(range, walk.counts)):
        vector = i0 * walk.strides[0] + i1 * walk.strides[1] + i2 * walk.strides[2] + i3
        found |= {walk.offset + vector * walk.bytes + byte for byte in range(walk.bytes)}
    return found


counts = st.tuples(*[st.integers(0, 3)] * 4)
strides = st.tuples(*[st.integers(0, 12)] * 3)
walks = st.builds(Walk, st.integers(0, 40), counts, strides, st.sampled_from((1, 2)))


@settings(max_examples=500)
@given(walks, walks)
def test_overlap_is_what_both_touch(a: Walk, b: Walk) -> None:
    assert overlap(a, b) == bool(words(a) & words(b)) == overlap(b, a)


def test_blocks_of_rows_are_apart_and_meet_the_whole() -> None:
    """Two blocks of 4 rows of a value of 8 rows and 3 tiles."""
    first, second = (Walk(100 + row, (1, 1, 3, 4), (0, 0, 8)) for row in (0, 4))
    assert not overlap(first, second)
    assert overlap(first, Walk(100, (1, 1, 1, 24), (0, 0, 0))) and overlap(second, Walk(107, (1, 1, 1, 1), (0, 0, 0)))
