"""How far the implementations of a nonlinear function are from float64, what they cost, and pictures of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from attnc.arrays import Array
from attnc.errors import ConfigError
from attnc.ir import Graph, Node, TensorType
from attnc.kernels.design import Design
from attnc.kernels.lowering import Lowering
from attnc.kernels.numbers import PROBABILITY_BITS
from attnc.kernels.resources import Resources
from attnc.ops import OPERATORS
from attnc.ops.approximation import AUTO, Approximated, Implementation, choose, times
from attnc.ops.exponential import EXP2, FRACTION_BITS, exp2_negative, score_multiplier, scores
from attnc.ops.functions import FUNCTIONS, find
from attnc.ops.reciprocal import DIVISIONS, reciprocal
from attnc.ops.rsqrt import RSQRT_TABLE, rsqrt
from attnc.ops.unary import METHODS, Unary, methods, rescaled
from attnc.pictures import new_figure, save_figure

SEED = 0
SOFTMAX_KEYS, SOFTMAX_DEVIATION, SOFTMAX_PEAK = 197, 2.0, 10.0
NORM_CHANNELS, NORM_PEAK = 256, 5.0
ROWS = 256
ALIASES = {"quick_gelu": "gelu_sigmoid", "swish": "silu"}
"""Other names that functions go by."""
FLOOR = 1e-7
"""Errors below it are drawn as if they were it."""


@dataclass(frozen=True)
class Curve:
    """Points of a picture: x, what an implementation gives, and its error."""

    x: Array
    y: Array
    error: Array


@dataclass(frozen=True)
class Measurement:
    """One implementation: errors before the result is rounded to the type of the output and after, against float64 on the same
    integers."""

    implementation: Implementation
    error: Array
    rounded: Array
    curve: Curve

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        one = self.implementation
        return {
            "implementation": one.name,
            "stated_max_error": one.error,
            "max_error": float(np.abs(self.error).max()),
            "rms_error": rms(self.error),
            "max_error_rounded": float(np.abs(self.rounded).max()),
            "rms_error_rounded": rms(self.rounded),
            "table_bits": one.table_bits,
            "per_lane": {"lut": round(one.lane.lut), "dsp": round(one.lane.dsp, 2), "bram36": round(one.lane.bram36, 2)},
        }


@dataclass(frozen=True)
class Study:
    """All implementations of a function. `stated` says what the stated errors bound."""

    function: str
    inputs: str
    output: str
    stated: str
    chosen: str
    measurements: list[Measurement] = field(default_factory=list)
    exact: Curve | None = None
    drawn: str = ""
    """What the picture shows, if not the function on these inputs."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        rows = [m.to_json() for m in self.measurements]
        return {"function": self.function, "inputs": self.inputs, "output": self.output, "stated": self.stated,
                "auto": self.chosen, "implementations": rows}  # fmt: skip


def rms(error: Array) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.square(error).mean()))


def study(function: str, bits: int, wanted: Sequence[str] = ()) -> Study:
    """Measure the implementations called `wanted` (all by default) of a function on inputs of 8 or 16 bits."""
    if bits not in (8, 16):
        raise ConfigError(f"--bits: needed 8 or 16, found {bits}")
    function = ALIASES.get(function, function)
    others: dict[str, Callable[[int], Study]] = {
        "softmax": _softmax,
        "layer_normalization": lambda bits: _normalization("layer_normalization", bits),
        "reciprocal": _reciprocal,
        "rms_normalization": lambda bits: _normalization("rms_normalization", bits),
    }
    if function in others:
        found = others[function](bits)
    elif find(function) is not None:
        found = _unary(function, bits)
    else:
        raise ConfigError(f"function: needed one of {', '.join(sorted([*FUNCTIONS, *others]))}, found {function!r}")
    names = [m.implementation.name for m in found.measurements]
    for name in wanted:
        if name not in names:
            raise ConfigError(f"--impl: needed all or one of {', '.join(names)} for {function} on {bits}-bit inputs, found {name!r}")
    kept = [m for m in found.measurements if not wanted or m.implementation.name in wanted]
    return Study(found.function, found.inputs, found.output, found.stated, found.chosen, kept, found.exact, found.drawn)


def _unary(name: str, bits: int) -> Study:
    """Every integer of the input: a byte in steps of 1/16, or s16 in steps of 1/2048."""
    function, op = find(name), OPERATORS["unary"]
    assert function is not None and isinstance(op, Unary)
    fraction = 4 if bits == 8 else 11
    q = np.arange(-(1 << (bits - 1)), 1 << (bits - 1), dtype=np.int64)
    x = q * 2.0**-fraction
    exact = function(x)
    y = TensorType(bits, True, np.asarray(float(np.abs(exact).max()) / (2 ** (bits - 1) - 1)))
    byte = TensorType(8, True, np.asarray(2.0**-4))
    word = TensorType(16, True, np.asarray(2.0**-11))

    def measure(implementation: Implementation) -> Measurement:
        # A table of all inputs reads the byte itself; the others read it as a number of 16 bits, as on the device.
        table = implementation.name == "table"
        type_, integers = (byte, q) if table else (word, q << (11 - fraction))
        node = Node("approx", "unary", ["x"], "y", {"function": name, "implementation": implementation.name})
        op.quantize(node, [type_], y)
        found = y.dequantize(op.golden(node, [integers[np.newaxis, np.newaxis]], [type_], y)[0, 0])
        value = exact if rescaled(function) else METHODS[implementation.name].evaluate(function, integers, 4 if table else 11)
        return Measurement(
            implementation, value - exact, found - np.clip(exact, *(y.scale * np.array(y.range))), Curve(x, value, value - exact)
        )

    node = Node("approx", "unary", ["x"], "y", {"function": name})
    all_of_them = op.candidates(node, None) if rescaled(function) else [implementation for _, implementation in methods(function)]
    candidates = [c for c in all_of_them if bits == 8 or c.name != "table"]
    if not candidates:
        raise ConfigError(f"--bits: needed 8 for {name}, which has a table of all 8-bit inputs only, found {bits}")
    chosen = choose(AUTO, candidates, op.target(node, y), name).name
    return Study(
        name,
        f"every s{bits} in steps of 2**-{fraction} ({x[0]:g} to {x[-1]:g})",
        f"s{bits} in steps of {float(y.scale):.3g}",
        "relative to the largest output" if function.degree else "before the rounding to the output",
        chosen,
        [measure(candidate) for candidate in candidates],
        Curve(x, exact, np.zeros_like(exact)),
    )


def _softmax(bits: int) -> Study:
    """Random rows, as stated in the result. The picture shows the exponential."""
    op = OPERATORS["softmax"]
    assert isinstance(op, Approximated)
    type_ = TensorType(bits, True, np.asarray(SOFTMAX_PEAK / (2 ** (bits - 1) - 1)))
    q = type_.quantize(np.random.default_rng(SEED).normal(0, SOFTMAX_DEVIATION, (1, ROWS, SOFTMAX_KEYS)))
    y = TensorType(16, True, np.asarray(2.0**-PROBABILITY_BITS))
    node = Node("approx", "softmax", ["x"], "y")
    exact = op.reference(node, [type_.dequantize(q)])
    d = np.arange(8 << FRACTION_BITS)
    power = 2.0 ** (-d / (1 << FRACTION_BITS))
    t = scores(q, *score_multiplier(float(type_.scale)))

    def measure(name: str) -> Measurement:
        one = Node("approx", "softmax", ["x"], "y", {"implementation": name})
        op.quantize(one, [type_], y)
        found = y.dequantize(op.golden(one, [q], [type_], y))
        p = exp2_negative(t.max(axis=-1, keepdims=True) - t, EXP2[name].rom)
        value = exp2_negative(d, EXP2[name].rom) / 2**PROBABILITY_BITS
        curve = Curve(-d / (1 << FRACTION_BITS), value, value - power)
        return Measurement(EXP2[name], p / p.sum(axis=-1, keepdims=True) - exact, found - exact, curve)

    return Study(
        "softmax",
        f"{ROWS} rows of {SOFTMAX_KEYS} normal random numbers, standard deviation {SOFTMAX_DEVIATION:g}, seed {SEED}, as s{bits} up to "
        f"{SOFTMAX_PEAK:g}",
        "probabilities, s16 in steps of 2**-15",
        "of the exponential, whose largest value is 1; measured: of the probabilities",
        choose(AUTO, list(EXP2.values()), op.target(node, y), "softmax").name,
        [measure(name) for name in EXP2],
        Curve(-d / (1 << FRACTION_BITS), power, np.zeros(d.size)),
        "the exponential of softmax",
    )


def _normalization(name: str, bits: int) -> Study:
    """Random rows, as stated in the result."""
    op = OPERATORS[name]
    type_ = TensorType(bits, True, np.asarray(NORM_PEAK / (2 ** (bits - 1) - 1)))
    q = type_.quantize(np.random.default_rng(SEED).normal(0, 1, (1, ROWS, NORM_CHANNELS)))
    node = Node("approx", name, ["x"], "y", {"epsilon": 1e-5}, {"gamma": np.ones(NORM_CHANNELS), "beta": np.zeros(NORM_CHANNELS)})
    exact = op.reference(node, [type_.dequantize(q)])
    op.quantize(node, [type_], type_)
    found = type_.dequantize(op.golden(node, [q], [type_], type_))
    # The same in steps so fine that the output hardly rounds.
    fine = TensorType(24, True, np.asarray(2.0**-16))
    again = Node("approx", name, ["x"], "y", {"epsilon": 1e-5}, {"gamma": np.ones(NORM_CHANNELS), "beta": np.zeros(NORM_CHANNELS)})
    again_quantized = _finely(op, again, type_, fine)
    value = fine.dequantize(op.golden(again_quantized, [q], [type_], fine))
    peak = float(np.abs(exact).max())
    v = np.arange(1 << 14, 1 << 16, 7, dtype=np.int64)
    mantissa, exponent = rsqrt(v)
    root = mantissa * 2.0 ** -(17.0 + exponent) * 256
    implementation = Implementation("rsqrt", peak * 2.0**-16 + 2.0**-16, len(RSQRT_TABLE.values) * RSQRT_TABLE.type.bits,
                                    _marginal(node, name, type_))  # fmt: skip
    x = v / 65536
    limits = type_.scale * np.array(type_.range)
    return Study(
        name,
        f"{ROWS} rows of {NORM_CHANNELS} standard normal random numbers, seed {SEED}, as s{bits} up to {NORM_PEAK:g}; gamma 1",
        f"s{bits} in steps of {float(type_.scale):.3g}",
        "before the rounding to the output",
        "rsqrt",
        [Measurement(implementation, value - exact, found - np.clip(exact, *limits), Curve(x, root, root - x**-0.5))],
        Curve(x, x**-0.5, np.zeros(x.size)),
        "1/sqrt(v), the variance brought to [1/4, 1)",
    )


def _finely(op: Any, node: Node, x: TensorType, y: TensorType) -> Node:
    """A node whose output is wider than the device has: quantized for 16 bits of the same scale."""
    op.quantize(node, [x], TensorType(16, True, y.scale))
    return node


def _marginal(node: Node, name: str, type_: TensorType) -> Resources:
    """What a lane adds to an engine: half the difference of two engines."""
    graph = Graph("approx", ["x"], ["y"], [node])
    for value in ("x", "y"):
        graph.add_value(value, (1, NORM_CHANNELS)).type = type_

    def engine(lanes: int) -> Resources:
        ctx = Lowering(graph, Design(lanes, rows=1), {"x": 0, "y": 0}, lambda key, make: 0)
        return OPERATORS[name].resources(OPERATORS[name].lower(node, ctx)[0].kernel)

    return times(engine(16) + times(engine(8), -1), 1 / 8)


def _reciprocal(bits: int) -> Study:
    """1/v of all sums of up to 17 bits, relative: what softmax divides by."""
    v = np.arange(1 << 16, 1 << 17, dtype=np.int64)
    x, exact = v / 65536, 65536 / v

    def measure(name: str) -> Measurement:
        one = DIVISIONS[name]
        multiplier, shift = one.scale(v, 1 << 16, 16)
        if name == "newton":
            mantissa, exponent = reciprocal(v)
            value = mantissa * 2.0 ** -(17.0 + exponent) * 65536
        else:
            value = exact
        relative = multiplier * 2.0**-shift * v - 1
        return Measurement(one, value / exact - 1, relative, Curve(x, value, value - exact))

    return Study(
        "reciprocal",
        "every integer in [2**16, 2**17), whatever --bits says",
        "the factor of a softmax, 15 to 17 bits",
        "relative, of the factor; lanes share one divider",
        "divide",
        [measure(name) for name in DIVISIONS],
        Curve(x, exact, np.zeros(x.size)),
    )


def plot(found: Study, path: Path) -> None:
    """Function and error of every implementation as a picture."""
    figure = new_figure(9, 8)
    above, below = figure.subplots(2, 1, sharex=True)
    assert found.exact is not None
    above.plot(found.exact.x, found.exact.y, color="black", linewidth=2.5, alpha=0.35, label="float64")
    for m in found.measurements:
        name = m.implementation.name + (" (auto)" if m.implementation.name == found.chosen else "")
        (line,) = above.plot(m.curve.x, m.curve.y, linewidth=1, label=name)
        below.plot(m.curve.x, np.maximum(np.abs(m.curve.error), FLOOR), linewidth=0.8, color=line.get_color(), label=name)
    above.set_title(found.drawn or f"{found.function}, inputs: {found.inputs}", fontsize=9)
    above.set_ylabel("value")
    below.set_ylabel("absolute error before the rounding to the output")
    below.set_yscale("log")
    below.set_ylim(bottom=FLOOR / 2)
    below.set_xlabel("x" if found.function != "softmax" else "score below the largest, log2 units")
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    save_figure(figure, path, 120)
