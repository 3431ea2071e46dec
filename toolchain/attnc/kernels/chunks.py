"""Where a cache of two precisions has what: a sequence is cut into chunks, and a run looks at bytes of the first chunk, of the one before
its own and of its own, and at elements of 4 bits of all others.

Bytes lie in an area of three chunks: the first one, and two in which the later ones take turns. Every number follows from registers by a
factor: with chunk c of W tokens the position p, p modulo W, the smaller of c and 1, the smaller of c and 2, and c modulo 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attnc.kernels.call import POSITION, Derived, Moves

KEPT = 3
"""Chunks of which bytes lie in memory."""


@dataclass(frozen=True)
class Affine:
    """`constant`, and so much more for each more in a register."""

    constant: int
    by: Moves = ()


@dataclass(frozen=True)
class Stretch:
    """Rows that follow each other, whole chunks: where they begin, how many there are, and whether they are those of 4 bits."""

    first: Affine
    count: Affine
    low: bool = False


@dataclass(frozen=True)
class Chunks:
    """Chunks of `size` tokens. Runs do not go over the end of one. With a `window` they look at so many before their own, two at least, and
    at none of the others: of the first one none in bytes then."""

    size: int
    window: int = 0

    @property
    def rows(self) -> int:
        """Of the area of bytes."""
        return KEPT * self.size

    @property
    def derived(self) -> tuple[Derived, ...]:
        """The registers that its numbers follow from, besides the position."""
        return (
            Derived(self._inside, modulus=self.size),
            Derived(self._past, limit=self.size, unit=self.size),
            Derived(self._chunks, limit=2 * self.size, unit=self.size),
            Derived(self._odd, modulus=2 * self.size, unit=self.size),
            *self.reach,
        )

    @property
    def reach(self) -> tuple[Derived, ...]:
        """Those of them that a window needs: the chunks before the run's, and of these the ones that it reaches into."""
        if not self.window:
            return ()
        return Derived(self._all, unit=self.size), Derived(self._reached, limit=self.window * self.size, unit=self.size)

    @property
    def _all(self) -> str:
        return f"all_chunks_of_{self.size}"

    @property
    def _reached(self) -> str:
        return f"reached_chunks_of_{self.size}_to_{self.window}"

    @property
    def skipped(self) -> Moves:
        """Tokens of the chunks before those that a window reaches into."""
        return ((self._all, self.size), (self._reached, -self.size)) if self.window else ()

    @property
    def _inside(self) -> str:
        return f"in_chunk_of_{self.size}"

    @property
    def _past(self) -> str:
        return f"past_chunk_of_{self.size}"

    @property
    def _chunks(self) -> str:
        return f"chunks_of_{self.size}"

    @property
    def _odd(self) -> str:
        return f"odd_chunk_of_{self.size}"

    @property
    def own(self) -> Affine:
        """Where the bytes of the run's chunk begin, the last ones that it looks at."""
        return Affine(0, ((self._past, 2 * self.size), (self._odd, -self.size)))

    @property
    def place(self) -> Affine:
        """Where the bytes of the first token of a run lie."""
        return Affine(0, ((self._inside, 1), *self.own.by))

    @property
    def begun(self) -> Affine:
        """Tokens of all stretches before the run's chunk."""
        return Affine(0, ((self._reached, self.size),) if self.window else ((POSITION, 1), (self._inside, -1)))

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """What a run looks at before its own chunk, in order. Each may be empty. The chunk before is the first one, or one behind that."""
        size = self.size
        first, low = ((self._past, size),), Affine(size)
        between: Moves = (*self.begun.by, (self._chunks, -size))
        if self.window:
            first, low = ((self._past, 2 * size), (self._chunks, -size)), Affine(0, self.skipped)
            between = ((self._reached, size), (self._past, -size))
        return (
            Stretch(Affine(0), Affine(0, first)),
            Stretch(low, Affine(0, between), low=True),
            Stretch(Affine(size, ((self._odd, size),)), Affine(0, ((self._chunks, size), (self._past, -size)))),
        )

    def at(self, number: Affine, position: int) -> int:
        """What a number is at a position."""
        registers: Mapping[str, int] = {POSITION: position} | {each.name: each.at(position) for each in self.derived}
        return number.constant + sum(slope * registers[name] for name, slope in number.by)
