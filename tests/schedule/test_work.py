"""What streams of different engines wait for each other at a port of the board, and what a chain waits for its operands."""

from __future__ import annotations

import math

from attnc.schedule.turns import ALONE, TURN, Beside, Moved, Passed, slowed
from attnc.schedule.work import AHEAD, Part

READS, WRITES = ("HP0", False), ("HP0", True)
PORTS = {"mine": "HP0", "w": "HP1", "y": "HP0"}


def test_each_pointer_takes_a_turn_for_each_of_ones_own() -> None:
    beside = Beside(eager={READS: [5 * TURN, 3 * TURN + 1, 2]}, pointers={READS: 3})
    assert beside.meanwhile(READS, 0, 1) == TURN + TURN + 2
    assert beside.meanwhile(READS, 0, 4) == 4 * TURN + 3 * TURN + 1 + 2
    assert beside.meanwhile(READS, 0, AHEAD) == 5 * TURN + 3 * TURN + 1 + 2 and beside.meanwhile(WRITES, 0, AHEAD) == 0


def test_what_is_asked_for_later_parts_takes_turns_too() -> None:
    part = Part(moved=[Moved(READS, "mine", Passed(10, 1), 10)], asked=[("w", Passed(40, 3)), ("mine", Passed(50, 4))])
    assert part.with_asked(PORTS, ALONE).meanwhile(READS, 0, 1) == TURN
    assert part.with_asked({**PORTS, "w": "HP0"}, ALONE).meanwhile(READS, 0, 1) == 2 * TURN


def test_short_bursts_take_more_turns() -> None:
    """16 beats in 4 bursts wait for a turn of another pointer each; in one, for one."""
    others = Beside(eager={READS: [100]}, pointers={READS: 1})
    short, long = (Part(moved=[Moved(READS, "x", Passed(16, turns), 16)], busy={"port x": 16}) for turns in (4, 1))
    ports = {"HP0": "HP0"}
    assert short.all_busy(ports, others)["HP0 (x+others)"] == 16 + 4 * TURN and long.all_busy(ports, others)["HP0 (x+others)"] == 16 + TURN


def test_what_has_not_passed_in_a_part_passes_in_the_next() -> None:
    """50 beats for a later part, 10 of this one, and what another pointer asks for in turn: 4 turns. 40 cycles bring 40 of them."""
    part = Part(moved=[Moved(("mine", False), "mine", Passed(10, 1), 10)], asked=[("mine", Passed(50, 4))])
    assert part.left(PORTS, ALONE, math.inf, 40) == {"HP0": 20}
    assert part.left(PORTS, Beside(eager={READS: [70]}, pointers={READS: 1}), math.inf, 40) == {"HP0": 20 + 70}


def test_ports_that_the_ddr_cannot_serve_at_once_have_turns() -> None:
    channels = {("HP0", False): 10, ("HP1", False): 30, ("HP2", False): 30}
    assert slowed(channels, 3.0) == channels
    assert slowed(channels, 1.5) == {("HP0", False): 20, ("HP1", False): 20 + round(20 * 2 / 1.5), ("HP2", False): 20 + round(20 * 2 / 1.5)}


def test_a_pipeline_that_waits_keeps_what_is_in_it() -> None:
    """16 vectors come through a port in 80 cycles, which others take turns at: the first of them leaves a pipeline of 8 with the eighth."""
    moved = [Moved(("mine", False), "x", Passed(32, 2), 32), Moved(("y", True), "y", Passed(16, 1), 0)]
    part = Part(inside=8, given=16, moved=moved, busy={"port x": 32, "port y": 16})
    others = Beside(eager={READS: [48]}, pointers={READS: 1, WRITES: 1}, share={WRITES: 0.5})
    alone, waiting = part.all_busy(PORTS, ALONE), part.all_busy(PORTS, others)
    assert "HP0 writes (y)" not in alone and waiting["HP0 (x+others)"] == 64
    assert waiting["HP0 writes (y+others)"] == 16 + 16 + 8 * (64 - 16) // 16
    assert Part(inside=8, given=4).stands(64) == 60 and Part(inside=8).stands(64) == 0 and part.stands(10) == 0
