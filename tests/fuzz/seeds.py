"""Small models that compile in a fraction of a second, and everything else that a command reads: what mutants are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

ROWS, WIDTH, HEADS = 4, 8, 2
CONFIG = """\
weights: int8
group_size: 0
activations: static
activation_bits: auto
engine: auto
hold_out: 4
layers:
  - match: "*"
    quantizer: mse
  - match: "f*"
    weights: int6
"""
BOARD = """\
name: mine
part: xck26-sfvc784-2LV-c
lut: 117120
ff: 234240
dsp: 1248
bram36: 144
uram: 64
ddr_gb_s: 17.1
ddr_mib: 4096
axi_bits: 128
ports: [HP0, HP1, HP3]
clock_mhz: 250
utilisation: {lut: 0.7, ff: 0.5}
note: a board
"""
BOARD_TOML = BOARD.replace(": ", " = ").replace("utilisation = {lut = 0.7, ff = 0.5}", "utilisation = {lut = 0.7}")
for word in ("mine", "xck26-sfvc784-2LV-c", "a board", "HP0", "HP1", "HP3"):
    BOARD_TOML = BOARD_TOML.replace(word, f'"{word}"')


class Drawing:
    """Collects nodes and constants; a call adds a node and returns its output."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.rng = np.random.default_rng(0)

    def constant(self, array: Any) -> str:
        array = np.asarray(array)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        self.constants.append(numpy_helper.from_array(array, f"c{len(self.constants)}"))
        return self.constants[-1].name

    def weight(self, *shape: int) -> str:
        return self.constant(self.rng.normal(size=shape) / np.sqrt(shape[0]))

    def input(self, name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def __call__(self, op: str, *operands: Any, **attributes: Any) -> str:
        names = [operand if isinstance(operand, str) else self.constant(operand) for operand in operands]
        self.nodes.append(helper.make_node(op, names, [f"v{len(self.nodes)}"], name=f"n{len(self.nodes)}", **attributes))
        return str(self.nodes[-1].output[0])

    def linear(self, x: str, k: int, n: int) -> str:
        return self("Add", self("MatMul", x, self.weight(k, n)), self.weight(n))

    def norm(self, x: str) -> str:
        return self("LayerNormalization", x, self.weight(WIDTH), self.weight(WIDTH), axis=-1)

    def model(self, output: str, shape: list[Any]) -> onnx.ModelProto:
        made = [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)]
        graph = helper.make_graph(self.nodes, "seed", self.inputs, made, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def perceptron() -> onnx.ModelProto:
    """Two layers with a norm and an exported GELU between them."""
    d = Drawing()
    x = d.norm(d.linear(d.input("x", ["batch", ROWS, WIDTH]), WIDTH, WIDTH))
    gelu = d("Mul", d("Mul", x, d("Add", d("Erf", d("Div", x, 1.4142135)), 1.0)), 0.5)
    return d.model(d.linear(gelu, WIDTH, WIDTH), ["batch", ROWS, WIDTH])


def attention() -> onnx.ModelProto:
    """Self-attention with a mask, shapes computed on the way as torch's exporter has it."""
    d = Drawing()
    x, mask = d.input("x", ["batch", ROWS, WIDTH]), d.input("mask", ["batch", ROWS], TensorProto.INT64)
    length = d("Gather", d("Shape", x), np.array(1), axis=0)
    shape = d("Concat", np.array([-1]), d("Unsqueeze", length, np.array([0])), np.array([HEADS, WIDTH // HEADS]), axis=0)
    q, k, v = (d("Transpose", d("Reshape", d.linear(x, WIDTH, WIDTH), shape), perm=[0, 2, 1, 3]) for _ in range(3))
    kept = d("Unsqueeze", d("Cast", mask, to=TensorProto.FLOAT), np.array([1, 2]))
    bias = d("Mul", d("Sub", 1.0, kept), -1e9)
    scores = d("Softmax", d("Add", d("Div", d("MatMul", q, d("Transpose", k, perm=[0, 1, 3, 2])), 2.0), bias), axis=-1)
    mixed = d("Reshape", d("Transpose", d("MatMul", scores, v), perm=[0, 2, 1, 3]), np.array([0, 0, WIDTH]))
    return d.model(d("Add", x, d.linear(mixed, WIDTH, WIDTH)), ["batch", ROWS, WIDTH])


def tokens() -> onnx.ModelProto:
    """Embeddings of tokens and positions, a causal mask out of ranges, one head, logits."""
    d = Drawing()
    ids = d.input("ids", ["batch", ROWS], TensorProto.INT64)
    x = d("Add", d("Gather", d.weight(12, WIDTH), ids), d("Unsqueeze", d.weight(ROWS, WIDTH), np.array([0])))
    places = d("Range", np.array(0), np.array(ROWS), np.array(1))
    later = d("Greater", d("Unsqueeze", places, np.array([0])), d("Unsqueeze", places, np.array([1])))
    full = d("Expand", np.array([[-1e9]], np.float32), d("ConstantOfShape", np.array([2]), value=numpy_helper.from_array(np.array([ROWS]))))
    mask = d("Where", later, full, np.zeros((ROWS, ROWS), np.float32))
    q, k, v = (d.linear(x, WIDTH, WIDTH) for _ in range(3))
    scores = d("Softmax", d("Add", d("MatMul", q, d("Transpose", k, perm=[0, 2, 1])), mask), axis=-1)
    return d.model(d.linear(d.norm(d("MatMul", scores, v)), WIDTH, 12), ["batch", ROWS, 12])


def picture() -> onnx.ModelProto:
    """Patches of an image, a token in front, a mean over all tokens, classes."""
    d = Drawing()
    patches = d(
        "Conv", d.input("image", ["batch", 3, 4, 4]), d.weight(WIDTH, 3, 2, 2), d.weight(WIDTH), kernel_shape=[2, 2], strides=[2, 2]
    )
    rows = d("Transpose", d("Reshape", patches, np.array([0, WIDTH, -1])), perm=[0, 2, 1])
    token = d("Concat", d.weight(1, 1, WIDTH), rows, axis=1)
    hidden = d("Relu", d.linear(d.norm(token), WIDTH, 2 * WIDTH))
    pooled = d("ReduceMean", d("Tanh", d.linear(hidden, 2 * WIDTH, WIDTH)), np.array([1]), keepdims=0)
    return d.model(d("Gemm", pooled, d.weight(5, WIDTH), d.weight(5), transB=1), ["batch", 5])


def quantized() -> onnx.ModelProto:
    """A layer that arrives with its rounding, as onnxruntime's quantizer writes it."""
    d = Drawing()
    x = d.input("x", ["batch", ROWS, WIDTH])
    weights = d.constant(np.random.default_rng(1).integers(-127, 128, (WIDTH, WIDTH)).astype(np.int8))
    scale, zero = d.constant(np.array(0.03, np.float32)), d.constant(np.array(3, np.int8))
    rounded = d("DequantizeLinear", d("QuantizeLinear", x, scale, zero), scale, zero)
    steps, none = d.constant(np.full(WIDTH, 0.01, np.float32)), d.constant(np.zeros(WIDTH, np.int8))
    made = d("MatMul", rounded, d("DequantizeLinear", weights, steps, none, axis=1))
    wide = d.constant(np.array(0.1, np.float32))
    return d.model(d("DequantizeLinear", d("QuantizeLinear", d("Relu", made), wide, zero), wide, zero), ["batch", ROWS, WIDTH])


def _noise(shape: tuple[int, ...], count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def _all_kept(count: int) -> np.ndarray:
    return np.ones((count, ROWS), np.int64)


def _words(count: int) -> np.ndarray:
    return np.arange(count * ROWS).reshape(count, ROWS) % 12


@dataclass(frozen=True)
class Seed:
    """A model, and how to make `count` samples of each of its inputs."""

    name: str
    model: onnx.ModelProto
    inputs: dict[str, Callable[[int], np.ndarray]]

    def samples(self, count: int = 4) -> dict[str, np.ndarray]:
        return {name: make(count) for name, make in self.inputs.items()}


def all_seeds() -> list[Seed]:
    rows = partial(_noise, (ROWS, WIDTH))
    return [
        Seed("perceptron", perceptron(), {"x": rows}),
        Seed("attention", attention(), {"x": rows, "mask": _all_kept}),
        Seed("tokens", tokens(), {"ids": _words}),
        Seed("picture", picture(), {"image": partial(_noise, (3, 4, 4))}),
        Seed("quantized", quantized(), {"x": rows}),
    ]
