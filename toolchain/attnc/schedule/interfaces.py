"""Which memory interface of the accelerator serves which pointer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attnc.schedule.engine import Engine
from attnc.schedule.streams import POINTERS


def interfaces(pointers: Mapping[str, int], engines: Sequence[Engine], parallel: bool) -> dict[str, str]:
    """For each of `pointers`, which are given with the words that they move at a time. One that writes shares an interface with one that
    reads words of its size, since an interface reads and writes at the same time; it is one of the same engine where pointers are its own.
    The pointers of a loader that reads activations and parameters, in turn, share one too; and so do one that brings a part of several
    vectors and one that brings a part of several words, where engines do not run in `parallel`."""
    readers: dict[tuple[str, int], list[str]] = {}

    def like(pointer: str) -> tuple[str, int]:
        return "_".join(pointer.split("_")[1:-1]), pointers[pointer]

    found: dict[str, str] = {}
    for pointer in pointers:
        if pointer.startswith((POINTERS["load"], POINTERS["words"], POINTERS["wide words"])):
            readers.setdefault(like(pointer), []).append(pointer)
            found[pointer] = pointer
        elif pointer.startswith(POINTERS["parameters"]):
            partner = POINTERS["load"] + pointer.removeprefix(POINTERS["parameters"])
            found[pointer] = partner if partner in pointers else pointer
    of_engines = [{pointer for stream in engine.streams for pointer in stream.pointers} for engine in engines]
    resting = [] if parallel else [pointer for pointer in pointers if pointer.startswith(POINTERS["wide words"])]
    for pointer in (one for one in pointers if one.startswith(POINTERS["keys"])):
        fits = (one for one in resting if like(one) == like(pointer) and not any({one, pointer} <= own for own in of_engines))
        found[pointer] = next(fits, pointer)
        resting = [one for one in resting if one != found[pointer]]
    for pointer in pointers:
        if pointer not in found:
            free = readers.get(like(pointer))
            found[pointer] = free.pop(0) if free else pointer
    return found
