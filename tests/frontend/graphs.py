"""A few lines around onnx.helper: build small models by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

T, C = 5, 8


class Builder:
    """`b("Add", x, y)` appends a node and returns the name of its output; arrays become initializers."""

    def __init__(self, opset: int = 18, seed: int = 0) -> None:
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[TensorProto] = []
        self.rng = np.random.default_rng(seed)

    def input(self, name: str, shape: list[Any], elem_type: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, elem_type, shape))
        return name

    def constant(self, array: Any, keep: bool = False) -> str:
        array = np.asarray(array)
        array = array.astype(np.float32) if array.dtype == np.float64 and not keep else array
        self.initializers.append(numpy_helper.from_array(array, f"const_{len(self.initializers)}"))
        return self.initializers[-1].name

    def random(self, *shape: int) -> str:
        return self.constant(self.rng.standard_normal(shape) * 0.5)

    def __call__(self, op: str, *inputs: Any, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        outs = [f"t{len(self.nodes)}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(op, names, outs, name=name, **attributes))
        return outs[0] if outputs == 1 else outs

    def linear(self, x: str, k: int, n: int) -> str:
        return str(self("Add", self("MatMul", x, self.random(k, n)), self.random(n)))

    def model(self, *outputs: str, elem_types: tuple[int, ...] = ()) -> onnx.ModelProto:
        types = [*elem_types, *[TensorProto.FLOAT] * len(outputs)]
        made = [helper.make_tensor_value_info(name, elem_type, None) for name, elem_type in zip(outputs, types, strict=False)]
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in sorted({n.domain for n in self.nodes} - {""}))]
        graph = helper.make_graph(self.nodes, "graph", self.inputs, made, self.initializers)
        made_model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        return onnx.shape_inference.infer_shapes(made_model, data_prop=True)

    def save(self, path: Path, *outputs: str) -> Path:
        onnx.save(self.model(*outputs), str(path))
        return path
