"""Small models in float, quantized by onnxruntime, or written in QONNX by hand."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

QONNX = "qonnx.custom_op.general"
K, HIDDEN, OUT = 16, 32, 12
T, D, HEADS = 6, 16, 2


class Reader(CalibrationDataReader):
    def __init__(self, shape: tuple[int, ...], samples: int = 8) -> None:
        rng = np.random.default_rng(1)
        self.samples = iter([{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(samples)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.samples, None)


def save(
    path: Path, nodes: list[onnx.NodeProto], shapes: tuple[list[Any], list[Any]], constants: dict[str, np.ndarray], opset: int = 17
) -> Path:
    """x and y of the shapes; QONNX is declared where it is used."""
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip("xy", shapes, strict=True)]
    graph = helper.make_graph(nodes, "model", values[:1], values[1:], [numpy_helper.from_array(a, n) for n, a in constants.items()])
    domains = sorted({node.domain for node in nodes if node.domain})
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def mlp(path: Path, opset: int = 17) -> Path:
    rng = np.random.default_rng(0)
    constants = {
        "w0": rng.normal(size=(K, HIDDEN)) / 4,
        "b0": rng.normal(size=HIDDEN),
        "w1": rng.normal(size=(OUT, HIDDEN)) / 5,
        "b1": rng.normal(size=OUT),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["m0"], name="fc0"),
        helper.make_node("Add", ["m0", "b0"], ["a0"], name="add0"),
        helper.make_node("Relu", ["a0"], ["r0"], name="relu"),
        helper.make_node("Gemm", ["r0", "w1", "b1"], ["y"], name="fc1", transB=1),
    ]
    return save(path, nodes, (["n", K], ["n", OUT]), {name: array.astype(np.float32) for name, array in constants.items()}, opset)


def attention_block(path: Path) -> Path:
    """Norm, attention of two heads, residual; GELU; classifier."""
    rng = np.random.default_rng(0)
    c: dict[str, np.ndarray] = {f"w{n}": rng.normal(size=(D, D)) / 4 for n in "qkvo"}
    c |= {
        "gamma": rng.normal(1, 0.1, D),
        "beta": rng.normal(0, 0.1, D),
        "scale": np.array((D // HEADS) ** -0.5),
        "wh": rng.normal(size=(D, 5)) / 4,
    }
    floats = {name: array.astype(np.float32) for name, array in c.items()}
    floats |= {"split": np.array([1, T, HEADS, D // HEADS]), "joined": np.array([1, T, D])}
    nodes = [helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["n"], name="norm", axis=-1)]
    for name, order in (("q", (0, 2, 1, 3)), ("k", (0, 2, 3, 1)), ("v", (0, 2, 1, 3))):
        nodes += [
            helper.make_node("MatMul", ["n", f"w{name}"], [f"{name}0"], name=f"fc_{name}"),
            helper.make_node("Reshape", [f"{name}0", "split"], [f"{name}1"], name=f"split_{name}"),
            helper.make_node("Transpose", [f"{name}1"], [name], name=f"heads_{name}", perm=order),
        ]
    nodes += [
        helper.make_node("MatMul", ["q", "k"], ["s0"], name="scores"),
        helper.make_node("Mul", ["s0", "scale"], ["s"], name="scaled"),
        helper.make_node("Softmax", ["s"], ["p"], name="softmax", axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["h"], name="weighted"),
        helper.make_node("Transpose", ["h"], ["h1"], name="back", perm=(0, 2, 1, 3)),
        helper.make_node("Reshape", ["h1", "joined"], ["h2"], name="join"),
        helper.make_node("MatMul", ["h2", "wo"], ["o"], name="fc_o"),
        helper.make_node("Add", ["x", "o"], ["r"], name="residual"),
        helper.make_node("Gelu", ["r"], ["g"], name="gelu"),
        helper.make_node("MatMul", ["g", "wh"], ["y"], name="head"),
    ]
    return save(path, nodes, ([1, T, D], [1, T, 5]), floats, 20)


def quantize(
    path: Path, output: Path, shape: tuple[int, ...], activations: QuantType, per_channel: bool, symmetric: bool = False,
    weights: QuantType = QuantType.QInt8,
) -> Path:  # fmt: skip
    """As onnxruntime's quantizer writes it."""
    logging.disable(logging.WARNING)
    try:
        quantize_static(
            path, output, Reader(shape), quant_format=QuantFormat.QDQ, activation_type=activations, weight_type=weights,
            per_channel=per_channel, extra_options={"ActivationSymmetric": symmetric},
        )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
    return output


class QonnxBuilder:
    """Nodes of a QONNX model."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, array: object) -> str:
        self.constants[name] = np.asarray(array, np.float32)
        return name

    def quant(
        self,
        x: str,
        y: str,
        scale: object,
        zero: object,
        bits: object,
        signed: int = 1,
        narrow: int = 0,
        mode: str = "ROUND",
        op: str = "Quant",
    ) -> None:
        operands = [x, self.constant(f"{y}.scale", scale), self.constant(f"{y}.zero", zero), self.constant(f"{y}.bits", bits)]
        self.nodes.append(
            helper.make_node(op, operands, [y], name=f"quant_{y}", domain=QONNX, signed=signed, narrow=narrow, rounding_mode=mode)
        )

    def node(self, op: str, inputs: list[str], output: str, **attrs: Any) -> None:
        domain = QONNX if op in ("BipolarQuant", "Trunc", "FloatQuant") else ""
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{op}_{output}", domain=domain, **attrs))


def qonnx_mlp(path: Path) -> Path:
    """int4 per channel, bipolar and 2-bit weights; activations of 8, unsigned 4 and asymmetric 6 bits."""
    rng = np.random.default_rng(0)
    b = QonnxBuilder()
    w0, w1, w2, w3 = (b.constant(f"w{i}", rng.normal(size=s) / 4) for i, s in enumerate(((16, 32), (32, 24), (24, 8), (8, 8))))
    b.quant("x", "xq", 0.0513, 0.0, 8)
    b.quant(w0, "w0q", np.abs(b.constants[w0]).max(0, keepdims=True) / 7, 0.0, 4, narrow=1)
    b.node("MatMul", ["xq", "w0q"], "m0")
    b.node("Relu", ["m0"], "r0")
    b.quant("r0", "r0q", 0.1971, 0.0, 4, signed=0)
    b.node("BipolarQuant", [w1, b.constant("bipolar", 0.1234)], "w1q")
    b.node("MatMul", ["r0q", "w1q"], "m1")
    b.quant("m1", "m1q", 0.1517, 3.0, 6)
    b.quant(w2, "w2q", 0.3, 0.0, 2, narrow=1)
    b.node("MatMul", ["m1q", "w2q"], "m2")
    b.quant("m2", "m2q", 0.1037, 0.0, 8)
    b.quant(w3, "w3q", 0.0011, 0.0, 8, mode="FLOOR")
    b.node("Trunc", ["w3q", *(b.constant(f"t{i}", v) for i, v in enumerate((0.0011, 0, 8, 5)))], "w3t", rounding_mode="FLOOR")
    b.node("MatMul", ["m2q", "w3t"], "m3")
    b.quant("m3", "y", 0.0021, 0.0, 8)
    return save(path, b.nodes, (["n", 16], ["n", 8]), b.constants)
