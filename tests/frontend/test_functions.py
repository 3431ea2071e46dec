"""Functions of one number, in every spelling that exporters and hands write, against onnxruntime; and compiled, against their C++."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from graphs import Builder, C, T
from running import check

from attnc.compiler import compile_model
from attnc.config import CompileOptions
from attnc.errors import UnsupportedError
from attnc.frontend import import_model
from attnc.frontend.functions import GRID, recognise
from attnc.model import Model
from attnc.ops.functions import find
from attnc.verify.csim import compare_build

Spelling = Callable[[Builder, str], str]


def ops(model: Model) -> list[str]:
    return [f"{node.op} {node.attrs['function']}" if node.op == "unary" else node.op for node in model.graph.nodes]


def compiled(b: Builder, tmp_path: Path, y: str) -> list[str]:
    """Operators between two linear layers, checked against onnxruntime."""
    found = ops(check(b.save(tmp_path / "m.onnx", y), strict=True))
    assert found[0] == "linear" and found[-1] == "linear"
    return found[1:-1]


def gelu_erf(b: Builder, x: str) -> str:
    return b("Mul", b("Mul", x, 0.5), b("Add", b("Erf", b("Div", x, math.sqrt(2))), 1.0))


def gelu_erf_other(b: Builder, x: str) -> str:
    return b("Mul", b("Mul", b("Add", 1.0, b("Erf", b("Mul", 0.70710678, x))), x), 0.5)


def gelu_computed_root(b: Builder, x: str) -> str:
    root = b("Sqrt", b("Constant", value_float=2.0))
    return b("Mul", b("Mul", x, b("Add", b("Erf", b("Div", x, root)), b("Constant", value_float=1.0))), 0.5)


def gelu_tanh(b: Builder, x: str) -> str:
    cube = b("Mul", b("Mul", x, x), x)
    inner = b("Mul", b("Add", x, b("Mul", cube, 0.044715)), 0.7978845608)
    return b("Mul", b("Mul", 0.5, x), b("Add", b("Tanh", inner), 1.0))


def gelu_pow(b: Builder, x: str) -> str:
    inner = b("Mul", 0.797885, b("Add", x, b("Mul", 0.044715, b("Pow", x, 3.0))))
    return b("Mul", x, b("Mul", b("Add", 1.0, b("Tanh", inner)), 0.5))


def gelu_factored(b: Builder, x: str) -> str:
    inner = b("Mul", b("Mul", x, 0.7978845608), b("Add", 1.0, b("Mul", b("Mul", 0.044715, x), x)))
    return b("Mul", b("Mul", 0.5, x), b("Add", 1.0, b("Tanh", inner)))


def gelu_bf16(b: Builder, x: str) -> str:
    inner = b("Mul", b("Add", x, b("Mul", b("Pow", x, 3.0), 0.044677734375)), 0.796875)
    return b("Mul", b("Mul", x, 0.5), b("Add", b("Tanh", inner), 1.0))


def relu_six(b: Builder, x: str) -> str:
    return b("Min", b("Relu", b("Add", x, 3.0)), 6.0)


SPELLINGS: dict[str, tuple[str, Spelling]] = {
    "erf": ("gelu", gelu_erf), "erf2": ("gelu", gelu_erf_other), "root": ("gelu", gelu_computed_root),
    "tanh": ("gelu_tanh", gelu_tanh), "pow": ("gelu_tanh", gelu_pow), "factored": ("gelu_tanh", gelu_factored),
    "gelu_op": ("gelu", lambda b, x: b("Gelu", x)), "gelu_op_tanh": ("gelu_tanh", lambda b, x: b("Gelu", x, approximate="tanh")),
    "gelu_cast": ("gelu", lambda b, x: b("Cast", b("Gelu", b("Cast", x, to=1)), to=1)),
    "gelu_tiny": ("gelu", lambda b, x: b("Mul", 1e-6, b("Gelu", x))),
    "quick": ("gelu_sigmoid", lambda b, x: b("Mul", x, b("Sigmoid", b("Mul", x, 1.702)))),
    "quick_swapped": ("gelu_sigmoid", lambda b, x: b("Mul", b("Sigmoid", b("Mul", 1.702, x)), x)),
    "quick_exp": ("gelu_sigmoid", lambda b, x: b("Div", x, b("Add", 1.0, b("Exp", b("Mul", -1.702, x))))),
    "silu": ("silu", lambda b, x: b("Mul", b("Sigmoid", x), x)),
    "silu_exp": ("silu", lambda b, x: b("Div", x, b("Add", 1.0, b("Exp", b("Neg", x))))),
    "sigmoid_exp": ("sigmoid", lambda b, x: b("Reciprocal", b("Add", b("Exp", b("Neg", x)), 1.0))),
    "sigmoid_tanh": ("sigmoid", lambda b, x: b("Mul", 0.5, b("Add", 1.0, b("Tanh", b("Mul", 0.5, x))))),
    "relu_max": ("relu", lambda b, x: b("Max", x, 0.0)), "relu_clip": ("relu", lambda b, x: b("Clip", x, 0.0)),
    "relu_where": ("relu", lambda b, x: b("Where", b("Greater", x, 0.0), x, 0.0)),
    "relu2_pow": ("relu_squared", lambda b, x: b("Pow", b("Relu", x), np.array(2))),
    "relu2_mul": ("relu_squared", lambda b, x: b("Mul", b("Relu", x), b("Relu", x))),
    "relu2_x": ("relu_squared", lambda b, x: b("Mul", x, b("Relu", x))),
    "softplus": ("softplus", lambda b, x: b("Softplus", x)),
    "softplus_log": ("softplus", lambda b, x: b("Log", b("Add", b("Exp", x), 1.0))),
    "softplus_beta": ("softplus", lambda b, x: b("Div", b("Softplus", b("Mul", 2.0, x)), 2.0)),
    "logsigmoid": ("softplus", lambda b, x: b("Neg", b("Softplus", b("Neg", x)))),
    "mish_op": ("mish", lambda b, x: b("Mish", x)),
    "mish": ("mish", lambda b, x: b("Mul", x, b("Tanh", b("Softplus", x)))),
    # Constants as bfloat16 holds them.
    "gelu_tanh_bf16": ("gelu_tanh_bf16", gelu_bf16),
    "gelu_sigmoid_bf16": ("gelu_sigmoid_bf16", lambda b, x: b("Mul", x, b("Sigmoid", b("Mul", x, 1.703125)))),
    "mish_log": ("mish", lambda b, x: b("Mul", b("Tanh", b("Log", b("Add", 1.0, b("Exp", x)))), x)),
    "hard_swish": ("hard_swish", lambda b, x: b("HardSwish", x)),
    "hard_swish_div": ("hard_swish", lambda b, x: b("Div", b("Mul", x, b("Clip", b("Add", x, 3.0), 0.0, 6.0)), 6.0)),
    "hard_swish_mul": ("hard_swish", lambda b, x: b("Mul", b("Mul", b("Clip", b("Add", 3.0, x), 0.0, 6.0), 1 / 6), x)),
    "hard_swish_min": ("hard_swish", lambda b, x: b("Mul", x, b("Div", relu_six(b, x), 6.0))),
    "hard_swish_gate": ("hard_swish", lambda b, x: b("Mul", b("HardSigmoid", x, alpha=1 / 6, beta=0.5), x)),
    "hard_sigmoid": ("hard_sigmoid", lambda b, x: b("HardSigmoid", x, alpha=1 / 6, beta=0.5)),
    "hard_sigmoid_relu6": ("hard_sigmoid", lambda b, x: b("Div", relu_six(b, x), 6.0)),
    "hard_sigmoid_op": ("hard_sigmoid_0.2", lambda b, x: b("HardSigmoid", x)),
    "hard_sigmoid_odd": ("clip_-1.3333334_1.3333334", lambda b, x: b("HardSigmoid", x, alpha=0.375)),
    "tanh_op": ("tanh", lambda b, x: b("Tanh", x)),
    "softcap": ("tanh", lambda b, x: b("Mul", 30.0, b("Tanh", b("Div", x, 30.0)))),
    "leaky": ("leaky_relu_0.2", lambda b, x: b("LeakyRelu", x, alpha=0.2)), "leaky_op": ("leaky_relu", lambda b, x: b("LeakyRelu", x)),
    "leaky_max": ("leaky_relu_0.1", lambda b, x: b("Max", x, b("Mul", x, 0.1))),
    "leaky_where": ("leaky_relu_0.25", lambda b, x: b("Where", b("Greater", x, 0.0), x, b("Mul", 0.25, x))),
    "leaky_sum": ("leaky_relu_0.3", lambda b, x: b("Add", b("Relu", x), b("Mul", 0.3, b("Min", x, 0.0)))),
    "prelu": ("leaky_relu_0.25", lambda b, x: b("PRelu", x, np.array([0.25]))), "abs": ("leaky_relu_-1", lambda b, x: b("Abs", x)),
    "elu": ("elu", lambda b, x: b("Elu", x)), "elu_half": ("elu_0.5", lambda b, x: b("Elu", x, alpha=0.5)),
    "elu_where": ("elu", lambda b, x: b("Where", b("Less", x, 0.0), b("Sub", b("Exp", x), 1.0), x)),
    "elu_plus_one": ("elu", lambda b, x: b("Add", 1.0, b("Elu", x))), "selu": ("elu_1.6732632", lambda b, x: b("Selu", x)),
    "celu": ("elu", lambda b, x: b("Celu", x, alpha=0.7)),
    "relu6": ("clip_0_6", lambda b, x: b("Clip", x, 0.0, 6.0)), "relu6_minmax": ("clip_0_6", lambda b, x: b("Min", b("Max", 0.0, x), 6.0)),
    "hard_tanh": ("clip_-1_1", lambda b, x: b("Clip", x, -1.0, 1.0)), "minimum": ("clip_-inf_0.5", lambda b, x: b("Min", x, 0.5)),
    "maximum": ("clip_-0.25_inf", lambda b, x: b("Max", -0.25, x)), "far": ("clip_-20_20", lambda b, x: b("Clip", x, -20.0, 20.0)),
    "softsign": ("softsign", lambda b, x: b("Softsign", x)), "exp": ("exp", lambda b, x: b("Exp", x)),
    "softsign_abs": ("softsign", lambda b, x: b("Div", x, b("Add", 1.0, b("Abs", x)))), "erf_op": ("erf", lambda b, x: b("Erf", x)),
    "laplace": ("erf", lambda b, x: b("Mul", 0.5, b("Add", 1.0, b("Erf", b("Div", b("Sub", x, 0.707107), 0.398942))))),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(tmp_path: Path, name: str) -> None:
    function, spelling = SPELLINGS[name]
    b = Builder(20)
    x = b.linear(b.input("x", [1, T, C]), C, 6)
    assert compiled(b, tmp_path, b.linear(spelling(b, x), 6, 3)) == [f"unary {function}"]


def split(b: Builder, x: str) -> list[str]:
    return b("Split", x, np.array([3, 3]), outputs=2, axis=-1)  # type: ignore[no-any-return]


def clamped_gate(b: Builder, gate: str, up: str) -> str:
    """The gate of gpt-oss."""
    g, u = b("Min", gate, 7.0), b("Clip", up, -7.0, 7.0)
    return b("Mul", b("Add", u, 1.0), b("Mul", g, b("Sigmoid", b("Mul", g, 1.702))))


GATED: dict[str, tuple[Callable[[Builder, str, str], str], list[str]]] = {
    "glu": (lambda b, g, u: b("Mul", u, b("Sigmoid", g)), ["mul", "unary sigmoid"]),
    "swiglu": (lambda b, g, u: b("Mul", b("Mul", g, b("Sigmoid", g)), u), ["mul", "unary silu"]),
    "swiglu_other_order": (lambda b, g, u: b("Mul", b("Mul", u, g), b("Sigmoid", g)), ["mul", "mul", "unary sigmoid"]),
    "geglu": (lambda b, g, u: b("Mul", u, gelu_erf_other(b, g)), ["mul", "unary gelu"]),
    "reglu": (lambda b, g, u: b("Mul", b("Relu", g), u), ["mul", "unary relu"]),
    "relu2_gated": (lambda b, g, u: b("Mul", b("Mul", b("Relu", g), g), u), ["mul", "unary relu_squared"]),
    "clamped": (clamped_gate, ["add", "mul", "unary clip_-7_7", "unary clip_-inf_7", "unary gelu_sigmoid"]),
}


@pytest.mark.parametrize("name", GATED)
def test_gates(tmp_path: Path, name: str) -> None:
    gate, expected = GATED[name]
    b = Builder(20)
    parts = split(b, b.linear(b.input("x", [1, T, C]), C, 6))
    found = compiled(b, tmp_path, b.linear(gate(b, *parts), 3, 3))
    assert sorted(op for op in found if op != "linear") == expected


OTHERS: dict[str, tuple[Spelling, list[str]]] = {
    "square": (lambda b, x: b("Mul", x, x), ["mul"]), "power": (lambda b, x: b("Pow", x, 2.0), ["mul"]),
    "swish": (lambda b, x: b("Mul", x, b("Sigmoid", b("Mul", 1.3, x))), ["mul", "unary sigmoid", "mul"]),
    "slopes": (lambda b, x: b("PRelu", x, np.linspace(0.1, 0.6, 6)), ["unary relu", "mul", "mul", "add"]),
    "clipped": (lambda b, x: b("Clip", b("Gelu", x), -10.0, 10.0), ["unary gelu", "unary clip_-10_10"]),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_functions_made_of_several(tmp_path: Path, name: str) -> None:
    spelling, expected = OTHERS[name]
    b = Builder(20)
    assert compiled(b, tmp_path, b.linear(spelling(b, b.linear(b.input("x", [1, T, C]), C, 6)), 6, 3)) == expected


def test_swish_operator(tmp_path: Path) -> None:
    """onnxruntime 1.31 has no kernel for Swish; `test_conformance` compares it with ONNX's own vectors."""
    for alpha, expected in ((1.0, ["unary silu"]), (1.702, ["unary gelu_sigmoid"]), (0.5, ["mul", "unary sigmoid", "mul"])):
        b = Builder(24)
        y = b.linear(b("Swish", b.linear(b.input("x", [1, T, C]), C, 6), alpha=alpha), 6, 3)
        assert ops(import_model(b.save(tmp_path / "m.onnx", y)))[1:-1] == expected


def test_chain_of_functions(tmp_path: Path) -> None:
    b = Builder(20)
    y = b.linear(b.input("x", [1, T, C]), C, 6)
    y = b("Tanh", gelu_erf(b, b("Relu", y)))
    found = compiled(b, tmp_path, b.linear(b("Mul", b("Sigmoid", y), 2.0), 6, 3))
    assert found == ["unary relu", "unary gelu", "unary tanh", "unary sigmoid"]


@pytest.mark.parametrize(
    ("operator", "reason"),
    [
        ("Sqrt", "not defined for negative numbers"),
        ("Log", "negative numbers and 0"),
        ("ThresholdedRelu", "it jumps"),
        ("Round", "it jumps"),
    ],
)
def test_functions_that_are_none_of_the_device(tmp_path: Path, operator: str, reason: str) -> None:
    b = Builder(20)
    y = b(operator, b.linear(b.input("x", [1, T, C]), C, 6), name="culprit")
    with pytest.raises(UnsupportedError, match=f"culprit.*{reason}"):
        import_model(b.save(tmp_path / "m.onnx", b.linear(y, 6, 3)))


def test_what_is_near_a_known_function_is_not_taken_for_it() -> None:
    gelu = find("gelu")
    assert gelu is not None
    for y in (
        gelu(GRID) + 1e-3 * np.sin(GRID),
        np.exp(GRID) + 0.01 * GRID,
        np.where(GRID > 40, 40.5, GRID),
        GRID**3,
        np.sqrt(np.abs(GRID)),
    ):
        assert recognise(y) is None
    for name, gain, offset in (("silu", -2.5, 0.125), ("gelu", 1e-6, 0.0), ("exp", 1e-3, 0.0), ("leaky_relu_-0.5", 3.0, 1.0)):
        function = find(name)
        assert function is not None
        found = recognise(gain * function(GRID) + offset)
        assert found is not None and found.function == name, found
        np.testing.assert_allclose((found.gain, found.offset), (gain, offset), rtol=1e-6, atol=1e-9)


def test_compiled_functions_are_near_float_and_equal_their_cpp(tmp_path: Path) -> None:
    """Every new function in one model: with a table for bytes (exp, softsign), clamps, slopes and the usual machinery."""
    b = Builder(20)
    h = b.linear(b.input("x", [1, 16, 32]), 32, 24)
    made = [b.linear(SPELLINGS[name][1](b, h), 24, 8) for name in ("softsign", "relu6", "hard_tanh", "abs", "selu", "mish", "erf_op")]
    made.append(b.linear(b("Exp", b("Mul", h, 0.25)), 24, 8))
    made.append(b.linear(OTHERS["slopes"][0](b, b("Slice", h, np.array([0]), np.array([6]), np.array([2]))), 6, 8))
    path = b.save(tmp_path / "m.onnx", b("Concat", *made, axis=-1))
    x = np.random.default_rng(0).standard_normal((24, 16, 32)).astype(np.float32)
    np.savez(tmp_path / "calib.npz", x=x)
    build = compile_model(path, CompileOptions(output=tmp_path / "build", check=False, calib=tmp_path / "calib.npz"))
    assert compare_build(build).bit_exact
    layers = json.loads((build / "report.json").read_text())["layers"]
    found = {layer["node"]: layer["float_graph_db"] for layer in layers if layer["op"] == "unary"}
    assert len(found) == 9 and min(found.values()) > 28, found  # exp, whose input has 8 bits, is the least of them
