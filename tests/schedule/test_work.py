"""What streams of different engines wait for each other at a port of the board, and what a chain waits for its operands."""

from __future__ import annotations

from attnc.schedule.work import AHEAD, ALONE, TURN, Beside, Part

READS, WRITES = ("HP0", False), ("HP0", True)
PORTS = {"mine": "HP0", "w": "HP1", "y": "HP0"}


def test_each_pointer_takes_a_turn_for_each_of_ones_own() -> None:
    beside = Beside(eager={READS: [5 * TURN, 3 * TURN + 1, 2]}, pointers={READS: 3})
    assert beside.meanwhile(READS, 0, 1) == TURN + TURN + 2
    assert beside.meanwhile(READS, 0, 4 * TURN) == 4 * TURN + 3 * TURN + 1 + 2
    assert beside.meanwhile(READS, 0, AHEAD) == 5 * TURN + 3 * TURN + 1 + 2 and beside.meanwhile(WRITES, 0, AHEAD) == 0


def test_what_is_asked_for_later_parts_takes_turns_too() -> None:
    part = Part(moved=[(("mine", False), "mine", 10)], asked=[("w", 40), ("mine", 50)])
    assert part.with_asked(PORTS, ALONE).meanwhile(READS, 0, 10) == TURN
    assert part.with_asked({**PORTS, "w": "HP0"}, ALONE).meanwhile(READS, 0, 10) == 2 * TURN


def test_a_pipeline_that_waits_keeps_what_is_in_it() -> None:
    """16 vectors come through a port in 80 cycles, which others take turns at: the first of them leaves a pipeline of 8 with the eighth."""
    part = Part(inside=8, given=16, moved=[(("mine", False), "x", 32), (("y", True), "y", 16)], busy={"port x": 32, "port y": 16})
    others = Beside(eager={READS: [48]}, pointers={READS: 1, WRITES: 1}, share={WRITES: 0.5})
    alone, waiting = part.all_busy(PORTS, ALONE), part.all_busy(PORTS, others)
    assert "HP0 writes (y)" not in alone and waiting["HP0 (x+others)"] == 64
    assert waiting["HP0 writes (y+others)"] == 16 + 16 + 8 * (64 - 16) // 16
    assert Part(inside=8, given=4).stands(64) == 60 and Part(inside=8).stands(64) == 0 and part.stands(10) == 0
