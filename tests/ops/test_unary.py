"""unary: every implementation on every input against float64, C++ against golden."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attnc.golden import run_golden
from attnc.ir import Graph, GraphError, Node
from attnc.kernels.design import Design
from attnc.kernels.lowering import Lowering
from attnc.ops import operator, unary_chord, unary_delta
from attnc.ops.functions import FUNCTIONS, erf, find
from attnc.ops.unary import METHODS, methods, rescaled
from attnc.ops.unary_method import Method
from attnc.ops.unary_table import TableOf256
from attnc.weights import WeightFormat
from builder import Builder
from harness import assert_exact, quantized, random_feeds, simulate, tensor_type
from low_bit import grid_params

EVERY = np.arange(-32768, 32768)
CHANGES_OF_TYPE = [(name, "auto") for name in ("relu", "identity", "clip_-1_1", "clip_0_6", "clip_-inf_0.3", "clip_-0.7_inf", "clip_9_99")]
PAIRS = [(name, method.name) for name, function in FUNCTIONS.items() for method, _ in methods(function)]
CURVED = [(name, method) for name, method in PAIRS if method != "table"]


def unary_graph(shapes: list[tuple[int, int]], pairs: list[tuple[str, str]], bits: int = 8, fraction_bits: int = 11) -> Graph:
    """A node per function with its implementation, and shape; a table reads bytes in steps of 0.05."""
    builder = Builder("unary")
    for name, implementation in pairs:
        for shape in shapes:
            byte = implementation == "table"
            x = tensor_type(8, 0.05) if byte else tensor_type(16, 2.0**-fraction_bits)
            attrs = {"function": name, "implementation": implementation}
            builder.add(
                "unary", [((16, 16) if byte and shape == (256, 256) else shape, x)], tensor_type(bits, 0.05 if bits == 8 else 6e-4), attrs
            )
    return builder.quantized()


def every_input(graph: Graph) -> dict[str, np.ndarray]:
    """All integers of every input, once."""
    feeds = {}
    for name in graph.inputs:
        low, high = graph.type(name).range
        feeds[name] = np.arange(low, high + 1).reshape(1, *graph.value(name).shape).astype(graph.type(name).dtype)
    return feeds


def error_of(method: Method, name: str, fraction_bits: int) -> np.ndarray:
    """Before the rounding to the output; relative to the largest |f| where x has any scale."""
    function = find(name)
    assert function is not None
    exact = function(EVERY * 2.0**-fraction_bits)
    size = np.abs(exact).max() if function.degree else 1.0
    result: np.ndarray = (method.evaluate(function, EVERY, fraction_bits) - exact) / size
    return result


def test_erf_against_libm() -> None:
    x = np.concatenate([np.random.default_rng(0).uniform(-7, 7, 20000), [0, -0.0, 1 / 64, 6, -6, 6.5, 40, -40]])
    assert np.abs(erf(x) - [math.erf(v) for v in x]).max() < 1e-13


def test_functions_against_their_definitions() -> None:
    x = np.random.default_rng(1).uniform(-12, 12, 2000)
    logistic = 1 / (1 + np.exp(-x))
    expected = {
        "elu": np.where(x < 0, np.exp(np.minimum(x, 0)) - 1, x),
        "erf": [math.erf(v) for v in x],
        "exp": [math.exp(v) for v in x],
        "gelu": [v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in x],
        "gelu_sigmoid": x / (1 + np.exp(-1.702 * x)),
        "gelu_sigmoid_bf16": x / (1 + np.exp(-1.703125 * x)),
        "gelu_tanh_bf16": x / (1 + np.exp(-2 * 0.796875 * (x + 0.044677734375 * x**3))),
        "gelu_tanh": x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "hard_sigmoid": np.clip((x + 3) / 6, 0, 1),
        "hard_sigmoid_0.2": np.clip(0.2 * x + 0.5, 0, 1),
        "hard_swish": x * np.clip((x + 3) / 6, 0, 1),
        "identity": x,
        "leaky_relu": np.where(x > 0, x, 0.01 * x),
        "mish": x * np.tanh(np.log1p(np.exp(x))),
        "relu": np.where(x > 0, x, 0),
        "relu_squared": np.where(x > 0, x * x, 0),
        "sigmoid": logistic,
        "silu": x * logistic,
        "softplus": np.log1p(np.exp(x)),
        "softsign": [v / (1 + abs(v)) for v in x],
        "tanh": (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1),
    }
    assert expected.keys() == FUNCTIONS.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(FUNCTIONS[name](x), values, atol=1e-12, err_msg=name)
    assert all(np.isfinite(FUNCTIONS[name]([-1e4, 1e4])).all() for name in FUNCTIONS)


def test_what_functions_say_of_themselves() -> None:
    x = np.linspace(0, 40, 4001)
    for name, function in FUNCTIONS.items():
        if function.degree:
            np.testing.assert_allclose(function(3.7 * x), 3.7**function.degree * function(x), atol=1e-9, err_msg=name)
            np.testing.assert_allclose(function(-3.7 * x), 3.7**function.degree * function(-x), atol=1e-9, err_msg=name)
        if function.delta == "relu":
            np.testing.assert_allclose(x - function(x), -function(-x), atol=1e-12, err_msg=name)
        if function.delta == "step":
            np.testing.assert_allclose(function.ends[1] - function(x), function(-x) - function.ends[0], atol=1e-12, err_msg=name)
            assert abs(function(np.array(40.0)) - function.ends[1]) < 1e-12


def test_functions_with_a_parameter_in_their_name() -> None:
    x = np.linspace(-20, 20, 401)
    cases = {
        "leaky_relu_0.3": np.where(x < 0, 0.3 * x, x), "leaky_relu_-1": np.abs(x), "hard_sigmoid_0.25": np.clip(0.25 * x + 0.5, 0, 1),
        "elu_1.5": np.where(x < 0, 1.5 * np.expm1(x), x), "clip_-1_2.5": np.minimum(np.maximum(x, -1), 2.5),
        "clip_-inf_7": np.minimum(x, 7), "clip_0_6": np.clip(x, 0, 6),
    }  # fmt: skip
    for name, expected in cases.items():
        function = find(name)
        assert function is not None and find(name) is function
        np.testing.assert_allclose(function(x), expected, atol=1e-12)
        for method, implementation in methods(function):
            assert np.abs(error_of(method, name, 11)).max() <= implementation.error
    refused = ("clip_1_1", "clip_2_1", "clip_1", "clip", "clip_nan_1", "clip__1", "leaky_relu_1.5", "elu_2.5")
    for name in (*refused, "leaky_relu_x", "hard_sigmoid_0.01", "gelu_0.5", "cosh", "leaky_relu_nan"):
        assert find(name) is None, name


@pytest.mark.parametrize(("name", "method"), CURVED, ids=["-".join(pair) for pair in CURVED])
def test_every_input_is_within_the_stated_error(name: str, method: str) -> None:
    implementation = METHODS[method].implementation(FUNCTIONS[name])
    assert implementation is not None
    errors = [error_of(METHODS[method], name, fraction_bits) for fraction_bits in (8, 11, 15)]
    largest = max(np.abs(error).max() for error in errors)
    # Stated figures are bounds, and not far from what is measured.
    assert implementation.error / 2 <= largest <= implementation.error or largest == implementation.error == 0
    print(f"{name} {method}: max {largest:.2e}, rms {np.sqrt(np.square(errors[1]).mean()):.2e}, {implementation.table_bits} bits")


def test_errors_are_no_larger_than_what_others_reach() -> None:
    """ReLU minus delta in steps of 1/8, 1/16 and 1/32 (Edge-MoE: 177 entries to 5.5), and the quadratic of I-BERT."""
    for name, published in (("delta8", 1.6e-3), ("delta16", 3.9e-4), ("delta32", 9.7e-5), ("polynomial", 1.8e-2)):
        assert np.abs(error_of(METHODS[name], "gelu", 11)).max() <= published
    assert len(unary_delta.nodes("gelu", 5)) <= 177


def test_zero_stays_zero_and_tails_are_exact() -> None:
    for name, method in CURVED:
        function = FUNCTIONS[name]
        found = METHODS[method].evaluate(function, np.array([0, -32768, 32767]), 8)
        exact = function(np.array([0, -128.0, 32767 / 256]))
        assert abs(found[0] - exact[0]) <= (2**-16 if method != "polynomial" else 2**-15), (name, method)
        np.testing.assert_allclose(found[1:], exact[1:], rtol=6e-4, atol=2e-5, err_msg=f"{name} {method}")


@pytest.mark.parametrize("name", sorted(unary_chord.ERROR_BOUNDS))
def test_chords_follow_the_float_function(name: str) -> None:
    limit, nodes = FUNCTIONS[name].limit, unary_chord.nodes(name)
    values = np.array(nodes) / 65536
    assert np.abs(values - FUNCTIONS[name](np.linspace(-limit, limit, values.size))).max() <= 2**-16
    entries = np.array(unary_chord.rom(name).values)
    np.testing.assert_array_equal(entries >> 14, nodes[:-1])
    np.testing.assert_array_equal((entries >> 14) + (entries & 0x3FFF) - 8192, nodes[1:])


@pytest.mark.parametrize("name", sorted(unary_delta.ERROR_BOUNDS))
def test_deltas_follow_the_float_function(name: str) -> None:
    for segment_bits, bound in zip((3, 4, 5), unary_delta.ERROR_BOUNDS[name], strict=True):
        nodes = np.array(unary_delta.nodes(name, segment_bits))
        exact = unary_delta.difference(FUNCTIONS[name], np.arange(nodes.size) / (1 << segment_bits))
        assert np.abs(nodes / 65536 - exact).max() <= bound and nodes[-1] == 0 and abs(exact[0] * 65536 - nodes[0]) <= 0.5
        entries = np.array(unary_delta.rom(name, segment_bits).values)
        np.testing.assert_array_equal(entries >> 16, nodes[:-1])
        np.testing.assert_array_equal((entries >> 16) + (entries & 0xFFFF) - 32768, nodes[1:])


@pytest.mark.parametrize("bits", [8, 16])
def test_golden_is_near_float(bits: int) -> None:
    graph = unary_graph([(256, 256)], [*PAIRS, *CHANGES_OF_TYPE], bits)
    feeds = every_input(graph)
    found = run_golden(graph, feeds)
    for node in graph.nodes:
        x, y, function = graph.type(node.inputs[0]), graph.type(node.output), find(node.attrs["function"])
        assert function is not None
        real = function(x.dequantize(feeds[node.inputs[0]])) / y.scale
        stated = 0.0 if rescaled(function) else METHODS[node.attrs["implementation"]].implementation(function).error  # type: ignore[union-attr]
        size = np.abs(real * y.scale).max() if function.degree else 1.0
        bound = 0.5 + stated * size / y.scale + np.abs(real) * 2**-16
        assert (np.abs(found[node.output] - np.clip(real, *y.range)) <= bound + 1e-9).all(), node.attrs


def test_table_is_the_nearest_output_for_every_byte() -> None:
    graph = unary_graph([(256, 256)], [(name, "table") for name in FUNCTIONS if not rescaled(FUNCTIONS[name])], 8)
    found = run_golden(graph, every_input(graph))
    for node in graph.nodes:
        y = graph.type(node.output)
        real = FUNCTIONS[node.attrs["function"]](np.arange(-128, 128) * 0.05) / y.scale
        error = found[node.output].ravel() - np.clip(real, *y.range)
        assert np.abs(error).max() <= 0.5 + 1e-9, node.attrs


def test_cpp_equals_golden_for_every_input() -> None:
    graph = unary_graph([(256, 256)], [*PAIRS, *CHANGES_OF_TYPE], 16)
    assert_exact(graph, every_input(graph))


def test_cpp_equals_golden_for_shapes_and_positions_of_the_point() -> None:
    builder = Builder("shapes")
    cases = [((1, 1), "sigmoid", "chord"), ((5, 33), "gelu", "chord"), ((7, 16), "softplus", "delta32"), ((3, 5), "tanh", "delta8")]
    cases += [((4, 9), "gelu", "delta16"), ((2, 20), "silu", "polynomial"), ((3, 7), "hard_sigmoid", "polynomial")]
    for fraction_bits in (5, 8, 10, 15):
        for shape, name, implementation in cases:
            x = tensor_type(16, 2.0**-fraction_bits)
            attrs = {"function": name, "implementation": implementation}
            builder.add("unary", [(shape, x)], tensor_type(8, 0.01 + 0.2 / fraction_bits), attrs)
    for name in ("relu", "identity", "leaky_relu", "relu_squared", "leaky_relu_0.25"):
        attrs = {"function": name, "implementation": "auto" if name in ("relu", "identity") else "polynomial"}
        builder.add("unary", [((9, 20), tensor_type(16, 0.003))], tensor_type(16, 0.001), attrs)
    for shape, scale in (((3, 5), 0.3), ((1, 1), 0.01), ((9, 40), 0.04)):
        builder.add("unary", [(shape, tensor_type(8, scale))], tensor_type(16, 0.001), {"function": "sigmoid"})
    graph = builder.quantized()
    feeds = random_feeds(graph, 4)
    assert_exact(graph, feeds, Design.of(8, 8, 4))
    assert_exact(graph, feeds, Design.of(4, 4, 4), types="ap")


def test_padding_is_zero_where_the_function_is_not() -> None:
    """A following layer_normalization adds up the padding lanes: it must see zeros there."""
    builder, norm = Builder("chains"), Builder("norm")
    y = tensor_type(16, 1e-3)
    params = {"gamma": np.ones(5), "beta": np.zeros(5)}
    for implementation in ("chord", "delta8", "polynomial", "table"):
        x = tensor_type(8, 0.05) if implementation == "table" else tensor_type(16, 2.0**-11)
        name = builder.add("unary", [((3, 5), x)], y, {"function": "sigmoid", "implementation": implementation})
        norm.add("layer_normalization", [((3, 5), y)], y, {"epsilon": 1e-5}, params)
        node = norm.graph.nodes[-1]
        node.name, node.inputs, node.output = f"{name}.norm", [f"{name}.y"], f"{name}.z"
        builder.graph.add_value(node.output, (3, 5))
        builder.types[node.output] = y
    builder.graph.nodes += norm.graph.nodes
    builder.graph.outputs = [node.output for node in norm.graph.nodes]
    graph = builder.quantized()
    assert_exact(graph, random_feeds(graph, 3))


@pytest.mark.parametrize("gate", ["silu", "gelu"])
def test_gated_product_of_words(gate: str) -> None:
    """f(a) * b, the heart of SwiGLU and GeGLU, with s16 between: errors add up as their bounds say."""
    builder = Builder("gated")
    a, b, g, y = tensor_type(16, 2.0**-11), tensor_type(16, 3e-4), tensor_type(16, 16 / 32767), tensor_type(16, 2e-3)
    name = builder.add("unary", [((64, 64), a)], g, {"function": gate})
    graph = builder.graph
    product = Builder("product")
    product.add("mul", [((64, 64), g), ((64, 64), b)], y)
    node = product.graph.nodes[0]
    node.name, node.inputs, node.output = "gate", [f"{name}.y", "b"], "z"
    graph.add_value("b", (64, 64))
    graph.add_value("z", (64, 64))
    graph.inputs.append("b")
    graph.nodes.append(node)
    graph.outputs = ["z"]
    builder.types |= {"b": b, "z": y}
    graph = builder.quantized()
    feeds = random_feeds(graph, 8)
    assert_exact(graph, feeds)
    left, right = (graph.type(n).dequantize(feeds[n]) for n in (f"{name}.0", "b"))
    exact = FUNCTIONS[gate](left) * right
    found = y.dequantize(run_golden(graph, feeds)["z"])
    first = METHODS[graph.nodes[0].attrs["implementation"]].implementation(FUNCTIONS[gate])
    assert first is not None
    unary_error = first.error + float(g.scale) / 2 + np.abs(FUNCTIONS[gate](left)) * 2**-17
    bound = unary_error * np.abs(right) + float(y.scale) / 2 + np.abs(exact) * 2**-16
    assert (np.abs(found - np.clip(exact, *(y.scale * np.array(y.range)))) <= bound).all()


def test_operand_types() -> None:
    node = unary_graph([(1, 4)], [("gelu", "auto")]).nodes[0]
    op = operator(node)
    fixed = op.fixed_operand_type(node, 0)
    assert fixed is not None and fixed.short == "s16" and fixed.scale == 2**-11 and op.operand_bits(node, 0) == 16
    for attrs in ({"function": "gelu", "implementation": "table"}, {"function": "gelu", "input_bits": 8}):
        node.attrs = attrs
        assert op.fixed_operand_type(node, 0) is None and op.operand_bits(node, 0) == 8
    node.attrs = {"function": "relu_squared"}
    assert op.fixed_operand_type(node, 0) is None and op.operand_bits(node, 0) == 16


def test_auto_takes_the_cheapest_that_is_good_enough() -> None:
    builder = Builder("auto")
    word, byte = tensor_type(16, 2.0**-11), tensor_type(8, 0.05)
    for x, y, attrs in (
        (word, tensor_type(8, 0.05), {}),
        (word, tensor_type(16, 3e-4), {}),
        (word, tensor_type(16, 1e-6), {}),
        (word, tensor_type(16, 1e-6), {"error_target": 5e-4}),
        (byte, tensor_type(8, 0.05), {}),
    ):
        builder.add("unary", [((1, 4), x)], y, {"function": "gelu", **attrs})
    builder.add("unary", [((1, 4), word)], tensor_type(8, 0.05), {"function": "elu"})
    builder.add("unary", [((1, 4), word)], tensor_type(8, 0.05), {"function": "relu_squared"})
    found = [node.attrs["implementation"] for node in builder.quantized().nodes]
    assert found == ["delta8", "delta32", "delta32", "delta16", "table", "chord", "polynomial"]


@pytest.mark.parametrize(
    ("x", "attrs", "message"),
    [
        (tensor_type(16, 1e-3), {"function": "gelu"}, r"needs a scale of 2\*\*-5 to 2\*\*-15"),
        (tensor_type(16, 2.0**-11), {"function": "gelu", "implementation": "table"}, "needs one of the implementations auto, delta8"),
        (tensor_type(16, 2.0**-11), {"function": "elu", "implementation": "delta8"}, "needs one of the implementations auto, chord"),
        (tensor_type(16), {"function": "cosh"}, "needs one of elu, hard_sigmoid"),
    ],
)
def test_impossible_nodes_are_refused(x: object, attrs: dict[str, str], message: str) -> None:
    builder = Builder("bad")
    with pytest.raises(GraphError, match=message):
        builder.add("unary", [((1, 4), x)], tensor_type(8, 0.1), attrs)  # type: ignore[list-item]
        builder.quantized()


def test_planted_bugs_are_caught() -> None:
    bugs = {
        "chord": ("- (1 << 13))", "- (1 << 13) + 1)"),
        "delta32": ("- (1 << 15))", "- (1 << 15) + 1)"),
        "polynomial": ("AccT(side.c1))", "AccT(side.c1) + 64)"),
        "table": ("+ 128)", "+ 127)"),
    }
    graph = unary_graph([(64, 64)], [("gelu", implementation) for implementation in bugs], 16)
    feeds = random_feeds(graph, 4)
    found = simulate(graph, feeds, patch={METHODS[name].network.header: bug for name, bug in bugs.items()})
    for name, expected in run_golden(graph, feeds).items():
        assert (found[name] != expected).any(), name


def test_a_bug_in_the_highest_bits_of_a_value_is_caught() -> None:
    graph = unary_graph([(64, 64)], [("gelu", "delta8")], 16)
    feeds = random_feeds(graph, 4)
    found = simulate(graph, feeds, types="ap", patch={"fixedpoint.hpp": ("ProductT(upper) << LOW", "ProductT(upper) << 1")})
    assert any((found[name] != expected).any() for name, expected in run_golden(graph, feeds).items())


def test_resources_count_a_table_per_lane() -> None:
    graph = unary_graph([(1, 16)], [("gelu", "chord"), ("gelu", "delta16"), ("gelu", "polynomial"), ("gelu", "table"), ("relu", "auto")])
    ctx = Lowering(graph, Design.of(8, 8), dict.fromkeys(graph.values, 0), lambda key, make: 0)
    chord, delta, polynomial, table, copy = (operator(node).resources(operator(node).lower(node, ctx)[0].kernel) for node in graph.nodes)
    assert (chord.bram36, chord.dsp) == (4, 16) and (delta.bram36, delta.dsp) == (0, 16) and (table.bram36, table.dsp) == (0, 0)
    assert polynomial.bram36 == 0 and polynomial.dsp >= 32 and (copy.bram36, copy.dsp) == (0, 8)
    assert all(min(found.lut, found.ff) > 0 for found in (chord, delta, polynomial, table, copy))


def test_engines_of_tables_and_polynomials_serve_every_function() -> None:
    graph = unary_graph([(1, 16)], [(name, method) for name, method in PAIRS if method in ("table", "polynomial")])
    ctx = Lowering(graph, Design.of(8, 8), dict.fromkeys(graph.values, 0), lambda key, make: 0)
    assert len({operator(node).lower(node, ctx)[0].kernel.key for node in graph.nodes}) == 2
    assert len(graph.nodes) > 20 and isinstance(METHODS["table"], TableOf256)


@pytest.mark.parametrize("function", ["clip_0.5_inf", "clip_-inf_-0.25"])
def test_padding_is_zero_where_no_value_is(function: str) -> None:
    """Binary weights and sums over channels take in the lanes beyond the last channel."""
    rng = np.random.default_rng(1)
    graph = Graph("clipped", inputs=["x"], outputs=["z", "n"])
    for name, channels in (("x", 5), ("y", 5), ("z", 6), ("n", 5)):
        graph.add_value(name, (3, channels))
    graph.nodes.append(Node("clip", "unary", ["x"], "y", {"function": function}))
    graph.nodes.append(
        Node("binary", "linear", ["y"], "z", {"weights": "binary2"}, grid_params(WeightFormat.parse("binary2", 0), 6, 5, rng, False))
    )
    graph.nodes.append(Node("norm", "layer_normalization", ["y"], "n", {"epsilon": 1e-5}, {"gamma": np.ones(5), "beta": np.zeros(5)}))
    quantized(graph, {"x": tensor_type(8, 0.02), "y": tensor_type(8, 0.02), "z": tensor_type(16, 1e-3), "n": tensor_type(8, 0.03)})
    assert_exact(graph, random_feeds(graph, 3), Design.of(8, 8, 4, 1, tables=8, columns=8))
