"""What passes between memory and kernels: what a port reads was put there, and bytes mean what the type of a value says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from attnc.golden import run_golden
from attnc.ir import Graph, GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.design import Design
from attnc.kernels.lowering import Lowering
from attnc.schedule import chains, program
from attnc.schedule.chains import Link, load_ports, store_port
from attnc.schedule.memory import MemoryMap, plan_memory
from attnc.schedule.program import build_program
from attnc.schedule.traffic import check_traffic
from harness import assert_exact, quantized, random_feeds, simulate, tensor_type

ROWS, HEADS, HEAD = 12, 2, 16
DESIGN = Design.of(8, 8, 64, 2)
BYTE = tensor_type(8, 2.0**-5)


def turned(zero_point: int = 0, interleaved: bool = False) -> Graph:
    """linear, then a rotary embedding, then linear: as queries and keys of many decoders, which then meet in attention."""
    rng = np.random.default_rng(4)
    width = HEADS * HEAD
    graph = Graph("turned", inputs=["x"], outputs=["y"])
    for name in ("x", "a", "r", "y"):
        graph.add_value(name, (ROWS, width))
    angles = np.arange(ROWS)[:, None] * 0.7 ** np.arange(HEAD // 2)

    def linear(name: str, x: str, y: str) -> Node:
        return Node(name, "linear", [x], y, params={"weight": rng.normal(size=(width, width)) / 6, "bias": rng.normal(size=width)})

    table = {"cos": np.cos(angles), "sin": np.sin(angles)}
    turn = Node("turn", "rotary", ["a"], "r", {"num_heads": HEADS, "interleaved": interleaved}, table)
    graph.nodes = [linear("in", "x", "a"), turn, linear("out", "r", "y")]
    middle = TensorType(8, True, np.asarray(2.0**-5), zero_point)
    return quantized(graph, {"x": BYTE, "a": middle, "r": BYTE, "y": BYTE})


def texts(graph: Graph) -> list[str]:
    return [chain.text for chain in {id(one.chain): one.chain for one in build_program(graph, DESIGN, None).instructions}.values()]


def test_halves_of_heads_are_read_from_memory() -> None:
    """A rotary whose pairs lie half a head apart reads its operand twice, so it ends the chain that makes it; one of neighbours reads it
    once."""
    assert texts(turned()) == ["linear", "rotary > linear"] and texts(turned(interleaved=True))[0] == "linear > rotary"


@pytest.mark.parametrize(
    ("zero_point", "design"), [(0, DESIGN), (-77, Design.of(8, 16, 5, 2, beat=2)), (0, Design.of(8, 8, 5, 2, parallel=2))]
)
def test_halves_of_heads_are_exact(zero_point: int, design: Design) -> None:
    graph = turned(zero_point)
    assert_exact(graph, random_feeds(graph, 3), design)


def careless(links: Sequence[Link], calls: Sequence[Call]) -> int | None:
    """Chains whatever stores what some port loads, and looks at no other port."""
    before = links[-1].calls
    orders = [call.walks[store_port(call.kernel)].order for call in before]
    ports = load_ports(calls[0].kernel)
    return next((index for index in ports if [call.walks[index].order for call in calls] == orders), None)


def test_a_port_that_reads_what_only_passes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "_fed", careless)
    with pytest.raises(GraphError, match="reads 'a' from memory, which does not hold it"):
        build_program(turned(), DESIGN, None)


def test_without_the_checks_it_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are two: of values when memory is planned, of words when the program is done."""
    graph = turned()
    feeds = random_feeds(graph, 2)
    monkeypatch.setattr(chains, "_fed", careless)
    real = program.touched
    monkeypatch.setattr(program, "touched", lambda steps: [(set(), stored) for _, stored in real(steps)])
    with pytest.raises(GraphError, match="reads 'a' from words of memory that hold nothing"):
        build_program(graph, DESIGN, lambda data: None)
    monkeypatch.setattr(program, "check_traffic", lambda *_: None)
    assert (simulate(graph, feeds, DESIGN)["y"] != run_golden(graph, feeds)["y"]).any()


def test_steps_in_another_order_are_refused() -> None:
    graph = turned()
    built = build_program(graph, DESIGN, lambda data: None)
    check_traffic(graph, built.memory, built.steps)
    with pytest.raises(GraphError, match=r"step 0 reads '\w+' from words of memory that hold"):
        check_traffic(graph, built.memory, built.steps[::-1])
    with pytest.raises(GraphError, match="the host reads 'y' from words"):
        check_traffic(graph, built.memory, built.steps[:-1])


def test_a_step_that_writes_over_what_it_reads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless_plan(*given: Any) -> MemoryMap:
        places = plan_memory(*given)
        return replace(places, values={**places.values, "a": places.values["x"]})

    monkeypatch.setattr(program, "plan_memory", careless_plan)
    with pytest.raises(GraphError, match="step 0 stores 'a' where it loads or stores something else"):
        build_program(turned(), DESIGN, lambda data: None)


def test_a_zero_point_that_a_walk_forgets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lowering, "zero_point", lambda ctx, name: 0)
    with pytest.raises(GraphError, match=r"node 'in': port 'y' moves 'a' as 1 bytes with zero point 0, needed 1 with -77"):
        build_program(turned(-77), DESIGN, lambda data: None)


def test_what_a_port_cannot_carry_is_refused() -> None:
    graph = turned()
    graph.value("r").type = tensor_type(8, signed=False)
    with pytest.raises(GraphError, match="of type u8: memory holds signed integers"):
        build_program(graph, DESIGN, lambda data: None)
    graph = turned()
    graph.value("a").type = TensorType(16, True, np.asarray(1.0), 5)
    with pytest.raises(GraphError, match="port 'y' carries -32768 to 32767, 'a' has -32773 to 32762"):
        build_program(graph, DESIGN, lambda data: None)
