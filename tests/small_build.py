"""A small build folder, made by hand: one linear layer from input "x" [batch, 4, 6] to output "y" [batch, 4, 5]."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from attnc.arrays import Array
from attnc.codegen.project import Vectors, write_project
from attnc.golden import run_golden
from attnc.ir import Graph, Node
from attnc.kernels.design import Design
from attnc.model import Feed, Fetch, Model, TensorSpec
from attnc.schedule.devices import BOARDS
from harness import quantized, tensor_type

DIGITS = Path(__file__).resolve().parents[1] / "models" / "vit_digits"
"""The shipped model."""
ROWS, K, N = 4, 6, 5
WIDTH = 16
"""Of the model that `write_model` writes."""


def weights() -> tuple[Array, Array]:
    """Weight [N, K] and bias [N] in float."""
    rng = np.random.default_rng(7)
    return rng.normal(size=(N, K)), rng.normal(size=N)


def linear_graph() -> Graph:
    weight, bias = weights()
    graph = Graph("small", inputs=["x"], outputs=["y"])
    graph.add_value("x", (ROWS, K))
    graph.add_value("y", (ROWS, N))
    graph.nodes.append(Node("layer", "linear", ["x"], "y", params={"weight": weight, "bias": bias}))
    return quantized(graph, {"x": tensor_type(8, 0.03), "y": tensor_type(8, 0.08)})


def affine(name: str, out: str, factor: float, shape: tuple[int, ...]) -> onnx.ModelProto:
    """out = name * factor."""
    value = helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])
    graph = helper.make_graph(
        [helper.make_node("Mul", [name, "factor"], [out])],
        "affine",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, shape)],
        [value],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_small_build(folder: Path, host: bool = False, batched: bool = True, transposed: bool = False, samples: int = 3) -> Path:
    """Write it. `host` doubles x before the device and halves y after it; `transposed` feeds the device from "x" [batch, 6, 4]."""
    order = np.arange(ROWS * K, dtype=np.int64).reshape(K, ROWS).T if transposed else np.arange(ROWS * K, dtype=np.int64).reshape(ROWS, K)
    shape = (1, K, ROWS) if transposed else (1, ROWS, K)
    f32 = np.dtype(np.float32)
    model = Model(
        graph=linear_graph(),
        inputs=[TensorSpec("x", f32, shape, batched)],
        outputs=[TensorSpec("y", f32, (1, ROWS, N), batched)],
        feeds=[Feed("x", "x2" if host else "x", order)],
        fetches=[Fetch("half" if host else "y", "y", (1, ROWS, N), np.arange(ROWS * N, dtype=np.int64))],
        leading=affine("x", "x2", 2.0, shape) if host else None,
        trailing=affine("half", "y", 0.5, (1, ROWS, N)) if host else None,
    )
    rng = np.random.default_rng(0)
    vectors = {"x": rng.integers(-128, 128, (samples, ROWS, K)).astype(np.int8)}
    folder.mkdir(parents=True, exist_ok=True)
    source, expected = {"file": "small.onnx", "sha256": "0" * 64}, run_golden(model.graph, vectors)
    write_project(folder, model, Design.of(4, 4, 4), BOARDS["kv260"], 200.0, source, Vectors(vectors, expected))
    return folder


def random_inputs(samples: int, seed: int = 1) -> dict[str, Array]:
    """Inputs of the model, some of them outside the range of the device's type."""
    return {"x": np.random.default_rng(seed).normal(0, 1.5, (samples, ROWS, K)).astype(np.float32)}


def expected_outputs(x: Array) -> Array:
    """What the float layer gives for clipped inputs."""
    weight, bias = weights()
    return np.asarray(np.clip(x, -128 * 0.03, 127 * 0.03).astype(np.float64) @ weight.T + bias)


def deep_graph() -> Graph:
    """Two layers whose values meet in memory, in blocks of rows: a program of several steps."""
    rng = np.random.default_rng(3)
    graph = Graph("deep", inputs=["x"], outputs=["y"])
    types = {"x": tensor_type(8, 0.03), "h": tensor_type(8, 0.05), "y": tensor_type(8, 0.1)}
    shapes = {"x": (DEEP_ROWS, 16), "h": (DEEP_ROWS, 24), "y": (DEEP_ROWS, 16)}
    for name, shape in shapes.items():
        graph.add_value(name, shape)
    for name, (source, target) in {"first": ("x", "h"), "second": ("h", "y")}.items():
        weight = rng.normal(size=(shapes[target][1], shapes[source][1]))
        params = {"weight": weight, "bias": rng.normal(size=shapes[target][1])}
        graph.nodes.append(Node(name, "linear", [source], target, params=params))
    return quantized(graph, types)


DEEP_ROWS = 16


def write_deep_build(folder: Path, samples: int = 3) -> Path:
    """A build of `deep_graph`."""
    shape, f32, graph = (1, DEEP_ROWS, 16), np.dtype(np.float32), deep_graph()
    order = np.arange(DEEP_ROWS * 16, dtype=np.int64).reshape(DEEP_ROWS, 16)
    model = Model(
        graph=graph,
        inputs=[TensorSpec("x", f32, shape, True)],
        outputs=[TensorSpec("y", f32, shape, True)],
        feeds=[Feed("x", "x", order)],
        fetches=[Fetch("y", "y", shape, np.arange(DEEP_ROWS * 16, dtype=np.int64))],
        leading=None,
        trailing=None,
    )
    vectors = {"x": np.random.default_rng(0).integers(-128, 128, (samples, DEEP_ROWS, 16)).astype(np.int8)}
    folder.mkdir(parents=True, exist_ok=True)
    source = {"file": "deep.onnx", "sha256": "0" * 64}
    write_project(folder, model, Design.of(8, 8, 4), BOARDS["kv260"], 200.0, source, Vectors(vectors, run_golden(graph, vectors)))
    return folder


def write_model(path: Path, external: str | None = None) -> Path:
    """One linear layer; its weight in the file `external` beside the model where that is named."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32), "w")
    if external is not None:
        (path.parent / external).parent.mkdir(exist_ok=True)
        (path.parent / external).write_bytes(weight.raw_data)
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=external)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, WIDTH]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
