"""Operators on integers and weights in blocks: what they become, beside what onnxruntime computes, and the integers of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import quantized_models as models
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

from attnc.compiler import quantize_model
from attnc.config import CompileOptions
from attnc.errors import AttncError
from attnc.frontend import import_model
from attnc.frontend.blocks import unpack
from attnc.frontend.quantized import lower_quantization
from attnc.frontend.quantized_model import QuantizedConstant
from attnc.passes.rotary import pair_rotary

MS = "com.microsoft"
STEP = 0.05


def write(nodes: list[onnx.NodeProto], shape: list[int], constants: dict[str, np.ndarray], out: list[int] | None = None) -> onnx.ModelProto:
    """x of a shape to y of a shape, or of any."""
    graph = helper.make_graph(
        nodes, "model", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)], [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)], ir_version=10)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(model.SerializeToString()).run(["y"], {"x": x})[0]


def rewritten(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Any]:
    """The model in float, its pairs as division, rounding and saturation."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    found = lower_quantization(copy)
    assert found is not None
    assert not any(node.domain == MS or "Integer" in node.op_type for node in found.lowered.graph.node)
    return found.runnable(), found


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(4).integers(-127, 128, shape).astype(np.int8)


X, Y = ("xq", "xs", "xz"), ("ys", "yz")
PER_CHANNEL = {"ws": np.linspace(0.004, 0.02, 6).astype(np.float32), "wz": np.zeros(6, np.int8)}
QLINEAR: dict[str, tuple[str, list[str], list[int], dict[str, np.ndarray], dict[str, Any]]] = {
    "matmul": ("QLinearMatMul", [*X, "w", "ws", "wz", *Y], [5, 8], {"w": weight(8, 6)}, {}),
    "matmul per channel": ("QLinearMatMul", [*X, "w", "ws", "wz", *Y], [5, 8], {"w": weight(8, 6), **PER_CHANNEL}, {}),
    "gemm": ("QGemm", [*X, "w", "ws", "wz", "b", *Y], [5, 8], {"w": weight(6, 8), "b": weight(6).astype(np.int32) * 50}, {"transB": 1}),
    "gemm per channel": (
        "QGemm", [*X, "w", "ws", "wz", "b", *Y], [5, 8], {"w": weight(8, 6), "b": weight(6).astype("i4"), **PER_CHANNEL}, {"alpha": 1.0},
    ),
    "gemm to float": ("QGemm", [*X, "w", "ws", "wz"], [5, 8], {"w": weight(8, 6)}, {}),
    "conv": (
        "QLinearConv", [*X, "w", "ws", "wz", *Y, "b"], [1, 3, 7, 7], {"w": weight(6, 3, 3, 3), "b": weight(6).astype("i4"), **PER_CHANNEL},
        {"pads": [1] * 4},
    ),
    "conv channels last": ("QLinearConv", [*X, "w", "ws", "wz", *Y], [1, 7, 7, 4], {"w": weight(6, 4, 3, 3)}, {"channels_last": 1}),
    "add": ("QLinearAdd", [*X, "w", "ws", "wz", *Y], [5, 8], {"w": weight(8)}, {}),
    "mul": ("QLinearMul", [*X, "w", "ws", "wz", *Y], [5, 8], {"w": weight(5, 8)}, {}),
    "where": (
        "QLinearWhere", ["c", *X, "w", "ws", "wz", *Y], [5, 8], {"c": np.arange(8) % 3 == 0, "w": weight(1, 8), "wz": np.uint8(3)}, {},
    ),
    "softmax": ("QLinearSoftmax", [*X, *Y], [2, 5, 8], {"ys": np.float32(1 / 256), "yz": np.uint8(0)}, {"opset": 13, "axis": -1}),
    "softmax of old": ("QLinearSoftmax", [*X, *Y], [2, 5, 8], {"ys": np.float32(1 / 256), "yz": np.uint8(0)}, {"opset": 12, "axis": 1}),
    "sigmoid": ("QLinearSigmoid", [*X, *Y], [5, 8], {"ys": np.float32(1 / 256), "yz": np.uint8(0)}, {}),
    "leaky relu": ("QLinearLeakyRelu", [*X, *Y], [5, 8], {}, {"alpha": 0.2}),
    "global pool": ("QLinearGlobalAveragePool", [*X, *Y], [1, 3, 7, 7], {"ys": np.float32(0.01)}, {}),
    "average pool": ("QLinearAveragePool", [*X, *Y], [1, 3, 8, 8], {}, {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "concat": ("QLinearConcat", [*Y, *X, "w", "ws", "wz"], [5, 8], {"w": weight(2, 8).view(np.uint8), "wz": np.uint8(120)}, {"axis": 0}),
}  # fmt: skip


@pytest.mark.parametrize("name", QLINEAR)
def test_operators_on_integers_are_those_in_float_between_pairs(name: str) -> None:
    """At most a step of the result, where a sum lies on an edge between two."""
    op, inputs, shape, constants, attributes = QLINEAR[name]
    zeros = {"wz": np.int8(0)} if "QLinearAdd" != op != "QLinearMul" else {"wz": np.uint8(9)}
    known = {
        "xs": np.float32(0.03),
        "xz": np.uint8(120),
        "ws": np.float32(0.01),
        "ys": np.float32(STEP),
        "yz": np.uint8(110),
        **zeros,
        **constants,
    }
    if op in ("QLinearAdd", "QLinearMul", "QLinearWhere"):
        known["w"] = known["w"].view(np.uint8)  # both operands have one type
    domain = "" if op in ("QLinearMatMul", "QLinearConv") and "channels_last" not in attributes else MS
    rounded = "ys" in inputs
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"], name="quantize"),
        helper.make_node(op, inputs, ["yq" if rounded else "y"], name="operator", domain=domain, **attributes),
        *([helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"], name="dequantize")] if rounded else []),
    ]
    model = write(nodes, shape, {n: np.asarray(a) for n, a in known.items() if n in {*inputs, "xs", "xz"}})
    twin, found = rewritten(model)
    x = numbers(*shape)
    expected, got = run(model, x), run(twin, x)
    step = float(known["ys"]) if rounded else 1e-5
    assert expected.shape == got.shape and np.ptp(expected) > 3 * step
    differences = np.abs(expected - got) / step
    assert differences.max() < 1.01 and (differences > 0.5).mean() < 0.1
    assert found.dialects == ["QOperator"]


def dynamic(op: str) -> tuple[onnx.ModelProto, list[int]]:
    """x times a constant of 8 bits in one of the ways to write it."""
    constants: dict[str, Any] = {"w": weight(8, 6), "ws": np.float32(0.01), "wz": np.int8(3), "b": numbers(6)}
    quantized = helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"], name="dynamic")
    if op == "DynamicQuantizeMatMul":
        nodes = [helper.make_node(op, ["x", "w", "ws", "wz", "b"], ["y"], name="product", domain=MS)]
    elif op == "MatMulIntegerToFloat":
        nodes = [quantized, helper.make_node(op, ["xq", "w", "xs", "ws", "xz", "wz", "b"], ["y"], name="product", domain=MS)]
    else:
        convolution = op == "ConvInteger"
        constants |= {"w": weight(6, 3, 3, 3), "wz": np.int8(0)} if convolution else {}
        scaled = helper.make_node("Mul", ["xs", "ws"], ["scale"], name="scales")
        nodes = [quantized, helper.make_node(op, ["xq", "w", "xz", "wz"], ["i"], name="product"), scaled]
        nodes += [helper.make_node("Cast", ["i"], ["f"], name="cast", to=1), helper.make_node("Mul", ["f", "scale"], ["y"], name="real")]
    shape = [1, 3, 7, 7] if op == "ConvInteger" else [5, 8]
    used = {name for node in nodes for name in node.input}
    return write(nodes, shape, {name: np.asarray(array) for name, array in constants.items() if name in used}), shape


@pytest.mark.parametrize("op", ["MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"])
def test_dynamic_products_read_the_data_itself(op: str) -> None:
    model, shape = dynamic(op)
    twin, found = rewritten(model)
    x = numbers(*shape)
    expected, got = run(model, x), run(twin, x)
    assert np.abs(expected - got).max() < 0.01 * np.abs(expected).max()
    assert found.dynamic == {"product"} and found.dialects == ["dynamic int8"]
    constant = next(iter(found.constants.values()))
    np.testing.assert_array_equal(
        constant.q, numpy_helper.to_array(model.graph.initializer[0]).astype(int) - (0 if op == "ConvInteger" else 3)
    )


def nbits(bits: int, zero: str, n: int = 6, k: int = 40, block: int = 16) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """x [5, k] times a weight in blocks, its integers without their zero points, and its scales."""
    rng = np.random.default_rng(bits)
    count = -(-k // block)
    q, z = rng.integers(0, 1 << bits, (n, count * block)), np.full((n, count), 1 << (bits - 1))
    scale = (rng.uniform(0.01, 0.1, (n, count)) * np.where(rng.random((n, count)) < 0.3, -1, 1)).astype(np.float32)
    constants = {"s": scale.ravel() if zero == "flat" else scale, "b": numbers(n)}
    if zero == "packed":
        z = rng.integers(0, 1 << bits, (n, count))
        constants["z"] = pack(z, bits)
    elif zero == "float":
        z = rng.integers(0, 1 << bits, (n, count))
        constants["z"] = z.astype(np.float32)
    blocks = pack(q.reshape(n, count, block), bits)
    names = ["x", "w", "s", "z" if "z" in constants else "", "", "b"]
    node = helper.make_node("MatMulNBits", names, ["y"], name="fc", domain=MS, N=n, K=k, bits=bits, block_size=block)
    used = {name: array for name, array in {"w": blocks, **constants}.items() if name in names}
    return write([node], [5, k], used, [5, n]), q[:, :k] - np.repeat(z, block, 1)[:, :k], np.repeat(scale, block, 1)[:, :k]


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Numbers along the last axis, low bits first."""
    flat = (codes[..., None] >> np.arange(bits) & 1).astype(np.uint8).reshape(*codes.shape[:-1], -1)
    return np.packbits(flat, axis=-1, bitorder="little")


@pytest.mark.parametrize(
    ("bits", "zero"), [(4, "none"), (4, "packed"), (4, "float"), (8, "none"), (2, "packed"), (4, "flat"), (3, "packed")]
)
def test_weights_in_blocks_keep_integers_and_scales(tmp_path: Path, bits: int, zero: str) -> None:
    model, q, scale = nbits(bits, zero)
    twin, _ = rewritten(model)
    x = numbers(5, 40)
    real = x @ (q * scale).astype(np.float32).T + numbers(6)
    np.testing.assert_allclose(run(twin, x), real, atol=1e-4)
    if bits != 3:  # onnxruntime has no kernel for it
        np.testing.assert_allclose(run(model, x), real, atol=1e-3 * np.abs(real).max())
    onnx.save(model, tmp_path / "m.onnx")
    (node,) = import_model(tmp_path / "m.onnx").graph.nodes
    assert node.attrs["group_size"] == 16 and "weight_q" in node.params
    unit = node.params["weight_unit"][:, None] * np.repeat(node.params["weight_multiplier"], 16, 1)[:, :40]
    assert (np.abs(unit - np.abs(scale)) / np.abs(scale).max(axis=1, keepdims=True)).max() <= 2**-8
    if bits < 8:
        np.testing.assert_array_equal(node.params["weight_q"], q * np.sign(scale))


def test_rows_of_a_table_in_blocks() -> None:
    rng = np.random.default_rng(0)
    table, scale, zero = rng.integers(0, 16, (10, 32)), rng.uniform(0.1, 1, (10, 2)).astype(np.float32), rng.integers(0, 16, (10, 2))
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], name="cast", to=TensorProto.INT64),
        helper.make_node(
            "GatherBlockQuantized", ["t", "i", "s", "z"], ["y"], name="embed", domain=MS, bits=4, block_size=16, quantize_axis=1
        ),
    ]
    model = write(nodes, [3], {"t": pack(table, 4), "s": scale, "z": pack(zero, 4)})
    x = np.array([2, 9, 0], np.float32)
    expected = ((table - np.repeat(zero, 16, 1)) * np.repeat(scale, 16, 1))[[2, 9, 0]]
    np.testing.assert_allclose(run(model, x), expected, rtol=1e-5)
    np.testing.assert_allclose(run(rewritten(model)[0], x), expected, rtol=1e-5)


@pytest.mark.parametrize(("change", "message"), [
    ({"weight_prepacked": 1}, "packed for one kind of GPU"), ({"bits": 9}, "2 to 8 bits"),
    ({"N": 5}, r"weight has shape .*needed \[5, 3, 8\]"),
])  # fmt: skip
def test_blocks_that_cannot_be_read(change: dict[str, int], message: str) -> None:
    model, _, _ = nbits(4, "none")
    for attribute in model.graph.node[0].attribute:
        attribute.i = change.get(attribute.name, attribute.i)
    if "weight_prepacked" in change:
        model.graph.node[0].attribute.append(helper.make_attribute("weight_prepacked", 1))
    with pytest.raises(AttncError, match=rf"'fc' \(MatMulNBits\).*{message}"):
        lower_quantization(model)


def test_codes_are_unpacked_low_bits_first() -> None:
    for bits in range(2, 9):
        codes = np.random.default_rng(bits).integers(0, 1 << bits, (3, 16))
        np.testing.assert_array_equal(unpack(pack(codes, bits), bits, 16), codes)


def test_signs_and_zeros_of_scales_go_into_the_integers() -> None:
    q = np.arange(-3, 3).reshape(2, 3)
    constant = QuantizedConstant.make("w", "dq", q, np.array([0.5, -0.25, 0.0]), 1, 8)
    np.testing.assert_allclose(constant.dequantize(), q * [0.5, -0.25, 0])
    np.testing.assert_array_equal(constant.q[:, 1], -q[:, 1])
    assert (constant.scale > 0).all() and not constant.q[:, 2].any()


# ---- whole blocks ----


def calibration(path: Path, *shape: int) -> Path:
    np.savez(path, x=np.random.default_rng(7).normal(size=(12, *shape)).astype(np.float32))
    return path


def sqnr(path: Path, folder: Path, **options: Any) -> tuple[Any, float]:
    """The quantized graph, and golden against onnxruntime running the file."""
    calib = calibration(folder / "calib.npz", models.T, models.D)
    state = quantize_model(path, CompileOptions(output=folder / "build", calib=calib, **options))
    return state, min(state.output_sqnr.values())


def test_operators_and_dynamic_activations_of_a_block(tmp_path: Path) -> None:
    """QLinear operators round as the file says; dynamic ones become a scale per token, if nothing else is asked for."""
    source = models.attention_block(tmp_path / "f.onnx")
    reader = models.Reader((1, models.T, models.D))
    quantize_static(source, tmp_path / "o.onnx", reader, quant_format=QuantFormat.QOperator, activation_type=QuantType.QUInt8)
    state, db = sqnr(tmp_path / "o.onnx", tmp_path)
    assert db > 25 and state.model.quantized.dialects == ["QOperator"]
    quantize_dynamic(tmp_path / "f.onnx", tmp_path / "d.onnx")
    state, db = sqnr(tmp_path / "d.onnx", tmp_path)
    linears = [node for node in state.graph.nodes if node.op == "linear"]
    assert db > 30 and all(node.attrs["quantizer"] == "imported" for node in linears)
    assert sum(node.op == "row_absmax" for node in state.graph.nodes) == 3
    state, _ = sqnr(tmp_path / "d.onnx", tmp_path, activations="static")
    assert not any(node.op == "row_absmax" for node in state.graph.nodes)


def gelu(path: Path) -> Path:
    """GPT-2's: x/2 * (1 + tanh(c * (x + d * x**3))), behind a linear layer and before one."""
    constants = {"w": numbers(16, 24) / 4, "v": numbers(24, 8) / 5, "half": np.float32(0.5), "one": np.float32(1), "three": np.float32(3)}
    constants |= {"c": np.float32(np.sqrt(2 / np.pi)), "d": np.float32(0.044715)}
    steps = [("MatMul", "x w h"), ("Mul", "h half a"), ("Pow", "h three p"), ("Mul", "p d pd"), ("Add", "h pd s"), ("Mul", "s c sc"),
             ("Tanh", "sc t"), ("Add", "t one t1"), ("Mul", "a t1 g"), ("MatMul", "g v y")]  # fmt: skip
    nodes = [helper.make_node(op, names.split()[:2] if op != "Tanh" else ["sc"], names.split()[-1:], name=f"n_{names[-2:].strip()}")
             for op, names in steps]  # fmt: skip
    return models.save(path, nodes, ([1, models.T, 16], [1, models.T, 8]), {n: np.asarray(a) for n, a in constants.items()})


@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt16])
def test_a_function_between_pairs_is_one_function(tmp_path: Path, kind: QuantType) -> None:
    path = models.quantize(gelu(tmp_path / "f.onnx"), tmp_path / "q.onnx", (1, models.T, 16), kind, False)
    model = import_model(path)
    assert [node.op for node in model.graph.nodes if node.op != "requantize"] == ["linear", "unary", "linear"]
    assert next(node for node in model.graph.nodes if node.op == "unary").attrs["function"] == "gelu_tanh"
    assert {"h_QuantizeLinear", "g_QuantizeLinear"}.isdisjoint(model.quantized.passed) and len(model.quantized.passed) == 7
    assert bool(model.quantized.centred) == (kind == QuantType.QUInt16)


def masked_block(folder: Path, least: float) -> onnx.ModelProto:
    """An attention block whose last keys get `least` added to their scores."""
    source = onnx.load(models.attention_block(folder / "f.onnx"))
    least = np.where(np.arange(models.T) < 4, 0, least).astype(np.float32)
    source.graph.initializer.append(numpy_helper.from_array(least, "mask"))
    index = next(i for i, node in enumerate(source.graph.node) if node.op_type == "Softmax")
    source.graph.node[index].input[0] = "masked"
    source.graph.node.insert(index, helper.make_node("Add", ["s", "mask"], ["masked"], name="mask_scores"))
    return source


def test_scores_whose_steps_are_those_of_a_mask_are_lost(tmp_path: Path) -> None:
    """A file that was calibrated with its mask inside computes a mean over the keys that are left: so does the device, and says so."""
    onnx.save(masked_block(tmp_path, np.finfo(np.float32).min), tmp_path / "f.onnx")
    path = models.quantize(tmp_path / "f.onnx", tmp_path / "q.onnx", (1, models.T, models.D), QuantType.QInt8, True)
    state, db = sqnr(path, tmp_path)
    assert db > 25 and len(state.model.quantized.lost) == 1
    assert any("scores" in doubt and "masked_QuantizeLinear" in doubt for doubt in state.doubts)


@pytest.mark.parametrize(("times", "lost"), [(1, 1), (60, 0)])
def test_scores_are_lost_where_all_of_them_round_to_nothing(tmp_path: Path, times: float, lost: int) -> None:
    """Large ones are still told from each other in steps of 40: the device computes them without these steps."""
    source = masked_block(tmp_path, -1e4)
    query = next(tensor for tensor in source.graph.initializer if tensor.name == "wq")
    query.CopyFrom(numpy_helper.from_array(times * numpy_helper.to_array(query), "wq"))
    onnx.save(source, tmp_path / "f.onnx")
    path = models.quantize(tmp_path / "f.onnx", tmp_path / "q.onnx", (1, models.T, models.D), QuantType.QInt8, True)
    state, _ = sqnr(path, tmp_path)
    assert len(state.model.quantized.lost) == lost and bool(lost) == ("masked_QuantizeLinear" not in state.model.quantized.passed)


def test_an_input_is_rounded_before_it_is_subtracted(tmp_path: Path) -> None:
    """Of an input beyond the range of its type the file subtracts the end of that range."""
    grid = {"s": np.float32(STEP), "z": np.int8(0), "w": numbers(8, 8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]), helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("MatMul", ["xd", "w"], ["p"]), helper.make_node("Sub", ["p", "xd"], ["y"]),
    ]  # fmt: skip
    onnx.save(write(nodes, [1, 4, 8], grid, [1, 4, 8]), tmp_path / "m.onnx")
    np.savez(tmp_path / "calib.npz", x=8 * numbers(8, 4, 8))  # the type ends at 6.35
    quantize_model(tmp_path / "m.onnx", CompileOptions(output=tmp_path / "build", calib=tmp_path / "calib.npz"))


def test_an_imported_weight_is_permuted_with_its_integers() -> None:
    """Rows that change places for a rotation take integers, units and multipliers along."""
    from attnc.ir import Graph, Node

    graph, rng = Graph("g"), np.random.default_rng(0)
    for name in ("x", "q", "k", "v", "qr", "kr", "y"):
        graph.add_value(name, (6, 16))
    graph.inputs, graph.outputs = ["x", "v"], ["y"]
    for name in "qk":
        q, unit = rng.integers(-7, 8, (16, 16)).astype(np.int8), rng.uniform(1, 2, 16)
        params = {
            "weight": q * unit[:, None],
            "bias": np.zeros(16),
            "weight_q": q,
            "weight_unit": unit,
            "weight_multiplier": np.ones((16, 1), np.int64),
        }
        graph.nodes.append(Node(name, "linear", ["x"], name, {"weights": "int4", "group_size": 0}, params))
        turn = {"cos": np.ones((6, 4)), "sin": np.zeros((6, 4))}
        graph.nodes.append(Node(f"{name}r", "rotary", [name], f"{name}r", {"num_heads": 2, "rotary_dims": 8, "interleaved": False}, turn))
    heads = {"num_heads": 2, "num_kv_heads": 2, "scale": 1.0}
    graph.nodes.append(Node("a", "attention", ["qr", "kr", "v"], "y", heads))
    assert pair_rotary(graph) == 2
    for node in (graph.nodes[0], graph.nodes[2]):
        p = node.params
        np.testing.assert_allclose(p["weight"], p["weight_q"] * p["weight_unit"][:, None])


def test_attention_of_a_quantized_weight(tmp_path: Path) -> None:
    """QAttention's projections have the file's integers, and inputs with a scale per token."""
    constants = {"w": weight(models.D, 3 * models.D), "b": numbers(3 * models.D) / 4, "ws": np.float32(0.004), "wz": np.int8(0)}
    operands = ["xq", "w", "b", "xs", "ws", "", "xz", "wz"]
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"], name="dynamic"),
        helper.make_node("QAttention", operands, ["y"], name="attention", domain=MS, num_heads=2),
    ]
    shape = [1, models.T, models.D]
    onnx.save(write(nodes, shape, {name: np.asarray(array) for name, array in constants.items()}, shape), tmp_path / "m.onnx")
    state, db = sqnr(tmp_path / "m.onnx", tmp_path)
    linears = [node for node in state.graph.nodes if node.op == "linear"]
    assert db > 30 and len(linears) == 3 and all(node.attrs["quantizer"] == "imported" for node in linears)
    assert [node.op for node in state.graph.nodes].count("row_absmax") == 1


@pytest.mark.parametrize("name", QLINEAR)
def test_operands_that_are_missing_are_an_error_of_the_model(name: str) -> None:
    op, inputs, shape, _, attributes = QLINEAR[name]
    nodes = [helper.make_node(op, inputs[:1], ["y"], name="operator", domain=MS, **attributes)]
    with pytest.raises(AttncError, match="'operator'"):
        lower_quantization(write(nodes, shape, {"w": weight(6)}))
