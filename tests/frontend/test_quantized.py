"""Models that arrive quantized: integers and types carried over, results against the framework's, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import quantized_models as models
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType

from attnc.codegen.graph_file import load_graph
from attnc.compiler import compile_model
from attnc.config import CompileOptions
from attnc.errors import AttncError, UnsupportedError
from attnc.frontend import import_model
from attnc.frontend.imported_weights import format_of
from attnc.frontend.load import load_model
from attnc.frontend.quantized import runnable
from attnc.golden import run_golden
from attnc.model import Model
from attnc.verify.csim import compare_build

SAMPLES = 300


def framework(path: Path | onnx.ModelProto, x: np.ndarray, names: list[str], batched: bool) -> dict[str, np.ndarray]:
    """Tensors of the model as onnxruntime computes them, with every pair as it stands."""
    model = onnx.load(path) if isinstance(path, Path) else path
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    if batched:
        return dict(zip(names, session.run(names, {"x": x}), strict=True))
    rows = [session.run(names, {"x": x[i : i + 1]}) for i in range(len(x))]
    return {name: np.concatenate([row[i] for row in rows]) for i, name in enumerate(names)}


def golden_steps(build: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    """Integers of every value, zero point off."""
    graph = load_graph(build / "golden")
    found: dict[str, np.ndarray] = {}
    type_, shape = graph.type(graph.inputs[0]), graph.value(graph.inputs[0]).shape
    run_golden(graph, {graph.inputs[0]: type_.quantize(x.reshape(len(x), *shape))}, lambda name, q: found.update({name: q}))
    return found


def inputs(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(SAMPLES, *shape)).astype(np.float32)


# ---- ONNX QDQ ----


@pytest.fixture(
    scope="module", params=[(QuantType.QUInt8, True), (QuantType.QInt8, False), (QuantType.QInt16, True)], ids=["u8", "s8", "s16"]
)
def mlp_build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("mlp")
    kind, per_channel = request.param
    wide = kind == QuantType.QInt16
    path = models.quantize(
        models.mlp(folder / "f.onnx", 21 if wide else 17), folder / "q.onnx", (4, models.K), kind, per_channel, symmetric=wide
    )
    return path, compile_model(path, CompileOptions(output=folder / "build", check=False))


def exact(steps: np.ndarray, node: Any, types: tuple[Any, Any]) -> np.ndarray:
    """What a linear layer is in rational numbers, in steps of its output."""
    acc = steps.reshape(-1, steps.shape[-1]).astype(np.int64) @ node.params["weight"].T.astype(np.int64) + node.params["bias"]
    factor = [Fraction(float(types[0].scale)) * Fraction(float(s)) / Fraction(float(types[1].scale)) for s in node.params["weight_scale"]]
    return np.array([[int(a) * f for a, f in zip(row, factor, strict=True)] for row in acc], object)


def check_rounding(q: np.ndarray, real: np.ndarray, low: int, high: int, error: Fraction) -> None:
    """q is `real` rounded to nearest, after a relative error of the factor."""
    for found, value in zip(q.reshape(-1).tolist(), real.reshape(-1), strict=True):
        wanted = min(max(value, Fraction(low)), Fraction(high))
        assert abs(found - wanted) <= Fraction(1, 2) + abs(value) * error


def test_linear_models_equal_onnxruntime(mlp_build: tuple[Path, Path]) -> None:
    """Every layer, given the same integers, is the rational result rounded, on both sides: a difference can only be a tie, or lie as
    near to one as the multiplier of 17 bits (float32 in onnxruntime) moves it."""
    path, build = mlp_build
    assert compare_build(build).bit_exact
    graph, x = load_graph(build / "golden"), inputs(models.K)
    steps = golden_steps(build, x)
    assert not any(node.op == "requantize" for node in graph.nodes), "inputs of 16 bits pass the multipliers in two bytes"
    names = {"fc0": ("x", "m0"), "fc1": ("r0", "y_QuantizeLinear_Input")}
    theirs = framework(path, x, ["x_DequantizeLinear_Output", "m0_DequantizeLinear_Output", "r0_DequantizeLinear_Output", "y"], True)
    theirs = {name.removesuffix("_DequantizeLinear_Output"): array for name, array in theirs.items()}
    linears = [node for node in graph.nodes if node.op == "linear"]
    assert len(linears) == len(names)
    for node, (before, after) in zip(linears, (("x", "m0"), ("r0", "y")), strict=True):
        types = graph.type(node.inputs[0]), graph.type(node.output)
        sides = {
            "ours": (steps[node.inputs[0]], steps[node.output], Fraction(1, 1 << 17)),
            "onnxruntime": (np.rint(theirs[before] / types[0].scale), np.rint(theirs[after] / types[1].scale), Fraction(1, 1 << 21)),
        }
        for given, made, error in sides.values():
            check_rounding(made.astype(int)[:60], exact(given[:60], node, types), *types[1].range, error)
        differences = np.abs(steps[node.output].reshape(SAMPLES, -1) - sides["onnxruntime"][1])
        # Of 16 bits the rounding of the multiplier shows, an eighth of a step at most, and that of the layer before.
        most, often = (1, 0.02) if types[1].bits == 8 else (2, 0.3)
        assert differences.max() <= most and (differences > 0).mean() < often
    first = graph.type(graph.inputs[0])
    apart = steps[graph.inputs[0]].reshape(SAMPLES, -1) != np.rint(theirs["x"] / first.scale)
    assert apart.mean() <= (0 if first.bits == 8 else 0.002), "in 16 bits, float32 moves a few across the middle between two steps"


def test_integers_and_scales_are_carried_over(mlp_build: tuple[Path, Path]) -> None:
    path, build = mlp_build
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    graph = load_graph(build / "golden")
    first, second = (node for node in graph.nodes if node.op == "linear")
    np.testing.assert_array_equal(first.params["weight"], arrays["w0_quantized"].T)
    np.testing.assert_array_equal(second.params["weight"], arrays["w1_quantized"])
    np.testing.assert_array_equal(first.params["weight_scale"], np.broadcast_to(arrays["w0_scale"].astype(np.float64), models.HIDDEN))
    if graph.type(second.inputs[0]).bits == 8 and all(node.op != "requantize" for node in graph.nodes):
        np.testing.assert_array_equal(second.params["bias"], arrays["b1_quantized"])
    x = graph.type(graph.inputs[0])
    zero = int(arrays["x_zero_point"]) - (128 if arrays["x_zero_point"].dtype == np.uint8 else 0)
    assert (float(x.scale), x.zero_point) == (float(arrays["x_scale"]), zero)
    facts = json.loads((build / "report.json").read_text())["import"]
    assert facts["dialects"] == ["ONNX QDQ"] and [w["format"] for w in facts["weights"]] == ["int8", "int8"]
    assert all(weight["scales"] == "as imported" for weight in facts["weights"])
    assert any("multiplier of 17 bits" in rule for rule in facts["rounding_rules"])
    assert "quantized by" in (build / "report.txt").read_text()


@pytest.mark.parametrize("symmetric", [False, True])
def test_attention_is_near_and_says_why(tmp_path: Path, symmetric: bool) -> None:
    source = models.attention_block(tmp_path / "f.onnx")
    path = models.quantize(source, tmp_path / "q.onnx", (1, models.T, models.D), QuantType.QInt8, not symmetric, symmetric)
    build = compile_model(path, CompileOptions(output=tmp_path / "build", check=False))
    assert compare_build(build).bit_exact
    x = inputs(models.T, models.D)[:40]
    graph = load_graph(build / "golden")
    steps, theirs = golden_steps(build, x), framework(path, x, ["y"], False)["y"]
    differences = np.abs(steps[graph.outputs[0]] - np.rint(theirs / graph.type(graph.outputs[0]).scale))
    assert differences.max() <= 6 and differences.mean() < 1
    facts = json.loads((build / "report.json").read_text())["import"]
    assert any(rule.startswith("attention:") for rule in facts["rounding_rules"])
    assert any(rule.startswith("layer_normalization:") for rule in facts["rounding_rules"])
    assert {entry["node"] for entry in facts["left_out"]} >= {"s_QuantizeLinear", "p_QuantizeLinear"}
    asymmetric = [line for line in facts["requantized"] if line.endswith("for weighted")]
    assert bool(asymmetric) != symmetric
    assert all(graph.type(name).zero_point == 0 for node in graph.nodes if node.op == "attention" for name in node.inputs)


def test_a_weight_that_is_scaled(tmp_path: Path) -> None:
    """A weight that is scaled per channel on the way keeps its integers, and gets other scales."""
    rng = np.random.default_rng(2)
    q, scale = rng.integers(-127, 128, (8, 12)).astype(np.int8), rng.uniform(0.01, 0.02, 12).astype(np.float32)
    constants = {
        "q": q,
        "s": scale,
        "z": np.zeros(12, np.int8),
        "gain": rng.uniform(0.3, 0.4, 12).astype(np.float32),
        "w": rng.normal(size=(12, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["wd"], name="dq", axis=1),
        helper.make_node("MatMul", ["x", "wd"], ["m"], name="fc"),
        helper.make_node("Mul", ["m", "gain"], ["m2"], name="scale"),
        helper.make_node("Relu", ["m2"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w"], ["y"], name="last"),
    ]
    model = import_model(models.save(tmp_path / "m.onnx", nodes, ([1, 8], [1, 4]), constants))
    first, last = (node for node in model.graph.nodes if node.op == "linear")
    assert first.attrs["weights"] == "int8" and "weight_q" not in last.params
    real = first.params["weight_unit"][:, None] * first.params["weight_q"]
    np.testing.assert_allclose(real, (q * scale * constants["gain"]).T, rtol=1e-6)
    assert model.quantized.weights[0]["scales"] == "recovered from the folded weight"
    np.testing.assert_array_equal(first.params["weight_q"], q.T)


def test_a_pair_on_what_only_a_fixed_shape_makes_constant(tmp_path: Path) -> None:
    """A class token, repeated as often as there are samples: until the batch is fixed, its pair looks like an activation's. Opset 18,
    at which the evaluator of onnx has no DequantizeLinear."""
    rng = np.random.default_rng(2)
    constants: dict[str, np.ndarray] = {
        "token": rng.normal(size=(1, 1, models.D)).astype(np.float32),
        "v": rng.normal(size=(models.D, models.D)).astype(np.float32) / 4,
        "w": rng.normal(size=(models.D, 5)).astype(np.float32) / 4,
        "rest": np.array([1, models.D]),
        "zero": np.array([0]),
    }
    nodes = [
        helper.make_node("Shape", ["x"], ["whole"], name="whole"),
        helper.make_node("Gather", ["whole", "zero"], ["batch"], name="batch"),
        helper.make_node("Concat", ["batch", "rest"], ["shape"], name="shape", axis=0),
        helper.make_node("Expand", ["token", "shape"], ["tokens"], name="tokens"),
        helper.make_node("MatMul", ["x", "v"], ["embedded"], name="embedding"),
        helper.make_node("Concat", ["tokens", "embedded"], ["all"], name="all", axis=1),
        helper.make_node("MatMul", ["all", "w"], ["y"], name="head"),
    ]
    path = models.save(tmp_path / "f.onnx", nodes, (["n", models.T, models.D], ["n", models.T + 1, 5]), constants, 18)
    path = models.quantize(path, tmp_path / "q.onnx", (1, models.T, models.D), QuantType.QInt8, True)
    assert any(node.op_type == "DequantizeLinear" and node.input[0].startswith("tokens") for node in onnx.load(path).graph.node)
    build = compile_model(path, CompileOptions(output=tmp_path / "build", check=False))
    assert compare_build(build).bit_exact
    report = json.loads((build / "report.json").read_text())
    assert min(layer["float_graph_db"] for layer in report["layers"]) > 35
    assert report["import"]["left_out"] == [], "the constant is rounded as the file says"


# ---- QONNX ----


def test_qonnx(tmp_path: Path) -> None:
    path = models.qonnx_mlp(tmp_path / "q.onnx")
    build = compile_model(path, CompileOptions(output=tmp_path / "build", check=False))
    assert compare_build(build).bit_exact
    graph, x = load_graph(build / "golden"), inputs(16)
    assert [node.op for node in graph.nodes] == ["linear"] * 4, "a relu before an unsigned type is done by saturation"
    facts = json.loads((build / "report.json").read_text())["import"]
    assert facts["dialects"] == ["QONNX"] and [w["format"] for w in facts["weights"]] == ["int4", "ternary", "ternary", "int5"], (
        "5 bits reach down to -16"
    )
    types = [graph.type(node.output) for node in graph.nodes]
    assert [(t.bits, t.zero_point) for t in types] == [(4, -8), (6, 3), (8, 0), (8, 0)]
    assert types[0].range == (0, 15) and types[1].range == (-35, 28)
    steps, theirs = golden_steps(build, x), framework(runnable(load_model(path)), x, ["y"], True)["y"]
    expected = reference(path, x)
    np.testing.assert_allclose(theirs, expected, atol=1e-6)
    differences = np.abs(steps[graph.outputs[0]].reshape(SAMPLES, -1) - np.rint(expected / float(types[-1].scale)))
    assert (differences > 0).mean() < 0.02
    for node in graph.nodes:
        pair = graph.type(node.inputs[0]), graph.type(node.output)
        real = exact(steps[node.inputs[0]][:50], node, pair)
        check_rounding(steps[node.output].astype(int)[:50], real, *pair[1].range, Fraction(1, 1 << 17))


def reference(path: Path, x: np.ndarray) -> np.ndarray:
    """The formulas of QONNX, straight from its definition."""
    model = onnx.load(path)
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer} | {"x": x}
    rounding = {"ROUND": np.round, "FLOOR": np.floor}
    for node in model.graph.node:
        a = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        given = [known[name] for name in node.input]
        mode = rounding[a.get("rounding_mode", b"ROUND").decode()]
        if node.op_type == "Quant":
            bits = int(given[3])
            low, high = (-(2 ** (bits - 1)) + a["narrow"], 2 ** (bits - 1) - 1) if a["signed"] else (0, 2**bits - 1 - a["narrow"])
            made = (mode(np.clip(given[0] / given[1] + given[2], low, high)) - given[2]) * given[1]
        elif node.op_type == "BipolarQuant":
            made = np.where(given[0] >= 0, 1.0, -1.0) * given[1]
        elif node.op_type == "Trunc":
            made = (mode(np.round(given[0] / given[1] + given[2]) / 2.0 ** (given[3] - given[4])) - given[2]) * given[1]
        else:
            made = given[0] @ given[1] if node.op_type == "MatMul" else np.maximum(given[0], 0)
        known[node.output[0]] = made.astype(np.float32)
    return known["y"]


def test_formats_of_imported_weights() -> None:
    names = [
        format_of(np.array(q), bits).name
        for q, bits in (([-1, 1], 1), ([-1, 0], 2), ([-2, 1], 2), ([2], 2), ([-8, 7], 4), ([-9], 4), ([-128], 8), ([3], 7))
    ]
    assert names == ["ternary", "ternary", "int2", "int3", "int4", "int5", "int8", "int8"]


# ---- bad input ----


def pair(
    scale: Any = 0.1, zero: Any = 0, dtype: Any = np.int8, weight: dict[str, Any] | None = None, opset: int = 17, **attrs: Any
) -> Callable[[Path], Path]:
    """x -> pair -> product with a quantized weight; `weight` and `attrs` change it."""

    def write(path: Path) -> Path:
        w = {"q": np.arange(-8, 8).reshape(4, 4).astype(np.int8), "s": np.array(0.1), "z": np.zeros((), np.int8), "attrs": {}} | (
            weight or {}
        )
        constants = {
            "s": np.asarray(scale, np.float32),
            "z": np.asarray(zero, dtype),
            "wq": w["q"],
            "ws": np.asarray(w["s"], np.float32),
            "wz": w["z"],
        }
        if attrs.get("dynamic"):
            del constants["s"]
        nodes = [helper.make_node("ReduceMax", ["x"], ["s"], name="peak", keepdims=0)] if attrs.get("dynamic") else []
        nodes += [
            helper.make_node(
                "QuantizeLinear", ["x", "s", "z"], ["xq"], name="quantize_x", **{k: v for k, v in attrs.items() if k == "axis"}
            ),
            helper.make_node(
                "DequantizeLinear",
                ["xq", attrs.get("other", "s"), "z"],
                ["xd"],
                name="dequantize_x",
                **{k: v for k, v in attrs.items() if k == "axis"},
            ),
            helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], name="dequantize_w", **w["attrs"]),
            helper.make_node("MatMul", ["xd", "wd"], ["y"], name="fc"),
        ]
        return models.save(path, nodes, ([1, 4], [1, 4]), constants, opset)

    return write


def quant(weight: bool = False, op: str = "Quant", extra: tuple[str, list[float]] | None = None, **changes: Any) -> Callable[[Path], Path]:
    """x -> Quant -> product with Quant(weight)."""

    def write(path: Path) -> Path:
        b = models.QonnxBuilder()
        b.constant("w", np.sin(np.arange(16.0) ** 2).reshape(4, 4))
        usual = {"scale": 0.1, "zero": 0.0, "bits": 8.0}
        if extra and not weight:
            b.node(extra[0], ["x", *(b.constant(f"c{i}", value) for i, value in enumerate(extra[1]))], "xq")
        else:
            b.quant("x", "xq", **(usual | ({} if weight else changes)), op=op)  # type: ignore[arg-type]
        b.quant("w", "wq", **(usual | (changes if weight else {})))  # type: ignore[arg-type]
        b.node("MatMul", ["xq", "wq"], "y")
        return models.save(path, b.nodes, ([1, 4], [1, 4]), b.constants)

    return write


def weighted(**weight: Any) -> Callable[[Path], Path]:
    return pair(weight=weight)


WIDE = np.array([[0, 255, 1, 2], [7, 3, 255, 0], [255, 9, 0, 77], [3, 251, 8, 255]], np.uint8)
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "scale zero": (pair(0.0), r"'quantize_x' \(QuantizeLinear\): tensor 's': needed finite scales above zero, found \[0.0\]"),
    "scale negative": (pair(-0.1), "'quantize_x'.*tensor 's'.*found .-0.1"),
    "scale nan": (pair(np.nan), "'quantize_x'.*tensor 's'.*found .nan"),
    "scale infinite": (pair(np.inf), "'quantize_x'.*tensor 's'.*found .inf"),
    "weight scale infinite": (weighted(s=np.array(np.inf)), "'dequantize_w'.*tensor 'ws'.*needed finite scales, found .inf"),
    "activation per channel": (
        pair([0.1] * 4, [0] * 4, axis=1),
        "'quantize_x'.*tensor 'x': an activation with 4 scales.*one scale per tensor",
    ),
    "axis": (weighted(s=np.full(4, 0.1), z=np.zeros(4, np.int8), attrs={"axis": 7}), "'dequantize_w'.*tensor 'wq': its axis is 7.*2 axes"),
    "scales that do not fit": (
        weighted(s=np.full(3, 0.1), z=np.zeros(3, np.int8), attrs={"axis": 1}),
        "'dequantize_w'.*3 scales along axis 1.*size 4",
    ),
    "zero points that do not fit": (
        weighted(s=np.full(4, 0.1), z=np.zeros(2, np.int8), attrs={"axis": 1}),
        "'dequantize_w'.*4 scales and 2 zero points",
    ),
    "blocks that do not fit": (
        pair(weight={"s": np.full((3, 4), 0.1), "z": np.zeros((3, 4), np.int8), "attrs": {"axis": 0, "block_size": 2}}, opset=21),
        r"'dequantize_w'.*tensor 'wq': scales of shape \[3, 4\] and zero points of shape \[3, 4\] for blocks of 2; needed \[2, 4\]",
    ),
    "zero point of another type": (weighted(z=np.zeros((), np.uint8)), "'dequantize_w'|wz"),
    "data-dependent scale": (pair(dynamic=True), "'quantize_x'.*tensor 's': its scale is not constant: it depends on data"),
    "pairs that disagree": (
        pair(other="ws", scale=0.2),
        "'dequantize_x'.*tensor 'xq': its scale or zero point differs from that of 'quantize_x'",
    ),
    "qonnx scale": (quant(scale=0.0), "'quant_xq'.*tensor 'xq.scale': needed finite scales above zero"),
    "qonnx bits": (quant(bits=2.5), r"'quant_xq'.*tensor 'xq.bits': a bit width of \[2.5\]"),
    "qonnx too many bits": (quant(bits=32.0), "'quant_xq'.*bit width.*from 1 to 32|'quant_xq'.*bits"),
    "qonnx zero point": (quant(zero=200.0), "'quant_xq'.*tensor 'xq.zero': a zero point of .200.0.; needed whole numbers from -128 to 127"),
    "qonnx fractional zero point": (quant(zero=0.5), "'quant_xq'.*tensor 'xq.zero'"),
    "qonnx per channel": (quant(scale=[0.1, 0.2, 0.1, 0.1]), "'quant_xq'.*tensor 'x': an activation with 4 scales"),
    "qonnx two axes": (quant(weight=True, scale=np.full((4, 4), 0.1)), "'quant_wq'.*tensor 'wq.scale': scales of shape .4, 4."),
    "qonnx rounding": (quant(mode="FLOOR"), "'quant_xq'.*tensor 'x': an activation rounded by FLOOR"),
    "qonnx unknown rounding": (quant(mode="SIDEWAYS"), "'quant_xq'.*rounding mode 'SIDEWAYS'"),
    "qonnx narrow": (quant(narrow=1), "'quant_xq'.*an activation of narrow range"),
    "qonnx bipolar activation": (quant(extra=("BipolarQuant", [0.1])), "'BipolarQuant_xq'.*tensor 'x': an activation of one bit"),
    "qonnx trunc of an activation": (quant(extra=("Trunc", [0.1, 0, 8, 4])), "'Trunc_xq'.*tensor 'x': an activation is truncated"),
    "qonnx float": (quant(extra=("FloatQuant", [0.1, 0, 8, 4])), "'FloatQuant_xq'.*only Quant"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(tmp_path: Path, name: str) -> None:
    write, message = BAD[name]
    with pytest.raises(AttncError, match=message):
        import_model(write(tmp_path / "m.onnx"))


def test_good_input_of_the_same_making(tmp_path: Path) -> None:
    """What the bad models are variations of is accepted, with uint8 weights around 128 and 4-bit ones."""
    good: list[Model] = [import_model(write(tmp_path / f"{i}.onnx")) for i, write in enumerate((
        pair(), quant(), weighted(q=WIDE, z=np.array(128, np.uint8)), pair(dtype=np.uint8, zero=7),
        weighted(s=np.full(4, 0.1), z=np.zeros(4, np.int8), attrs={"axis": 1}),
    ))]  # fmt: skip
    assert all([node.op for node in model.graph.nodes] == ["linear"] for model in good)
    np.testing.assert_array_equal(good[2].graph.nodes[0].params["weight_q"], WIDE.T.astype(int) - 128)


def test_uint8_weights_around_128(tmp_path: Path) -> None:
    """They have -128 among them, which symmetric formats do not."""
    source = models.attention_block(tmp_path / "f.onnx")
    path = models.quantize(source, tmp_path / "q.onnx", (1, models.T, models.D), QuantType.QUInt8, True, weights=QuantType.QUInt8)
    build = compile_model(path, CompileOptions(output=tmp_path / "build", check=False))
    assert compare_build(build).bit_exact
    linears = [node.params["weight"] for node in load_graph(build / "golden").nodes if node.op == "linear"]
    assert min(weight.min() for weight in linears) == -128


CHANGED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "along the reduction": (weighted(s=[0.1, 0.23, 0.31, 0.47], z=np.zeros(4, np.int8), attrs={"axis": 0}), "do not run along output"),
    "nine bits": (weighted(q=WIDE, z=np.array(0, np.uint8)), "integers of 9 bits without its zero point: 9 of 16"),
    "16 bits": (
        pair(weight={"q": np.arange(301, 333, 2).reshape(4, 4).astype(np.int16), "z": np.zeros((), np.int16)}, opset=21),
        "integers from 301 to 331 .*needed 8 bits.*quantized again",
    ),
    "qonnx of 16 bits": (quant(weight=True, bits=16.0, scale=0.001234), "'wq' has integers from .*needed 8 bits"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_weights_that_the_device_cannot_have_as_they_are(tmp_path: Path, name: str) -> None:
    write, note = CHANGED[name]
    model = import_model(write(tmp_path / "m.onnx"))
    (changed,) = model.quantized.changed
    assert re.search(note, changed)


def test_pairs_that_the_host_rounds(tmp_path: Path) -> None:
    """A sum that the host computes, pairs around it and one between host and output: rounding is no misreading of the model."""
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gamma"], ["n"], name="norm"),
        helper.make_node("Add", ["x", "x"], ["s"], name="twice"),
        helper.make_node("MatMul", ["s", "w"], ["m"], name="fc"),
        helper.make_node("Add", ["m", "n"], ["y"], name="sum"),
    ]
    constants = {"gamma": rng.normal(size=models.D).astype(np.float32), "w": rng.normal(size=(models.D, models.D)).astype(np.float32)}
    path = models.save(tmp_path / "f.onnx", nodes, ([1, models.T, models.D], [1, models.T, models.D]), constants)
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, [1, models.T, models.D]))
    onnx.save(model, path)
    path = models.quantize(path, tmp_path / "q.onnx", (1, models.T, models.D), QuantType.QUInt8, True)
    imported = import_model(path)
    assert imported.leading is not None and imported.trailing is not None
    build = compile_model(path, CompileOptions(output=tmp_path / "build", check=False))
    assert json.loads((build / "report.json").read_text())["float_check"]["largest_relative_error"] < 1e-5


def test_an_input_that_the_host_pads_keeps_its_type(tmp_path: Path) -> None:
    w = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="stem", pads=[1] * 4, kernel_shape=[3, 3])]
    path = models.save(tmp_path / "f.onnx", nodes, ([1, 3, 6, 6], [1, 8, 6, 6]), {"w": w})
    model = import_model(models.quantize(path, tmp_path / "q.onnx", (1, 3, 6, 6), QuantType.QUInt8, True))
    (name,) = model.graph.inputs
    assert model.leading is not None and (imposed := model.graph.value(name).imposed) is not None and imposed.zero_point


def test_integers_as_output_stay_on_the_host(tmp_path: Path) -> None:
    """A QuantizeLinear that makes an output runs behind the device."""
    w = np.linspace(-1, 1, 16).reshape(4, 4).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="fc"),
        helper.make_node("QuantizeLinear", ["m", "s", "z"], ["y"], name="last"),
    ]
    path = models.save(tmp_path / "m.onnx", nodes, ([1, 4], [1, 4]), {"w": w, "s": np.array(0.1, np.float32), "z": np.array(0, np.int8)})
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
    onnx.save(model, path)
    imported = import_model(path)
    assert imported.trailing is not None and [node.op_type for node in imported.trailing.graph.node] == ["QuantizeLinear"]
    with pytest.raises(UnsupportedError):
        import_model(path, strict=True)
