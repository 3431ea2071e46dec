"""Samples from a file or made up, for models with and without an axis of 1 for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from attnc.errors import DataError
from attnc.model import TensorSpec
from attnc.quant.samples import FloatModel, count_samples, load_samples, one_sample, synthetic_samples

SHAPES = [(1, 4), (2, 4), (4,), (1,)]


def spec(shape: tuple[int, ...], dtype: str = "float32") -> TensorSpec:
    return TensorSpec("x", np.dtype(dtype), shape, False)


def load(path: Path, array: np.ndarray, *specs: TensorSpec) -> dict[str, np.ndarray]:
    np.savez(path / "x.npz", x=array)
    return load_samples(path / "x.npz", list(specs))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_made_up_samples_fit_the_model(shape: tuple[int, ...], dtype: str) -> None:
    specs = [spec(shape, dtype)]
    made = synthetic_samples(ModelProto(), specs, 0, samples=5)
    assert count_samples(made) == 5
    assert {one_sample(made, i)["x"].shape for i in range(5)} == {shape}


@pytest.mark.parametrize("shape", [*SHAPES, ()])
def test_samples_of_a_file(tmp_path: Path, shape: tuple[int, ...]) -> None:
    specs = [spec(shape)]
    stacked = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    found = load(tmp_path, stacked.reshape(3, *shape[1:]) if shape[:1] == (1,) else stacked, *specs)
    assert count_samples(found) == 3
    for i in range(3):
        np.testing.assert_array_equal(one_sample(found, i)["x"], stacked[i])
    found = load(tmp_path, stacked[0], *specs)
    assert count_samples(found) == 1
    np.testing.assert_array_equal(one_sample(found, 0)["x"], stacked[0])


@pytest.mark.parametrize(("shape", "given"), [((1, 4), (3, 2, 4)), ((2, 4), (3, 4)), ((2, 4), (0, 2, 4)), ((), (3, 1)), ((4,), (3, 5))])
def test_samples_of_another_shape(tmp_path: Path, shape: tuple[int, ...], given: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"x\.npz: input 'x': needed (shape|at least one sample)"):
        load(tmp_path, np.zeros(given), spec(shape))


def test_products_with_weights_in_blocks_are_in_float() -> None:
    """What a file means, not what onnxruntime makes of it by itself: it rounds the inputs of such products to 8 bits."""
    rng = np.random.default_rng(0)
    q, scale = rng.integers(-8, 8, (64, 32)), rng.uniform(0.5, 1, (2, 32)).astype(np.float32)
    weight = helper.make_tensor("q", TensorProto.INT4, q.shape, q.ravel().tolist())
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale"], ["w"], axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, size]) for name, size in (("x", 64), ("y", 32)))
    graph = helper.make_graph(nodes, "g", [x], [y], [weight, numpy_helper.from_array(scale, "scale")])
    model = FloatModel(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    given = rng.standard_normal((1, 4, 64)).astype(np.float32)
    np.testing.assert_allclose(model({"x": given})["y"], given @ (q * np.repeat(scale, 32, 0)), rtol=1e-4, atol=1e-4)
