"""Weights that lie in a file beside a model stay there."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attnc.frontend import import_model, load_float32
from attnc.frontend.load import load_model
from attnc.golden import run_reference
from attnc.original import Original
from attnc.tensors import array_of, embedded, is_mapped, tensor_of

INPUTS, OUTPUTS = 64, 512


def write(folder: Path, dtype: type[np.floating]) -> tuple[Path, np.ndarray]:
    """y = x W, with W in a file of its own, behind other bytes there."""
    weight = (np.random.default_rng(0).standard_normal((INPUTS, OUTPUTS)) / 8).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
    values = [helper.make_tensor_value_info(name, kind, (1, 8, size)) for name, size in (("x", INPUTS), ("y", OUTPUTS))]
    tensor = TensorProto(name="w", data_type=kind, dims=weight.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "w.bin"), ("offset", 12), ("length", weight.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [tensor])
    path = folder / "m.onnx"
    (folder / "w.bin").write_bytes(bytes(12) + weight.tobytes())
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path, weight


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_what_is_computed_is_what_the_file_says(tmp_path: Path, dtype: type[np.floating]) -> None:
    path, weight = write(tmp_path, dtype)
    model = load_float32(path)
    (tensor,) = model.graph.initializer
    assert is_mapped(tensor) and tensor.data_type == TensorProto.FLOAT and model.ByteSize() < weight.nbytes
    np.testing.assert_array_equal(array_of(tensor), weight.astype(np.float32))
    assert load_float32(path).graph.initializer[0] == tensor  # made once, however often it is read
    x = np.random.default_rng(1).standard_normal((1, 8, INPUTS)).astype(np.float32)
    expected = x[0].astype(np.float64) @ weight.astype(np.float64)
    original = Original(path)
    for _ in range(2):  # the second time from the file again
        original._kept.clear()
        np.testing.assert_allclose(original({"x": x.astype(dtype)} if dtype is np.float32 else {"x": x})["y"][0], expected, atol=1e-4)
        original.rest()
        assert original._model is None
    graph = import_model(path).graph
    assert not graph.nodes[0].params["weight"].flags.owndata and graph.nodes[0].params["weight"].dtype == np.float32
    (found,) = run_reference(graph, {graph.inputs[0]: x.astype(np.float64)}).values()
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_a_whole_mapped_array_goes_back_to_its_file_and_no_other(tmp_path: Path) -> None:
    path, weight = write(tmp_path, np.float32)
    (tensor,) = load_model(path).graph.initializer
    array = array_of(tensor)
    assert is_mapped(tensor_of(array, "same")) and is_mapped(tensor_of(np.asarray(array), "viewed"))
    for other in (array.T, array[1:], array + 0):
        kept = tensor_of(other, "other")
        assert not is_mapped(kept)
        np.testing.assert_array_equal(numpy_helper.to_array(kept), other)
    np.testing.assert_array_equal(numpy_helper.to_array(embedded(load_model(path)).graph.initializer[0]), weight)
