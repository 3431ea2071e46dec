"""unary: every input of 16 bits against float, C++ against golden."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attnc.golden import run_golden
from attnc.ir import Graph, GraphError
from attnc.ops import operator
from attnc.ops.base import Design, Lowering
from attnc.ops.functions import FUNCTIONS, erf
from attnc.ops.unary import ERROR_BOUNDS, interpolate, nodes, rom
from builder import Builder
from harness import assert_exact, random_feeds, simulate, tensor_type

EVERY = np.arange(-32768, 32768)
ROM_FUNCTIONS = sorted(ERROR_BOUNDS)


def unary_graph(shapes: list[tuple[int, int]], names: list[str], bits: int = 8, fraction_bits: int = 11) -> Graph:
    """A node per function and shape."""
    builder = Builder("unary")
    for name in names:
        for shape in shapes:
            x = tensor_type(16, 2.0**-fraction_bits)
            builder.add("unary", [(shape, x)], tensor_type(bits, 0.05 if bits == 8 else 6e-4), {"function": name})
    return builder.quantized()


def test_erf_against_libm() -> None:
    x = np.concatenate([np.random.default_rng(0).uniform(-7, 7, 20000), [0, -0.0, 1 / 64, 6, -6, 6.5, 40, -40]])
    assert np.abs(erf(x) - [math.erf(v) for v in x]).max() < 1e-13


def test_functions_against_their_definitions() -> None:
    x = np.random.default_rng(1).uniform(-12, 12, 2000)
    logistic = 1 / (1 + np.exp(-x))
    expected = {
        "gelu": [v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in x],
        "gelu_sigmoid": x / (1 + np.exp(-1.702 * x)),
        "gelu_tanh": x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "hard_sigmoid": np.clip((x + 3) / 6, 0, 1),
        "hard_swish": x * np.clip((x + 3) / 6, 0, 1),
        "identity": x,
        "relu": np.where(x > 0, x, 0),
        "sigmoid": logistic,
        "silu": x * logistic,
        "softplus": np.log1p(np.exp(x)),
        "tanh": (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1),
    }
    assert expected.keys() == FUNCTIONS.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(FUNCTIONS[name](x), values, atol=1e-12, err_msg=name)
    assert all(np.isfinite(FUNCTIONS[name]([-1e4, 1e4])).all() for name in FUNCTIONS)


@pytest.mark.parametrize("name", ROM_FUNCTIONS)
@pytest.mark.parametrize("fraction_bits", [8, 11, 15])
def test_every_input_is_within_the_bound(name: str, fraction_bits: int) -> None:
    found = interpolate(EVERY, FUNCTIONS[name], fraction_bits - 5) * 2.0 ** -(11 + fraction_bits)
    error = np.abs(found - FUNCTIONS[name](EVERY * 2.0**-fraction_bits))
    assert error.max() <= ERROR_BOUNDS[name]


@pytest.mark.parametrize("name", ROM_FUNCTIONS)
def test_table_follows_the_float_function(name: str) -> None:
    limit = FUNCTIONS[name].limit
    values = np.array(nodes(name)) / 65536
    assert np.abs(values - FUNCTIONS[name](np.linspace(-limit, limit, values.size))).max() <= 2**-16
    entries = np.array(rom(name).values)
    np.testing.assert_array_equal(entries >> 14, nodes(name)[:-1])
    np.testing.assert_array_equal((entries >> 14) + (entries & 0x3FFF) - 8192, nodes(name)[1:])


@pytest.mark.parametrize("bits", [8, 16])
def test_golden_is_near_float(bits: int) -> None:
    graph = unary_graph([(256, 256)], [*ROM_FUNCTIONS, "relu", "identity"], bits)
    feeds = {name: EVERY.reshape(1, 256, 256).astype(np.int16) for name in graph.inputs}
    for node in graph.nodes:
        found = run_golden(graph, feeds)[node.output]
        y, name = graph.type(node.output), node.attrs["function"]
        real = FUNCTIONS[name](feeds[node.inputs[0]] * 2.0**-11) / y.scale
        bound = 0.5 + ERROR_BOUNDS.get(name, 0) / y.scale + np.abs(real) * 2**-16
        assert (np.abs(found - np.clip(real, *y.range)) <= bound).all(), name


def test_cpp_equals_golden_for_every_input() -> None:
    graph = unary_graph([(256, 256)], [*ROM_FUNCTIONS, "relu", "identity"], 16)
    assert_exact(graph, {name: EVERY.reshape(1, 256, 256).astype(np.int16) for name in graph.inputs})


def test_cpp_equals_golden_for_shapes_and_positions_of_the_point() -> None:
    builder = Builder("shapes")
    for fraction_bits in (5, 8, 10, 15):
        for shape, name in (((1, 1), "sigmoid"), ((5, 33), "gelu"), ((7, 16), "softplus")):
            builder.add(
                "unary", [(shape, tensor_type(16, 2.0**-fraction_bits))], tensor_type(8, 0.01 + 0.2 / fraction_bits), {"function": name}
            )
    for name in ("relu", "identity"):
        builder.add("unary", [((9, 20), tensor_type(8, 0.3))], tensor_type(16, 0.001), {"function": name})
    graph = builder.quantized()
    feeds = random_feeds(graph, 4)
    assert_exact(graph, feeds, Design(8, 8, 4))
    assert_exact(graph, feeds, Design(4, 4, 4), types="ap")


def test_padding_is_zero_where_the_function_is_not() -> None:
    """A following layer_normalization adds up the padding lanes: it must see zeros there."""
    builder = Builder("chain")
    builder.add("unary", [((3, 5), tensor_type(16, 2.0**-11))], tensor_type(16, 1e-3), {"function": "sigmoid"})
    graph = builder.graph
    norm = Builder("norm")
    norm.add(
        "layer_normalization",
        [((3, 5), tensor_type(16))],
        tensor_type(16, 1e-3),
        {"epsilon": 1e-5},
        {"gamma": np.ones(5), "beta": np.zeros(5)},
    )
    node = norm.graph.nodes[0]
    node.name, node.inputs, node.output = "norm", ["n0.y"], "z"
    graph.add_value("z", (3, 5))
    graph.nodes.append(node)
    graph.outputs = ["z"]
    builder.types["z"] = tensor_type(16, 1e-3)
    graph = builder.quantized()
    assert_exact(graph, random_feeds(graph, 3))


def test_operand_type_and_errors() -> None:
    node = unary_graph([(1, 4)], ["gelu"]).nodes[0]
    fixed = operator(node).fixed_operand_type(node, 0)
    assert fixed is not None and fixed.short == "s16" and fixed.scale == 2**-11
    builder = Builder("scale")
    builder.add("unary", [((1, 4), tensor_type(16, 1e-3))], tensor_type(8, 0.1), {"function": "gelu"})
    with pytest.raises(GraphError, match=r"needs a scale of 2\*\*-5 to 2\*\*-15"):
        builder.quantized()
    with pytest.raises(GraphError, match="needs one of gelu"):
        builder.add("unary", [((1, 4), tensor_type(16))], tensor_type(8), {"function": "cosh"})


def test_a_planted_bug_is_caught() -> None:
    graph = unary_graph([(64, 64)], ["gelu"], 16)
    feeds = random_feeds(graph, 4)
    found = simulate(graph, feeds, patch={"unary.hpp": ("- (1 << 13))", "- (1 << 13) + 1)")})
    assert (found["n0.y"] != run_golden(graph, feeds)["n0.y"]).any()


def test_resources_count_a_table_per_lane() -> None:
    graph = unary_graph([(1, 16)], ["gelu", "relu"])
    ctx = Lowering(graph, Design(8, 8), dict.fromkeys(graph.values, 0), lambda key, make: 0)
    table, copy = (operator(node).resources(operator(node).lower(node, ctx)[0].kernel) for node in graph.nodes)
    assert table.bram36 == 4 and table.dsp == 24 and min(table.lut, table.ff) > 0
    assert copy.bram36 == 0 and copy.dsp == 8 and min(copy.lut, copy.ff) > 0
