"""Run hand-built graphs through the real schedule, code generator and C++, and compare with golden."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.codegen.data import pack_region, unpack_outputs, write_run_data
from attnc.codegen.render import write_sources
from attnc.golden import run_golden
from attnc.ir import Graph, TensorType
from attnc.kernels.design import Design
from attnc.ops import operator, verify
from attnc.schedule.program import build_program
from attnc.verify.simulator import build_simulator
from precompiled import with_headers

Patch = Mapping[str, tuple[str, str]]


def slowly(*cases: tuple[Any, ...]) -> list[Any]:
    """Cases of a parametrized test for the slow tests alone."""
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


def tensor_type(bits: int, scale: float | Array = 1.0, signed: bool = True) -> TensorType:
    """A type with a scalar scale or one per channel."""
    return TensorType(bits, signed, np.asarray(scale, np.float64))


def quantized(graph: Graph, types: Mapping[str, TensorType]) -> Graph:
    """Give every value its type and quantize every node; `types` names all values that no operator dictates."""
    verify(graph)
    for name in graph.constants:
        graph.value(name).type = types[name]
        graph.constants[name] = types[name].quantize(graph.constants[name])
    for name in graph.inputs:
        graph.value(name).type = types[name]
    for node in graph.nodes:
        inputs = [graph.type(name) for name in node.inputs]
        output = operator(node).fixed_output_type(node, inputs) or types[node.output]
        graph.value(node.output).type = output
        operator(node).quantize(node, inputs, output)
    verify(graph)
    return graph


def random_feeds(graph: Graph, samples: int, seed: int = 0, corners: bool = True) -> dict[str, Array]:
    """Uniform integers over the whole type; with `corners` the first two samples are all-smallest and all-largest."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for name in graph.inputs:
        (low, high), shape = graph.type(name).range, graph.value(name).shape
        feed = rng.integers(low, high + 1, (samples, *shape))
        if corners:
            feed[0], feed[min(1, samples - 1)] = low, high
        feeds[name] = feed.astype(graph.type(name).dtype)
    return feeds


def simulate(
    graph: Graph,
    feeds: Mapping[str, Array],
    design: Design | None = None,
    types: str = "native",
    patch: Patch | None = None,
    flags: str = "-O0",
) -> dict[str, Array]:
    """Compile a quantized graph and run it in C++: integers in, integers out. `patch` edits kernel headers: {file: (old, new)}."""
    with tempfile.TemporaryDirectory(prefix="attnc-test-") as temporary:
        folder = Path(temporary)
        data = folder / "data"
        data.mkdir()
        with open(data / "weights.bin", "wb") as weights:
            program = build_program(graph, design or Design.of(), weights.write)
        write_sources(program, folder, part="part", clock_mhz=200)
        for name, (old, new) in (patch or {}).items():
            header = folder / "include" / "attnc" / name
            text = header.read_text()
            assert old in text, f"{old!r} is not in {name}"
            header.write_text(text.replace(old, new))
        write_run_data(graph, program, data)
        pack_region(graph, program, program.memory.inputs, graph.inputs, feeds).tofile(data / "inputs.bin")
        binary = build_simulator(folder, types, with_headers(flags, types))
        done = subprocess.run([binary, data, data / "inputs.bin", data / "outputs.bin"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        samples = next(iter(feeds.values())).shape[0]
        image = np.fromfile(data / "outputs.bin", np.uint8).reshape(samples, -1)
        return unpack_outputs(graph, program, image)


def assert_exact(graph: Graph, feeds: Mapping[str, Array], design: Design | None = None, types: str = "native") -> None:
    """C++ equals golden in every element."""
    expected, found = run_golden(graph, feeds), simulate(graph, feeds, design, types)
    for name in graph.outputs:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
