"""Ports of the board for memory interfaces, beside every assignment there is."""

from __future__ import annotations

import random
from collections import Counter
from itertools import product

from attnc.kernels.design import Design
from attnc.schedule.cost import estimate
from attnc.schedule.devices import BOARDS
from attnc.schedule.program import build_program
from attnc.schedule.wiring import Moved, Opens, Part, Step, wire
from schedule.graphs import layer_graph


def cycles(steps: list[Step], ports: dict[str, str]) -> int:
    """By the words of the module's docstring."""

    def most(moved: Moved) -> int:
        loads: dict[tuple[str, bool], int] = {}
        for (bundle, write), one in moved:
            loads[ports[bundle], write] = loads.get((ports[bundle], write), 0) + one
        return max(loads.values(), default=0)

    def part(slowest: int, moved: Moved, opens: Opens) -> int:
        return max(slowest + most(tuple(((bundle, False), one) for bundle, one in opens)), most(moved))

    return sum(max(most(moved), *(sum(part(*one) for one in parts) for parts in instructions)) for instructions, moved in steps)


def test_writes_pass_beside_reads_and_each_other() -> None:
    both: Step = ((((10, ((("a", True), 9), (("b", True), 9)), ()),),), ())
    ports = wire(Counter([both]), ["a", "b"], ["HP0", "HP1"])
    assert ports["a"] != ports["b"] and cycles([both], ports) == 10
    assert cycles([both], wire(Counter([both]), ["a", "b"], ["HP0"])) == 18


def test_what_moves_at_different_times_may_share_a_port() -> None:
    """Two bundles that move most do so one after the other; a third moves beside both."""
    steps: list[Step] = [
        ((((5, ((("first", False), 100), (("beside", False), 90)), ()),),), ()),
        ((((5, ((("second", False), 100), (("beside", False), 90)), ()),),), ()),
    ]
    ports = wire(Counter(steps), ["first", "second", "beside"], ["HP0", "HP1"])
    assert ports["first"] == ports["second"] != ports["beside"] and cycles(steps, ports) == 200


def test_what_opens_an_instruction_is_spread() -> None:
    """Neither port is full, but the kernel begins when the last of its first operands is there."""
    step: Step = ((((100, ((("q", False), 40), (("k", False), 40)), (("q", 20), ("k", 20))),),), ())
    ports = wire(Counter([step]), ["q", "k"], ["HP0", "HP1"])
    assert ports["q"] != ports["k"] and cycles([step], ports) == 120 and cycles([step], wire(Counter([step]), ["q", "k"], ["HP0"])) == 140


def test_near_the_best_of_all() -> None:
    """Random programs: mostly the best, never far from it."""
    pick, ratios = random.Random(5), []
    bundles, tags = [f"b{i}" for i in range(5)], ["HP0", "HP1", "HP2"]

    def moved() -> Moved:
        return tuple(((b, pick.random() < 0.4), pick.randint(1, 100)) for b in pick.sample(bundles, pick.randint(1, 4)))

    def opens() -> Opens:
        return tuple((b, pick.randint(1, 30)) for b in pick.sample(bundles, pick.randint(0, 2)))

    def parts() -> tuple[Part, ...]:
        return tuple((pick.randint(1, 120), moved(), opens()) for _ in range(pick.randint(1, 3)))

    for _ in range(40):
        steps: list[Step] = [(tuple(parts() for _ in range(pick.randint(1, 2))), moved()) for _ in range(pick.randint(1, 4))]
        best = min(cycles(steps, dict(zip(bundles, ports, strict=True))) for ports in product(tags, repeat=len(bundles)))
        ratios.append(cycles(steps, wire(Counter(steps), bundles, tags)) / best)
    assert max(ratios) < 1.1 and sum(ratio == 1 for ratio in ratios) > 30


def test_settled_ports_cost_less_and_can_be_given_back() -> None:
    """Those that whole estimates choose, on a board of few ports."""
    program = build_program(layer_graph(rows=12), Design.of(8, 16, 17, 4, parallel=2, copies=2, weight_ports=2), None)
    board = BOARDS["kv260"].model_copy(update={"ports": ("HP0", "HP1", "HP3")})
    usual, settled = (estimate(program, board, 200, settled=settled) for settled in (False, True))
    assert settled.cycles < usual.cycles and settled.ports != usual.ports
    assert estimate(program, board, 200, ports=settled.ports) == settled
