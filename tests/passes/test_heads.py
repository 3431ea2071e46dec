"""Heads of any number of channels: padded to words, with the same meaning, and exact in C++."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.compiler import compile_model
from attnc.config import CompileOptions
from attnc.golden import run_reference
from attnc.ir import Graph, Node, TensorType
from attnc.ops import operator, verify
from attnc.passes.heads import pad_heads, padded
from attnc.report import load_report
from attnc.verify.csim import compare_build
from frontend.graphs import Builder

ROWS, WIDTH = 5, 12


class Attention:
    """A graph of an attention with heads of `size` and `value` channels, whose operands are made as a test says."""

    def __init__(self, heads: int, kv_heads: int, size: int, value: int) -> None:
        self.rng, self.graph = np.random.default_rng(0), Graph("g", ["x"])
        self.graph.add_value("x", (ROWS, WIDTH))
        self.channels = {"q": heads * size, "k": kv_heads * size, "v": kv_heads * value}
        self.attrs = {"num_heads": heads, "num_kv_heads": kv_heads, "groups": 1, "scale": 0.3}
        self.y = heads * value

    def linear(self, name: str, x: str, channels: int) -> str:
        self.graph.add_value(name, (ROWS, channels))
        params = {"weight": self.rng.normal(size=(channels, self.graph.value(x).shape[1])), "bias": self.rng.normal(size=channels)}
        self.graph.nodes.append(Node(name, "linear", [x], name, {}, params))
        return name

    def rotary(self, name: str, x: str, heads: int, turned: int) -> str:
        self.graph.add_value(name, self.graph.value(x).shape)
        angle = self.rng.normal(size=(ROWS, turned // 2))
        attrs = {"num_heads": heads, "rotary_dims": turned, "interleaved": True}
        self.graph.nodes.append(Node(name, "rotary", [x], name, attrs, {"cos": np.cos(angle), "sin": np.sin(angle)}))
        return name

    def norm(self, name: str, x: str, group: int, op: str = "layer_normalization") -> str:
        shape = self.graph.value(x).shape
        self.graph.add_value(name, shape)
        params = {"gamma": self.rng.normal(size=shape[1]), "beta": self.rng.normal(size=shape[1])}
        params = {key: params[key] for key in ("gamma", "beta")[: 2 if op == "layer_normalization" else 1]}
        self.graph.nodes.append(Node(name, op, [x], name, {"epsilon": 0.1, "group": group}, params))
        return name

    def attend(self, q: str, k: str, v: str) -> str:
        self.graph.add_value("o", (ROWS, self.y))
        self.graph.nodes.append(Node("o", "attention", [q, k, v], "o", dict(self.attrs)))
        return "o"

    def check(self, outputs: list[str]) -> Graph:
        """Pad; all outputs stay, and heads are what words divide."""
        graph = self.graph
        graph.outputs = outputs
        verify(graph)
        feeds = {name: self.rng.normal(size=(2, *graph.value(name).shape)) for name in graph.inputs}
        expected = run_reference(graph, feeds)
        assert pad_heads(graph) == 1
        verify(graph)
        assert list(graph.outputs) == outputs and pad_heads(graph) == 0
        for name, array in run_reference(graph, feeds).items():
            np.testing.assert_allclose(array, expected[name], atol=1e-12)
        (node,) = (node for node in graph.nodes if node.op == "attention")
        divisor = operator(node).lane_divisor(node, [graph.value(name).shape for name in node.inputs])
        assert divisor % 4 == 0 and node.attrs["scale"] == 0.3
        return graph


def test_padded_sizes() -> None:
    assert [padded(size) for size in range(1, 25)] == [8, 8, 8, 4, 8, 8, 8, 8, 16, 16, 16, 12, 16, 16, 16, 16, *[24] * 3, 20, *[24] * 4]


@pytest.mark.parametrize(("size", "value"), [(1, 1), (3, 3), (15, 15), (6, 10), (8, 5), (7, 16)])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (3, 3), (4, 2)])
def test_linear_layers_make_and_read_the_zeros(heads: int, kv_heads: int, size: int, value: int) -> None:
    a = Attention(heads, kv_heads, size, value)
    o = a.attend(*(a.linear(name, "x", channels) for name, channels in a.channels.items()))
    graph = a.check([a.linear("y", o, 6), a.linear("z", o, 3)])
    assert [node.name for node in graph.nodes] == ["q", "k", "v", "o", "y", "z"]


def test_what_makes_no_zeros_gets_a_layer_that_does() -> None:
    """Operands that come from the host, are constant, have other readers, or are an output themselves."""
    a = Attention(2, 2, 5, 5)
    a.graph.add_value("fed", (ROWS, 10))
    a.graph.inputs.append("fed")
    a.graph.add_value("c", (ROWS, 10))
    a.graph.constants["c"] = a.rng.normal(size=(ROWS, 10))
    o = a.attend("fed", "c", a.linear("v", "x", 10))
    graph = a.check([o, a.linear("y", o, 6), a.linear("also", "v", 4)])
    assert [node.name for node in graph.nodes] == ["v", "fed.padded", "v.padded", "o", "o.unpadded", "y", "also"]
    assert list(graph.constants) == ["c.padded"] and graph.value("o").shape == (ROWS, 10)


def test_keys_that_are_values_too_are_padded_once() -> None:
    a = Attention(2, 2, 5, 5)
    k = a.linear("k", "x", 10)
    graph = a.check([a.linear("y", a.attend(a.linear("q", "x", 10), k, k), 6)])
    assert [node.name for node in graph.nodes] == ["k", "q", "o", "y"]


@pytest.mark.parametrize("turned", [6, 4])
def test_rotary_embeddings_let_zeros_pass(turned: int) -> None:
    a = Attention(4, 2, 6, 6)
    q, k = (a.rotary(f"turned {name}", a.linear(name, "x", 6 * count), count, turned) for name, count in (("q", 4), ("k", 2)))
    graph = a.check([a.linear("y", a.attend(q, k, a.linear("v", "x", 12)), 5)])
    assert len(graph.nodes) == 7
    for node in graph.nodes:
        if node.op == "rotary":
            assert operator(node).lane_divisor(node, [graph.value(node.inputs[0]).shape]) == 8


@pytest.mark.parametrize("size", [3, 6, 9])
def test_norms_of_heads_let_zeros_pass(size: int) -> None:
    """Also before a rotary embedding."""
    a = Attention(4, 2, size, size)
    q = a.rotary("turned", a.norm("nq", a.linear("q", "x", 4 * size), size), 4, 2)
    k = a.norm("nk", a.linear("k", "x", 2 * size), size, "rms_normalization")
    graph = a.check([a.linear("y", a.attend(q, k, a.linear("v", "x", 2 * size)), 5)])
    assert [node.name for node in graph.nodes] == ["q", "nq", "turned", "k", "nk", "v", "o", "y"]
    assert [(node.attrs["group"], node.attrs["counted"]) for node in graph.nodes if "group" in node.attrs] == [(padded(size), size)] * 2


def test_groups_of_any_size_are_normalised() -> None:
    """Made by a linear layer and read by one; and between values that stay as they are."""
    a = Attention(1, 1, 3, 3)
    inner = a.norm("inner", a.linear("made", "x", 15), 5)
    alone = a.norm("alone", "x", 3, "rms_normalization")
    o = a.attend(a.linear("q", inner, 3), a.linear("k", alone, 3), a.linear("v", "x", 3))
    a.graph.outputs = [alone, a.linear("y", o, 4)]
    verify(a.graph)
    feeds = {"x": a.rng.normal(size=(2, ROWS, WIDTH))}
    expected = run_reference(a.graph, feeds)
    assert pad_heads(a.graph) == 3 and pad_heads(a.graph) == 0
    verify(a.graph)
    for name, array in run_reference(a.graph, feeds).items():
        np.testing.assert_allclose(array, expected[name], atol=1e-12)
    assert [node.name for node in a.graph.nodes if node.name.startswith(("x.", "alone"))] == ["x.padded", "alone", "alone.unpadded"]
    for node in a.graph.nodes:
        assert operator(node).lane_divisor(node, [a.graph.value(name).shape for name in node.inputs]) % 4 == 0


def test_weights_that_arrived_quantized_are_padded_too() -> None:
    a = Attention(2, 2, 3, 3)
    for name, channels in a.channels.items():
        node = a.graph.producer(a.linear(name, "x", channels))
        assert node is not None
        node.params |= imposed(a.rng, channels, WIDTH)
        a.graph.value(name).imposed = TensorType(8, True, np.asarray(0.1))
    y = a.graph.producer(a.linear("y", a.attend("q", "k", "v"), 4))
    assert y is not None
    y.params |= imposed(a.rng, 4, 6)
    graph = a.check(["y"])
    for node in graph.nodes:
        if node.op == "linear":
            p = node.params
            assert p["weight_q"].shape == p["weight"].shape and p["weight_multiplier"].shape == (len(p["bias"]), 1)
            assert p["weight_unit"].shape == p["bias"].shape and (p["weight_unit"] > 0).all()
            np.testing.assert_array_equal(p["weight_q"][np.abs(p["weight"]).max(axis=1) == 0], 0)


def imposed(rng: np.random.Generator, n: int, k: int) -> dict[str, Array]:
    q = rng.integers(-127, 128, (n, k)).astype(np.int8)
    unit = rng.uniform(0.01, 0.02, n)
    return {"weight_q": q, "weight_unit": unit, "weight_multiplier": np.ones((n, 1), np.int64), "weight": q * unit[:, None]}


def model(path: Path, combinations: list[tuple[int, int]], tokens: int = 6, channels: int = 15) -> Path:
    """The sum of attentions of (heads, channels of a head), each after and before a layer."""
    b, total = Builder(17), ""
    x = b.input("x", ["n", tokens, channels])
    for heads, size in combinations:
        shape = np.array([1, tokens, heads, size])
        q, k, v = (
            b("Transpose", b("Reshape", b.linear(x, channels, heads * size), shape), perm=perm)
            for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        )
        p = b("Softmax", b("Mul", b("MatMul", q, k), size**-0.5), axis=-1)
        merged = b("Reshape", b("Transpose", b("MatMul", p, v), perm=[0, 2, 1, 3]), np.array([1, tokens, heads * size]))
        y = b.linear(merged, heads * size, channels)
        total = str(b("Add", total, y)) if total else y
    np.savez(path.with_suffix(".npz"), x=np.random.default_rng(1).normal(size=(40, tokens, channels)).astype(np.float32))
    return b.save(path, total)


@pytest.mark.parametrize("kernel", ["two_pass", pytest.param("one_pass", marks=pytest.mark.slow)])
def test_cpp_equals_golden(tmp_path: Path, kernel: str) -> None:
    path, build = model(tmp_path / "m.onnx", [(3, 1), (2, 3), (1, 15)]), tmp_path / "build"
    options = CompileOptions(output=build, calib=path.with_suffix(".npz"), implementations={"attention": kernel})
    compile_model(path, options)
    found, report = compare_build(build), load_report(build)
    assert found.elements > 0 and found.mismatches == 0
    assert min(report["activation_bits"]["sqnr_db"].values()) > 30 and report["design"]["lanes"] == 8
