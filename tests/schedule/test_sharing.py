"""Operands that share a loader: which ones, that they never wait for each other for good, and that C++ equals golden."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from attnc.codegen.render import write_sources
from attnc.ir import Graph, Node
from attnc.kernels.call import Walk
from attnc.kernels.design import Design
from attnc.kernels.storage import SHALLOW
from attnc.ops import operator
from attnc.resources import data_path
from attnc.schedule.cost import engine_resources, estimate
from attnc.schedule.devices import BOARDS
from attnc.schedule.program import build_program
from attnc.schedule.sharing import DEEPEST, Operand, Run, share
from attnc.schedule.work import OPERANDS
from harness import assert_exact, quantized, random_feeds, tensor_type


def tokens(rows: int = 64, width: int = 64) -> Graph:
    """What a layer does with tokens that have scales of their own: a product, the residual, a norm, a factor per channel."""
    rng, graph = np.random.default_rng(3), Graph("tokens", inputs=["x", "r"], outputs=["y", "peak"])
    for name in graph.inputs:
        graph.add_value(name, (rows, width))
    graph.add_value("f", (1, width))
    graph.constants["f"] = rng.normal(size=(1, width)) / 2

    def node(output: str, op: str, *inputs: str, **params: np.ndarray) -> None:
        made = Node(output, op, list(inputs), output, {"epsilon": 1e-5} if op == "layer_normalization" else {}, params)
        graph.add_value(output, operator(made).shape(made, [graph.value(name).shape for name in inputs]))
        graph.nodes.append(made)

    node("p", "row_absmax", "x")
    node("u", "normalize_rows", "x", "p")
    node("l", "linear", "u", weight=rng.normal(size=(width, width)) / 8, bias=np.zeros(width))
    node("s", "scale_rows", "l", "p", bias=rng.normal(size=width))
    node("a", "add", "s", "r")
    node("n", "layer_normalization", "a", gamma=rng.normal(size=width), beta=rng.normal(size=width))
    node("y", "mul", "n", "f")
    node("peak", "row_absmax", "y")
    types = {name: tensor_type(16, 2.0**-10) for name in graph.values}
    return quantized(graph, types | {"f": tensor_type(8, 2.0**-6)})


@pytest.mark.parametrize("beat", [1, 2])
def test_operands_of_few_words_share_a_loader(beat: int) -> None:
    program = build_program(tokens(), Design.of(4, 4, 64, 2, beat=beat), None)
    (engine,) = program.engines
    assert [slot.op for slot in engine.slots[:5]] == ["normalize_rows", "linear", "scale_rows", "add", "layer_normalization"]
    # Peaks first, then the factors that a FIFO holds whole, then what is read along the way.
    assert engine.shared == (("peak_0", SHALLOW), ("peak_2", SHALLOW), ("b_5", SHALLOW), ("w_2", SHALLOW), ("w_4", SHALLOW))
    shared = [stream for stream in engine.streams if stream.shared]
    assert {(s.kind, s.pointers, s.beat) for s in shared} == {("load", ("load_1",), beat), ("words", ("parameters_1",), beat)}
    assert program.bundles["parameters_1"] == program.bundles["load_1"] == "load_1"
    cost = estimate(program, BOARDS["kv260"], 250)
    main = next(call for call in cost.calls if call.node == "l")
    assert main.busy[OPERANDS] == sum(main.busy[f"port {stream.name}"] + 60 for stream in shared)
    assert engine_resources(engine, 4).lut > 0


@pytest.mark.parametrize(("beat", "types"), [(1, "native"), (2, "native"), (2, "ap")])
def test_code_that_shares_a_loader_is_exact(beat: int, types: str) -> None:
    """The second graph has padding in its last tile."""
    for graph in (tokens(), tokens(40, 59)) if types == "native" else (tokens(),):
        assert build_program(graph, Design.of(4, 4, 64, 2, beat=beat), None).engines[0].shared
        assert_exact(graph, random_feeds(graph, 2), Design.of(4, 4, 64, 2, beat=beat), types)


def test_blocks_of_few_rows_share_less() -> None:
    """Where a block has few rows, its parameters are no longer few words beside it."""
    (engine,) = build_program(tokens(), Design.of(4, 4, 8, 2), None).engines
    assert "w_4" not in dict(engine.shared)


def test_the_sources_of_deep_fifos(tmp_path: Path) -> None:
    write_sources(build_program(tokens(64, 256), Design.of(4, 4, 64, 2, beat=2), None), tmp_path, part="part", clock_mhz=200)
    code = (tmp_path / "attnc_top.cpp").read_text()
    assert "#pragma HLS STREAM variable = b_5 depth = 64\n#pragma HLS BIND_STORAGE variable = b_5 type = fifo impl = bram" in code
    assert code.count("type = fifo") == 1 and code.count("engine_0_operands(") == 2


WORDS = """
#include "attnc/memory.hpp"
int main() {
  attnc::Word<4> memory[16];
  for (int i = 0; i < 64; ++i) memory[i / 4].v[i % 4] = attnc::UInt<8>(i);
  for (int first = 0; first < 6; ++first)
    for (int count = 0; count < 10; ++count) {
      hls::stream<attnc::Word<4>> out;
      const attnc::Walk walk = {first, {1, 1, 1, count}, {0, 0, 0}, 1, 0, 1, count};
      hls::burst_maxi<attnc::Word<8>> beats(reinterpret_cast<attnc::Word<8>*>(memory));
      attnc::ask_run<4, 2>(beats, walk);
      attnc::take_run_words<4, 2>(beats, walk, out);
      for (int i = 0; i < count; ++i) {
        const attnc::Word<4> word = out.read();
        for (int l = 0; l < 4; ++l)
          if (word.v[l] != attnc::UInt<8>(4 * (first + i) + l)) return 1;
      }
      if (!out.empty()) return 2;
    }
  return 0;
}
"""


@pytest.mark.parametrize(
    ("right", "wrong"), [("", ""), ("first + count + 1) >> 1", "first + count) >> 1"), ("(walk.offset + i) & 1", "i & 1")]
)
def test_words_from_beats(right: str, wrong: str, tmp_path: Path) -> None:
    """Every first word and length, even and odd; a bug is seen."""
    kernels = data_path("hls_kernels")
    header = (kernels / "include" / "attnc" / "memory.hpp").read_text()
    assert right in header
    (tmp_path / "attnc").mkdir()
    (tmp_path / "attnc" / "memory.hpp").write_text(header.replace(right, wrong) if right else header)
    (tmp_path / "main.cpp").write_text(WORDS)
    flags = ["-std=c++14", "-DATTNC_NATIVE_TYPES", "-I", tmp_path, "-I", kernels / "include", "-I", kernels / "sim"]
    subprocess.run(["g++", *flags, "main.cpp", "-o", "main"], cwd=tmp_path, check=True)
    assert (subprocess.run([tmp_path / "main"], capture_output=True).returncode == 0) == (not right)


@dataclass(frozen=True)
class Kernel:
    """A kernel of a chain: `before` tokens of an operand that it takes first, `along` of another one per tile, read one tile ahead;
    `held` where it swallows all vectors before it gives any."""

    before: int
    along: int
    held: bool


Steps = Iterator[tuple[str, str]]
"""Of a process: ("get" or "put", FIFO)."""


def kernel_steps(kernel: Kernel, number: int, tiles: int, rows: int) -> Steps:
    yield from [("get", f"first_{number}")] * kernel.before
    if kernel.held:
        yield from [("get", f"chain_{number}")] * (tiles * rows)
    yield from [("get", f"along_{number}")] * kernel.along
    for tile in range(tiles):
        yield from [("get", f"along_{number}")] * (kernel.along if tile + 1 < tiles else 0)
        for _ in range(rows):
            yield from [] if kernel.held else [("get", f"chain_{number}")]
            yield "put", f"chain_{number + 1}"


TILES, ROWS = 16, 9


def finishes(chain: Sequence[Kernel], loader: Sequence[str], sizes: Mapping[str, int], depths: Mapping[str, int]) -> bool:
    """Whether all processes end with FIFOs of `depths`: `loader` serves its operands in order, all others have loaders of their own."""
    tiles, rows = TILES, ROWS
    loaders = [list(loader), *([name] for name in sizes if name not in loader)]
    runs: list[Steps] = [iter([("put", name) for name in names for _ in range(sizes[name])]) for names in loaders]
    runs.append(iter([("put", "chain_0")] * (tiles * rows)))
    runs += [kernel_steps(kernel, number, tiles, rows) for number, kernel in enumerate(chain)]
    runs.append(iter([("get", f"chain_{len(chain)}")] * (tiles * rows)))
    held: Counter[str] = Counter()
    waiting = [(run, next(run, None)) for run in runs]
    moved = True
    while moved:
        moved = False
        for index, (run, step) in enumerate(waiting):
            while step is not None and (held[step[1]] > 0 if step[0] == "get" else held[step[1]] < depths.get(step[1], SHALLOW)):
                held[step[1]] += 1 if step[0] == "put" else -1
                step, moved = next(run, None), True
            waiting[index] = (run, step)
    return all(step is None for _, step in waiting)


def operands(chain: Sequence[Kernel]) -> list[Operand]:
    """Those of a chain, as the program tells them, behind vectors that move more than they do."""
    found = [Operand("x", "load", False, True, False, {0: Run(Walk(0, (1, 1, 1, 1 << 20), (0, 0, 0)), 0, 0)})]
    parts = 0
    for number, kernel in enumerate(chain):
        after = parts + kernel.held
        for name, count, first in (("first", kernel.before, True), ("along", TILES * kernel.along, False)):
            if count:
                run = Run(Walk(0, (1, 1, 1, count), (0, 0, 0)), after, after)
                found.append(Operand(f"{name}_{number}", "words", first, False, False, {0: run}))
        parts = after
    return found


def random_chain(rng: np.random.Generator) -> list[Kernel]:
    return [
        Kernel(int(rng.choice([0, 0, 3, 50])), int(rng.choice([0, 1, 4, 8])), bool(rng.random() < 0.3)) for _ in range(rng.integers(2, 6))
    ]


def test_no_loader_waits_for_good() -> None:
    """Random chains with FIFOs of the depths that are emitted; with all operands in the order of the slots, many would hang."""
    rng = np.random.default_rng(0)
    hanging = shallow = served = 0
    for _ in range(150):
        chain = random_chain(rng)
        found = operands(chain)
        sizes = {operand.name: operand.words for operand in found if operand.name != "x"}
        shared = dict(share(found))
        assert finishes(chain, list(shared), sizes, shared), chain
        served += len(shared)
        hanging += not finishes(chain, list(sizes), sizes, {})
        shallow += not finishes(chain, list(shared), sizes, {})
    assert served > 300 and hanging > 30 and shallow > 30


def test_operands_that_no_fifo_holds_keep_their_loader() -> None:
    def along(name: str, count: int, part: int, counts: tuple[int, int, int] = (1, 1, 1)) -> Operand:
        return Operand(name, "words", False, False, False, {0: Run(Walk(0, (*counts, count), (0, 0, 1)), part, part)})

    x = Operand("x", "load", False, True, False, {0: Run(Walk(0, (1, 1, 1, 10_000), (0, 0, 0)), 0, 0)})
    big, small = DEEPEST + 1, DEEPEST
    assert share([x, along("a", big, 0), along("b", big, 1)]) == (("a", SHALLOW), ("b", SHALLOW))
    assert share([x, along("a", big, 0), along("b", big, 0), along("c", big, 1)]) == (("a", SHALLOW), ("c", SHALLOW))
    assert share([x, along("a", big, 0), along("b", small, 0)]) == (("b", small), ("a", SHALLOW))
    ahead = replace(along("a", big, 0), ahead=True)
    assert share([x, ahead, along("b", big, 1), along("c", 5, 1)]) == (("c", SHALLOW), ("b", SHALLOW))
    assert share([x, along("a", big, 0)]) == () == share([x, along("a", 5, 0), along("b", 1251, 0)])
    assert share([x, along("a", 5, 0), along("b", 5, 0, (1, 1, 2))]) == ()  # two stretches
