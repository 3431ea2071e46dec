"""The gram of a value: X^T X over every sample, whatever the chunks."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.errors import DataError
from attnc.golden import run_golden, run_reference
from attnc.ir import Graph, Node, TensorType
from attnc.quant.gram import CHUNK_ROWS, GramObserver, linear_inputs
from attnc.quant.weights import quantize
from attnc.weights import WeightFormat
from harness import quantized, tensor_type


def two_layers() -> Graph:
    rng = np.random.default_rng(0)
    graph = Graph("two", inputs=["x"], outputs=["y", "z"])
    for name, width in (("x", 6), ("y", 4), ("z", 3)):
        graph.add_value(name, (5, width))
    graph.nodes = [
        Node("a", "linear", ["x"], "y", {}, {"weight": rng.normal(size=(4, 6)), "bias": rng.normal(size=4)}),
        Node("b", "linear", ["y"], "z", {}, {"weight": rng.normal(size=(3, 4)), "bias": np.zeros(3)}),
    ]
    return graph


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_chunks_do_not_matter(dtype: type, tolerance: float) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, CHUNK_ROWS, 8))
    observer = GramObserver(["x"], dtype=dtype)
    observer("x", x[:1])
    observer("x", x[1:])
    flat = x.reshape(-1, 8)
    np.testing.assert_allclose(observer.gram("x"), flat.T @ flat / len(flat), rtol=tolerance, atol=tolerance)
    assert observer.gram("x").dtype == np.float64


def test_only_what_was_asked_for_is_held() -> None:
    graph = two_layers()
    feeds = {"x": np.random.default_rng(2).normal(size=(7, 5, 6))}
    assert linear_inputs(graph) == ["x", "y"]
    observer, seen = GramObserver(["y"]), {}
    run_reference(graph, feeds, observer)
    run_reference(graph, feeds, seen.__setitem__)
    assert list(observer.grams()) == ["y"]
    flat = seen["y"].reshape(-1, 4)
    np.testing.assert_allclose(observer.grams()["y"], flat.T @ flat / len(flat))
    with pytest.raises(DataError, match="'x' was not seen"):
        observer.gram("x")


def test_it_sees_what_the_device_sees() -> None:
    graph = two_layers()
    types = {"x": tensor_type(8, 0.02), "y": tensor_type(8, np.array([0.05, 0.02, 0.1, 0.01])), "z": tensor_type(16, 1e-3)}
    x = np.random.default_rng(3).normal(size=(7, 5, 6))
    observer = GramObserver(["x"], types)
    observer("x", x)
    rounded = types["x"].dequantize(types["x"].quantize(x)).reshape(-1, 6)
    np.testing.assert_allclose(observer.gram("x"), rounded.T @ rounded / 35)
    integers, seen = GramObserver(["x", "y"], types), {}
    golden = quantized(graph, types)
    run_golden(golden, {"x": types["x"].quantize(x)}, integers)
    run_golden(golden, {"x": types["x"].quantize(x)}, seen.__setitem__)
    np.testing.assert_allclose(integers.gram("x"), observer.gram("x"))
    y = types["y"].dequantize(seen["y"]).reshape(-1, 4)
    np.testing.assert_allclose(integers.gram("y"), y.T @ y / 35)


def test_bad_values() -> None:
    observer = GramObserver(["x"])
    for bad in (np.nan, np.inf):
        with pytest.raises(DataError, match="'x' becomes NaN or infinite"):
            observer("x", np.full((1, 2, 3), bad))
    with np.errstate(over="ignore"), pytest.raises(DataError, match=r"'x'.*too large to square"):
        observer("x", np.full((1, 2, 3), 1e200))
    with pytest.raises(DataError, match="'x' comes as integers"):
        observer("x", np.ones((1, 2, 3), np.int8))
    with pytest.raises(ValueError, match="float32 or float64"):
        GramObserver(["x"], dtype=np.int32)


def test_an_input_that_is_always_zero_can_be_quantized_for() -> None:
    observer = GramObserver(["x"], {"x": TensorType(8, True, np.asarray(1.0))})
    observer("x", np.zeros((1, 4, 6)))
    weight = np.random.default_rng(4).normal(size=(5, 6))
    found = quantize("quantease", weight, WeightFormat.parse("int4"), observer.gram("x"), "layer")
    assert (found.q == quantize("mse", weight, WeightFormat.parse("int4"), None, "layer").q).all()
