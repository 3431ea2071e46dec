"""Chains: what is chained, what is not, how engines share kernels, what stays out of memory, and that C++ equals golden."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from attnc.codegen.render import write_sources
from attnc.golden import run_golden
from attnc.ir import Graph, Node, TensorType
from attnc.kernels.call import Walk
from attnc.kernels.design import Design
from attnc.ops import operator
from attnc.schedule.chains import Link, Order
from attnc.schedule.cost import estimate
from attnc.schedule.devices import BOARDS
from attnc.schedule.engine import Instruction
from attnc.schedule.program import Program, build_program
from harness import assert_exact, quantized, random_feeds, simulate, tensor_type
from schedule.graphs import layer_graph
from schedule.random_graphs import random_graph
from synthesis.compilers import warnings_of_builds

DESIGN = Design.of(8, 16, 64, 2)
BYTE, WORD = tensor_type(8, 2.0**-5), tensor_type(16, 2.0**-10)


class Sketch:
    """A graph of [12, 32] values, written as one line per node."""

    def __init__(self, **inputs: TensorType) -> None:
        self.graph, self.types, self.rng = Graph("sketch", inputs=list(inputs)), dict(inputs), np.random.default_rng(1)
        for name in inputs:
            self.graph.add_value(name, (12, 32))

    def __call__(self, output: str, op: str, *inputs: str, type_: TensorType = BYTE, **attrs: object) -> Sketch:
        shapes = [self.graph.value(name).shape for name in inputs]
        params = {"weight": self.rng.normal(size=(32, 32)) / 6, "bias": self.rng.normal(size=32)} if op == "linear" else {}
        if op == "scale_rows":
            params = {"bias": self.rng.normal(size=32)}
        if op == "layer_normalization":
            params, attrs = {"gamma": np.ones(32), "beta": np.zeros(32)}, {"epsilon": 1e-5}
        node = Node(output, op, list(inputs), output, dict(attrs), params)
        self.graph.add_value(output, operator(node).shape(node, shapes))
        self.graph.nodes.append(node)
        self.types[output] = type_
        return self

    def ends(self, *outputs: str) -> Graph:
        self.graph.outputs = list(outputs)
        return quantized(self.graph, self.types)


def texts(program: Program) -> list[str]:
    """Every chain once, in order, by the names of its nodes; * where the result is stored on the way."""
    chains = {id(one.chain): one.chain for one in program.instructions}
    return [
        " ".join(
            link.node.name + "*" * after for link, after in zip(chain.links, [*(n.tapped for n in chain.links[1:]), False], strict=True)
        )
        for chain in chains.values()
    ]


def chains_of(graph: Graph, design: Design = DESIGN) -> list[str]:
    return texts(build_program(graph, design, None))


def test_kernels_that_follow_each_other_are_chained() -> None:
    graph = Sketch(x=WORD)("n", "layer_normalization", "x")("a", "linear", "n")("b", "requantize", "a")("y", "add", "b", "x").ends("y")
    assert chains_of(graph) == ["n a b y"]


def test_what_others_read_is_stored_on_the_way() -> None:
    graph = Sketch(x=BYTE)("a", "linear", "x")("b", "requantize", "a")("c", "linear", "b")("y", "add", "c", "a").ends("y")
    assert chains_of(graph) == ["a* b", "c y"]
    program = build_program(graph, DESIGN, None)
    assert set(program.memory.values) == {"x", "a", "b", "y"}


def test_an_output_of_the_graph_is_stored_on_the_way() -> None:
    graph = Sketch(x=BYTE)("a", "linear", "x")("y", "requantize", "a").ends("a", "y")
    assert chains_of(graph) == ["a* y"]


def test_the_same_value_twice_is_not_handed_on() -> None:
    graph = Sketch(x=BYTE)("a", "linear", "x")("y", "mul", "a", "a").ends("y")
    assert chains_of(graph) == ["a", "y"]


def test_two_kernels_with_multipliers_never_share_a_chain() -> None:
    attributes = {"num_heads": 2, "num_kv_heads": 2, "groups": 1, "scale": 0.25}
    sketch = Sketch(x=BYTE, k=BYTE, v=BYTE)("q", "linear", "x")("a", "attention", "q", "k", "v", **attributes)("y", "linear", "a")
    assert all(len(text.split()) == 1 for text in chains_of(sketch.ends("y")))


def test_a_chain_waits_for_its_other_operand() -> None:
    """y reads b, which is made after a: it goes on with b's chain, and a is stored."""
    graph = Sketch(x=BYTE)("a", "linear", "x")("b", "linear", "x")("y", "add", "a", "b").ends("y")
    assert chains_of(graph) == ["a", "b y"]
    # a's chain could go on with c, but d is made in a later chain.
    graph = Sketch(x=BYTE)("a", "linear", "x")("d", "linear", "x")("c", "add", "d", "a")("y", "requantize", "a").ends("c", "y")
    assert chains_of(graph) == ["a* y", "d c"]


def test_other_walks_are_not_chained() -> None:
    """Another type in memory, another zero point (linear reads bytes as they are), blocks of other rows."""
    shifted = TensorType(8, True, np.asarray(2.0**-5), 17)
    chained = Sketch(x=BYTE)("a", "requantize", "x")("y", "linear", "a").ends("y")
    assert chains_of(chained) == ["a y"]
    graph = Sketch(x=BYTE)("a", "requantize", "x", type_=shifted)("y", "linear", "a").ends("y")
    assert chains_of(graph) == ["a", "y"]
    assert_exact(graph, random_feeds(graph, 2), DESIGN)
    graph = Sketch(x=BYTE)("a", "requantize", "x", type_=shifted)("y", "add", "a", "x").ends("y")
    assert chains_of(graph) == ["a y"]
    assert_exact(graph, random_feeds(graph, 2), DESIGN)


def test_a_row_for_all_rows_is_no_chain() -> None:
    graph = Sketch(x=BYTE, z=BYTE)("m", "mean_rows", "x", groups=1)("y", "add", "z", "m").ends("y")
    assert chains_of(graph) == ["m", "y"]


@pytest.mark.parametrize("rows", [1, 5, 12])
def test_chains_do_not_depend_on_the_blocks(rows: int) -> None:
    graph = Sketch(x=BYTE)("a", "linear", "x")("g", "unary", "a", function="gelu")("b", "linear", "g")("y", "add", "b", "x").ends("y")
    program = build_program(graph, Design.of(8, 16, rows, 2), None)
    assert texts(program) == ["a g", "b y"] and len(program.instructions) == 2 * -(-12 // rows)


def test_an_order_that_would_go_round_ends_the_chain() -> None:
    """linear > requantize > add, then linear > add > requantize: the second chain ends before requantize."""
    sketch = Sketch(x=BYTE)("a", "linear", "x")("b", "requantize", "a")("c", "add", "b", "x")
    graph = sketch("d", "linear", "c")("e", "add", "d", "x")("y", "requantize", "e").ends("y")
    assert chains_of(graph) == ["a b c", "d e", "y"]
    program = build_program(graph, DESIGN, None)
    assert len(program.engines) == 1 and [slot.op for slot in program.engines[0].slots] == ["linear", "requantize", "add"]
    assert_exact(graph, random_feeds(graph, 3), DESIGN)


def test_a_kernel_takes_the_chain_through_one_port() -> None:
    """Whichever operand of the node that is: what is made last comes first."""
    graph = Sketch(x=BYTE)("a", "linear", "x")("b", "add", "a", "x")("c", "linear", "b")("y", "add", "x", "c").ends("y")
    assert chains_of(graph) == ["a b", "c y"]
    assert_exact(graph, random_feeds(graph, 2), DESIGN)


def test_an_order() -> None:
    graph = Sketch(x=WORD)("n", "layer_normalization", "x")("a", "linear", "n")("b", "requantize", "a")("y", "add", "b", "x").ends("y")
    links = build_program(graph, DESIGN, None).instructions[0].chain.links
    order = Order()
    assert order.allows(links) and not order.allows([*links, links[0]])
    order.add(links)
    assert order.slots() == [link.key for link in links] and order.allows(links[::2])
    assert not order.allows([Link(link.node, link.calls) for link in reversed(links)])


@pytest.mark.parametrize("seed", range(20))
def test_engines_of_random_graphs(seed: int) -> None:
    """Every node runs once per block; slots come in the order of every chain; an engine has a kernel once, and multipliers once."""
    graph = random_graph(seed)
    for design in (DESIGN, Design.of(8, 8, 5, 2)):
        program = build_program(graph, design, None)
        ran = [link.node.name for chain in {id(i.chain): i.chain for i in program.instructions}.values() for link in chain.links]
        assert sorted(ran) == sorted(node.name for node in graph.nodes)
        for engine in program.engines:
            keys = [slot.kernel.key for slot in engine.slots]
            alone = [pointer for stream in engine.streams if not stream.shared for pointer in stream.pointers]
            together = {pointer for stream in engine.streams if stream.shared for pointer in stream.pointers}
            assert len(set(keys)) == len(keys) and len(set(alone)) == len(alone) and not together & set(alone) and len(together) <= 2
            assert sum(operator(Node("", slot.op, [], "")).macs_per_cycle(slot.kernel) > 0 for slot in engine.slots) <= 1
        for one in program.instructions:
            slots = [one.engine.slots[number].kernel.key for number, _ in one.own]
            keys = [link.key for link in one.chain.links]
            # Of one whose operand is there before, the slots in front do not work for it.
            assert slots == (keys[len(keys) - len(slots) :] if one.ready else keys)
        heavy = [chain.heavy for chain in (i.chain for i in program.instructions) if chain.heavy]
        owners = {key: {i.engine.name for i in program.instructions if i.chain.heavy == key} for key in heavy}
        assert all(len(names) == 1 for names in owners.values())


def words(walk: Walk) -> Iterator[int]:
    """Every word that a walk touches."""
    for i0 in range(walk.counts[0]):
        for i1 in range(walk.counts[1]):
            for i2 in range(walk.counts[2]):
                vector = i0 * walk.strides[0] + i1 * walk.strides[1] + i2 * walk.strides[2]
                start = walk.offset + vector * walk.bytes
                yield from range(start, start + walk.counts[3] * walk.bytes)


def touched(one: Instruction, kind: str) -> set[int]:
    """Words that the streams of a kind touch."""
    return {word for stream in one.engine.streams if stream.kind == kind for word in words(one.walk(stream))}


@pytest.mark.parametrize("seed", range(20))
def test_what_is_read_was_written_and_is_still_there(seed: int) -> None:
    """Word for word: an instruction reads what nodes before it made, and writes over nothing that it reads."""
    graph = random_graph(seed)
    for design in (DESIGN, Design.of(8, 8, 5, 2)):
        program = build_program(graph, design, lambda packed: None)
        regions, handed = program.memory.values, set(graph.values) - set(program.memory.values)
        kept = {one.chain.links[0].kept for one in program.instructions}
        assert all((len(graph.consumers(name)) == 1 or name in kept) and name not in graph.outputs for name in handed) and handed
        owner = {}
        for name in (*graph.inputs, *graph.constants):
            owner.update(dict.fromkeys(range(regions[name].offset, regions[name].end), name))
        for one in program.instructions:
            reads = touched(one, "load")
            writes = touched(one, "store")
            assert not reads & writes
            assert {owner.get(word) for word in reads} <= one.chain.reads | (one.brings.chain.reads if one.brings else set())
            names = one.chain.stores() + (one.brings.chain.stores()[:-1] if one.brings else [])
            stored = {name: set(range(regions[name].offset, regions[name].end)) for name in names}
            assert writes <= set().union(*stored.values())
            for name, region in stored.items():
                owner.update(dict.fromkeys(writes & region, name))
        for name in graph.outputs:
            assert all(owner[word] == name for word in range(regions[name].offset, regions[name].end))


def test_instructions_say_which_slots_work() -> None:
    graph = Sketch(x=BYTE)("a", "linear", "x")("b", "requantize", "a")("c", "linear", "b")("y", "add", "c", "a").ends("y")
    program = build_program(graph, DESIGN, None)
    assert len(program.engines) == 1
    engine = program.engines[0]
    slots = [slot.op for slot in engine.slots]
    assert slots == ["linear", "requantize", "add"] and [slot.optional for slot in engine.slots] == [False, True, True]
    assert [slot.tap for slot in engine.slots] == [False, True, False]
    first, second = program.instructions
    vectors = 12 * 32 // 8
    assert first.control() == [(1, vectors, 0), (1, vectors, 1), (0, vectors, 0)]
    assert second.control() == [(1, vectors, 0), (0, vectors, 0), (1, vectors, 0)]
    for one in program.instructions:
        code = one.encode()
        assert len(code) == engine.instruction_ints <= program.instruction_ints and code[0] == engine.index
        assert [tuple(code[engine.places[f"control_{slot}"] :][:3]) for slot in range(len(slots))] == one.control()
        for number, call in enumerate(one.calls):
            idle = [
                stream
                for stream in engine.streams
                if stream.slot == number and (call is None or (stream.port is None and number not in one.tapped))
            ]
            assert all(one.walk(stream).vectors == 0 for stream in idle)
    # requantize rests in the second: the last scalars are those of add, the ones between are zeros.
    assert not any(second.encode()[engine.places["call_1"] : engine.places["call_2"]])


def test_vectors_change_on_the_way() -> None:
    """A product of other width: slots behind it pass as many vectors as it makes."""
    graph = layer_graph(rows=12)
    program = build_program(graph, Design.of(16, 16, 64, 2), None)
    for one in program.instructions:
        control = one.control()
        for number, call in enumerate(one.calls):
            if call is not None and number + 1 < len(one.calls):
                made = next(w.vectors for p, w in zip(call.kernel.ports, call.walks, strict=True) if p.kind == "store")
                assert control[number + 1].vectors == made


def test_cycles_of_a_chain() -> None:
    """What overlaps costs as much as the slowest; a kernel that needs all its operands first parts the chain in two, and what follows it
    begins behind its first result."""
    graph = Sketch(x=WORD)("n", "layer_normalization", "x")("a", "linear", "n")("b", "requantize", "a")("y", "add", "b", "x").ends("y")
    program = build_program(graph, DESIGN, None)
    board = BOARDS["u50"]  # no two interfaces share a port
    (cost,), (one,) = estimate(program, board, 250).calls, program.instructions
    n, a, b, y = (one.timed(number) for number, _ in one.active)
    assert n and a and b and y
    loaded, weights = cost.busy["port x_0"], cost.busy["port w_1"]
    assert loaded == 2 * 12 * 32 // 8 and cost.macs == 12 * 32 * 32
    parts = [
        max(loaded, *n.cycles.values()),
        max(*n.held.values(), n.timing.begins + max(a.cycles.values())),
        max(*a.held.values(), weights, a.timing.begins + max(*b.cycles.values(), *y.cycles.values(), cost.busy["port y_3"])),
    ]
    assert cost.cycles - cost.start == sum(parts) < sum(call.span for call in (n, a, b, y)) + loaded
    assert cost.node == "a" and cost.bound == "linear_accumulate"


GRAPHS = [(0, 64, 1), (1, 5, 1), (8, 4, 1), (11, 12, 1), (8, 4, 2), (11, 12, 2)]
"""Seed, rows on chip, words per beat."""


@pytest.mark.parametrize(("seed", "rows", "beat"), GRAPHS)
def test_code_of_random_graphs_is_exact(seed: int, rows: int, beat: int) -> None:
    graph = random_graph(seed)
    assert_exact(graph, random_feeds(graph, 3, seed), Design.of(8, 8, rows, 2, beat=beat))


def test_code_with_ap_types_is_exact() -> None:
    graph = random_graph(2, steps=6)
    assert_exact(graph, random_feeds(graph, 2), Design.of(8, 8, 5, 2), "ap")


def test_code_of_chains_compiles_without_warnings(tmp_path: Path) -> None:
    write_sources(build_program(random_graph(8), Design.of(8, 8, 5, 2), None), tmp_path, part="part", clock_mhz=200)
    assert not warnings_of_builds(tmp_path, "attnc_top.cpp", optimized=False)


BUGS = [
    ("copy.v[l] = OutT(vec.v[l]);", "copy.v[l] = OutT(vec.v[0]);"),
    ("if (control.tapped != 0) tap.write(vec);", "if (control.tapped != 0) tap.write(Vec<T, L>());"),
]


@pytest.mark.parametrize(("right", "wrong"), BUGS)
def test_a_bug_in_the_links_is_seen(right: str, wrong: str) -> None:
    graph = Sketch(x=BYTE)("a", "linear", "x")("b", "requantize", "a")("c", "linear", "b")("y", "add", "c", "a").ends("y")
    feeds = random_feeds(graph, 2)
    found = simulate(graph, feeds, DESIGN, patch={"chain.hpp": (right, wrong)})
    assert (found["y"] != run_golden(graph, feeds)["y"]).any()


def shared_operand(shared_type: TensorType = BYTE) -> Graph:
    """Three linear layers on a value that a requantize makes, as queries, keys and values are."""
    sketch = Sketch(x=WORD)("u", "requantize", "x", type_=shared_type)("q", "linear", "u")("k", "linear", "u")("v", "linear", "u")
    return sketch("s", "add", "k", "v", type_=WORD)("y", "add", "q", "s", type_=WORD).ends("y")


def test_an_operand_that_is_still_there_is_not_read_again() -> None:
    program = build_program(shared_operand(), DESIGN, None)
    assert texts(program) == ["u q", "k", "v s", "y"]
    assert [one.chain.links[0].kept for one in program.instructions] == [None, "u", "u", None]
    assert "u" not in program.memory.values  # nobody reads it from memory
    _, second, _, _ = program.instructions
    assert not any(second.walk(stream).vectors for stream in second.engine.streams if stream.kind == "load")
    cost = estimate(program, BOARDS["kv260"], 250)
    assert cost.calls[1].cycles < cost.calls[0].cycles and "port x_0" not in cost.calls[1].busy


def test_operands_of_two_blocks_are_kept_and_of_three_read_again() -> None:
    two, three = (build_program(shared_operand(), Design.of(8, 16, rows, 2), None) for rows in (8, 4))
    kept = [one for one in two.instructions if one.chain.links[0].kept == "u"]
    assert [one.side for one in kept] == [0, 1, 0, 1] and "u" not in two.memory.values
    assert all(one.chain.links[0].kept is None for one in three.instructions) and "u" in three.memory.values


def test_another_operand_in_between_is_not_kept() -> None:
    graph = Sketch(x=BYTE, z=BYTE)("a", "linear", "x")("b", "linear", "z")("c", "linear", "x")("d", "add", "a", "b")("y", "add", "c", "d")
    program = build_program(graph.ends("y"), DESIGN, None)
    assert all(one.chain.links[0].kept is None for one in program.instructions)


@pytest.mark.parametrize("rows_at_once", [1, 3])
@pytest.mark.parametrize("rows", [64, 8, 4])
def test_code_that_keeps_operands_is_exact(rows: int, rows_at_once: int) -> None:
    graph = shared_operand()
    assert_exact(graph, random_feeds(graph, 3), Design.of(8, 16, rows, 2, rows_at_once=rows_at_once))


def test_forgetting_an_operand_is_seen() -> None:
    graph = shared_operand()
    feeds = random_feeds(graph, 2)
    forgets = ("if (r == x_bank || x_bank == 0) x_buffer", "if (call.fill_rows == 0) x_buffer")
    found = simulate(graph, feeds, DESIGN, patch={"linear.hpp": forgets})
    assert (found["y"] != run_golden(graph, feeds)["y"]).any()
