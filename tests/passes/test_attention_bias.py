"""Constant biases as channels: fitted, measured, chosen by cost, and the same in integers and in C++."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.compiler import compile_model
from attnc.config import CompileOptions
from attnc.errors import ConfigError
from attnc.golden import run_golden, run_reference
from attnc.ir import Graph, Node
from attnc.ops import operator, verify
from attnc.ops.attention_bias import BIAS_LIMIT, BIAS_UNIT, EXCLUDED_BELOW, bias_shift, bias_type
from attnc.ops.attention_sizes import UNLIMITED, Mask
from attnc.passes.attention_bias import ERROR_TARGET, RELATIVE, Fit, choose_biases, fit
from attnc.passes.masks import fold_masks
from attnc.passes.types import quantize_graph
from attnc.report_tables import as_text, render
from attnc.verify.csim import compare_build
from frontend.graphs import Builder
from harness import assert_exact, tensor_type

FREE, CAUSAL = Mask(), Mask(0, UNLIMITED, 0)


def distance(queries: int, keys: int | None = None) -> Array:
    keys = queries if keys is None else keys
    return np.arange(keys) - np.arange(queries)[:, None]


def slopes(heads: int) -> Array:
    return np.asarray(2.0 ** (-8 * np.arange(1, heads + 1) / heads))[:, None, None]


def fitted(bias: Array, mask: Mask = FREE, target: float = ERROR_TARGET) -> Fit | None:
    allowed = mask.allowed(*bias.shape[1:])
    return fit(np.asarray(bias, np.float64), mask, np.ones(bias.shape[1:], bool) if allowed is None else allowed, target)


def measured(found: Fit, bias: Array, mask: Mask = FREE) -> float:
    """Largest distance after the softmax-invariant part of every row is taken off, independent of how the pass measures it."""
    allowed = mask.allowed(*bias.shape[1:])
    allowed = np.ones(bias.shape[1:], bool) if allowed is None else allowed
    limit, worst = BIAS_LIMIT * BIAS_UNIT * (1 << found.bias_shift), 0.0
    for h, head in enumerate(bias):
        made = found.made(h)
        for i, keys in enumerate(allowed):
            inside = keys & (np.abs(made[i]) < limit)
            if inside.any():
                off = made[i][inside] - head[i][inside]
                worst = max(worst, float(off.max() - off.min()) / 2)
    return worst


@pytest.mark.parametrize("heads", [8, 12])
@pytest.mark.parametrize("size", [32, 128, 700])
@pytest.mark.parametrize("spelling", ["distance", "key"])
def test_alibi_is_two_channels_of_integers(heads: int, size: int, spelling: str) -> None:
    table = np.asarray(slopes(heads) * (distance(size) if spelling == "distance" else np.arange(size)), np.float32)
    table = np.broadcast_to(table, (heads, size, size))
    found = fitted(table, CAUSAL)
    assert found is not None and found.channels == 2
    shift = bias_shift(slopes(heads) * np.tril(distance(size)))
    half, largest = BIAS_UNIT * (1 << shift) / 2, min(0.5 * size, BIAS_LIMIT * BIAS_UNIT * (1 << shift))
    print(f"ALiBi, {heads} heads, {size} keys: off by {found.error:.2e}, a table rounds {half:.2e}")
    # One rounding of the unit and the multiplier's 17 bits: never more than that beside a table.
    assert found.bias_shift == shift and found.error <= half * 1.01 + RELATIVE * largest
    assert measured(found, table, CAUSAL) <= found.error * 1.01 and abs(found.keys).max() <= size


@pytest.mark.parametrize("mask", [FREE, Mask(0, 40, 0), Mask(3, UNLIMITED, 0), Mask(0, 5, 9)])
@pytest.mark.parametrize("sign", [1, -1])
def test_lines_under_other_masks(mask: Mask, sign: int) -> None:
    table = sign * slopes(4) * distance(60, 75) + np.random.default_rng(0).normal(size=(4, 60, 1))
    found = fitted(table, mask)
    assert found is not None and found.channels == 2
    # Keys are counted from the largest bias of a query, so none saturates above.
    allowed = np.ones((60, 75), bool) if mask is FREE else mask.allowed(60, 75)
    made = np.stack([found.made(h) for h in range(4)])
    assert (made[:, allowed] <= 0).all() and measured(found, table, mask) <= ERROR_TARGET


def test_other_biases_take_as_many_channels_as_they_need() -> None:
    rng, size = np.random.default_rng(0), 49
    x = np.stack(np.meshgrid(np.arange(7), np.arange(7))).reshape(2, -1) / 7
    quadratic = -3 * np.array([0.3, 1.0])[:, None, None] * np.square(x[:, :, None] - x[:, None]).sum(axis=0)
    found = fitted(quadratic)
    assert found is not None and found.channels == 4 and found.error <= ERROR_TARGET
    assert measured(found, quadratic) <= found.error
    assert fitted(rng.normal(0, 1, (2, size, 100))) is None or fitted(rng.normal(0, 1, (2, size, 100))).channels == 48  # type: ignore[union-attr]
    assert fitted(rng.normal(0, 1, (2, 100, 100))) is None
    loose = fitted(0.02 * rng.normal(0, 1, (2, 100, 100)), target=0.05)
    assert loose is not None and loose.channels < 64 and ERROR_TARGET < loose.error <= 0.05 * (1 + RELATIVE)


@pytest.mark.parametrize("low", [-1e4, -1e9, float(np.finfo(np.float32).min), -np.inf])
def test_masks_that_are_no_band_stay_tables(low: float) -> None:
    """Tokens that see their own half and the first: of rank 2, but no number that channels make leaves a key out."""
    half = np.arange(24) // 12
    keep = (half[:, None] == half) | (np.arange(24) == 0)
    assert fitted(np.where(keep, 0.0, low)[None]) is None


def test_excluded_keys_are_free() -> None:
    """A bias of rank 3 inside the mask, with anything outside."""
    rng, size = np.random.default_rng(0), 40
    low = rng.normal(size=(2, size, 3)) @ rng.normal(size=(2, 3, size))
    mask = Mask(0, UNLIMITED, 12)
    table = np.where(mask.allowed(size, size), low, 0.0)
    found, blind = fitted(table, mask, target=0.05), fitted(table, target=0.05)
    assert found is not None and (blind is None or found.channels < blind.channels)
    assert measured(found, table, mask) <= 0.06


# ---- the choice ----


def graph_with(bias: Array, nodes: int = 1, keys: int | None = None, head: int = 16) -> Graph:
    """Float attention nodes with types, that share a constant bias [BH, T, Tk]."""
    heads, queries, width = bias.shape[0], bias.shape[1], bias.shape[0] * head
    graph = Graph("g")
    graph.add_value("b", (heads * queries, bias.shape[2]))
    graph.constants["b"] = bias.reshape(heads * queries, -1)
    for n in range(nodes):
        for name, rows in (("q", queries), ("k", bias.shape[2]), ("v", bias.shape[2]), ("y", queries)):
            graph.add_value(f"{name}{n}", (rows, width))
        graph.inputs += [f"{name}{n}" for name in "qkv"]
        graph.outputs.append(f"y{n}")
        attrs = {"num_heads": heads, "num_kv_heads": heads, "groups": 1, "scale": 0.25, "bias_heads": heads, "bias_rows": queries}
        graph.nodes.append(Node(f"n{n}", "attention", [f"q{n}", f"k{n}", f"v{n}", "b"], f"y{n}", attrs))
    fold_masks(graph)
    verify(graph)
    for node in graph.nodes:
        operator(node).prepare(node, {i: graph.constants[name] for i, name in enumerate(node.inputs) if name in graph.constants})
        if len(node.inputs) > 3:
            graph.value(node.inputs[3]).type = bias_type(node.attrs["bias_shift"])
    for name, value in graph.values.items():
        value.type = value.type or tensor_type(16 if name[0] == "y" else 8, 1e-4 if name[0] == "y" else 0.02)
    return graph


def causal_alibi(size: int, heads: int = 4) -> Array:
    return np.asarray(np.where(np.tri(size, dtype=bool), slopes(heads) * distance(size), -np.inf))


def feeds(graph: Graph, samples: int = 3) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    return {name: rng.integers(-128, 128, (samples, *graph.value(name).shape)).astype(np.int8) for name in graph.inputs}


def test_auto_takes_channels_for_alibi_and_the_float_meaning_stays() -> None:
    graph, dense = (graph_with(causal_alibi(96), nodes=2) for _ in range(2))
    real = {name: 0.02 * array for name, array in feeds(graph).items()}
    before = run_reference(graph, real)
    choose_biases(graph)
    choose_biases(dense, "dense")
    verify(graph)
    assert all(node.attrs["bias_by"] == "channels" and len(node.inputs) == 3 for node in graph.nodes) and not graph.constants
    after = run_reference(graph, real)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, atol=1e-12)
    for one in (graph, dense):
        quantize_graph(one)
        assert all("bias" not in node.params for node in one.nodes)
    found, table = (run_golden(one, feeds(one)) for one in (graph, dense))
    errors = [np.abs(1e-4 * y["y0"] - before["y0"]).max() / (128 * 0.02) for y in (found, table)]
    print(f"attention with ALiBi, of the largest value: channels off by {errors[0]:.2e}, a table by {errors[1]:.2e}")
    assert errors[0] <= 1.5e-3 and errors[1] <= 1.5e-3
    assert_exact(graph, feeds(graph))


@pytest.mark.parametrize("bias", [np.random.default_rng(0).normal(size=(4, 49, 49)), -slopes(4) * np.abs(distance(49))])
def test_auto_keeps_tables_that_are_cheaper(bias: Array) -> None:
    graph = graph_with(bias)
    choose_biases(graph)
    node = graph.nodes[0]
    assert len(node.inputs) == 4 and not node.params and "bias_by" not in node.attrs
    report = node.attrs["bias_report"]
    assert report["by"] == "dense" and report["table_error"] == pytest.approx(BIAS_UNIT * (1 << node.attrs["bias_shift"]) / 2, rel=0.02)
    # Forty-eight channels would do for the first of them, at a higher cost.
    assert report["channels"] == 0 or report["cost"]["channels"] > report["cost"]["dense"]


def test_low_rank_tables_become_channels_where_asked_for() -> None:
    x = np.arange(30) / 30
    graph = graph_with(np.stack([3 * np.cos(2 * (x[:, None] - x)), np.exp(x[:, None] - x)]))
    choose_biases(graph, "channels")
    report = graph.nodes[0].attrs["bias_report"]
    assert report["by"] == "channels" and report["channels"] == 2 and report["error"] <= ERROR_TARGET
    quantize_graph(graph)
    assert_exact(graph, feeds(graph))


def test_wrong_wishes_are_refused() -> None:
    with pytest.raises(ConfigError, match="implementation of attention_bias: needed one of auto, dense, channels, found 'table'"):
        choose_biases(graph_with(causal_alibi(8)), "table")
    with pytest.raises(ConfigError, match=r"node 'n0': needed at most 64 channels within 0\.0027 of its table, found none"):
        choose_biases(graph_with(np.random.default_rng(0).normal(size=(2, 80, 80))), "channels")
    with pytest.raises(ConfigError, match="needed attention with a constant bias of a row per query, the model has none"):
        choose_biases(graph_with(np.where(np.tri(8, dtype=bool), 0.0, -np.inf)[None]), "channels")


def test_narrow_words_keep_tables() -> None:
    """A head of 6 channels leaves words of two bytes, and the scale of a head takes four."""
    graph = graph_with(causal_alibi(96), head=6)
    choose_biases(graph)
    assert graph.nodes[0].attrs["bias_report"]["by"] == "dense"
    with pytest.raises(ConfigError, match="needed heads of a multiple of 4 channels, found words of 2 bytes"):
        choose_biases(graph, "channels")


def test_a_bias_from_the_host_keeps_the_engine_of_tables() -> None:
    graph = graph_with(causal_alibi(96), nodes=2)
    graph.add_value("h", (1, 96))
    graph.inputs.append("h")
    graph.value("h").type = bias_type(3)
    graph.nodes[1].inputs[3] = "h"
    graph.nodes[1].attrs |= {"bias_heads": 1, "bias_rows": 1, "bias_shift": 3}
    choose_biases(graph)
    assert [node.attrs.get("bias_report", {}).get("by") for node in graph.nodes] == ["dense", None]
    choose_biases(graph, "channels")
    quantize_graph(graph)
    assert_exact(graph, feeds(graph) | {"h": np.zeros((3, 1, 96), np.int16)})


def test_whole_model(tmp_path: Path) -> None:
    """ALiBi and a causal mask in ONNX, compiled with either wish: equal C++, the choice in the report."""
    b, tokens, heads, width = Builder(), 20, 2, 16
    x = b.input("x", [1, tokens, width])
    q, k, v = (
        b("Transpose", b("Reshape", b.linear(x, width, width), np.array([1, tokens, heads, 8])), perm=[0, 2, 1, 3]) for _ in range(3)
    )
    scores = b("Mul", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), 8**-0.5)
    scores = b("Add", scores, np.maximum(causal_alibi(tokens, heads), 10 * EXCLUDED_BELOW))
    y = b("Reshape", b("Transpose", b("MatMul", b("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3]), np.array([1, tokens, width]))
    path = b.save(tmp_path / "m.onnx", b.linear(y, width, width))
    for wanted, passes in (("channels", "one_pass"), ("dense", "two_pass")):
        build, wishes = tmp_path / wanted, {"attention_bias": wanted, "attention": passes}
        compile_model(path, CompileOptions(output=build, check=False, implementations=wishes))
        facts: dict[str, Any] = json.loads((build / "report.json").read_text())
        (bias,) = [layer["bias"] for layer in facts["layers"] if layer["bias"]]
        top = (build / "hls" / "attnc_top.cpp").read_text()
        kernels = {name for name in ("attention_one_pass", "attention") if f'"attnc/{name}.hpp"' in top}
        assert bias["by"] == wanted and kernels == {"attention_one_pass" if passes == "one_pass" else "attention"}
        assert "attention bias" in as_text(render(facts)) and (bias["channels"] == 2) == (wanted == "channels")
        assert compare_build(build).mismatches == 0
    with pytest.raises(ConfigError, match="implementation of attention: needed one of auto, one_pass, two_pass, found 'three'"):
        compile_model(path, CompileOptions(output=tmp_path / "b", implementations={"attention": "three"}))
