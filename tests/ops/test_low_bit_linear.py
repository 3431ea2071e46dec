"""linear with few bits per weight: both engines against golden, golden against the plain sum, bytes in memory."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attnc.errors import AttncError
from attnc.fixedpoint import bits_for
from attnc.golden import run_golden
from attnc.ir import Graph, GraphError, Node
from attnc.kernels.design import Design, LookupNumbers
from attnc.kernels.lowering import Lowering
from attnc.kernels.resources import Resources
from attnc.ops import lookup, operator
from attnc.ops.linear import dsp_layout
from attnc.ops.linear_weights import folded_weight
from attnc.ops.packing import payload
from attnc.resources import data_path
from attnc.verify.simulator import ap_include
from harness import assert_exact, quantized, random_feeds, simulate, tensor_type
from low_bit import Spec, low_bit_graph

INTEGERS = ("int8", "int6", "int5", "int4", "int3", "int2")
BINARY = ("binary2", "binary3", "binary4")
ENGINES = [(name, engine) for name in (*INTEGERS, "ternary") for engine in ("dsp", "lookup")] + [(name, "lookup") for name in BINARY]
SHAPES = [(1, 1, 1), (3, 64, 48), (5, 33, 47), (2, 200, 70)]


def every_format() -> list[Spec]:
    """Each format on each of its engines: a shape of its own and a group size of its own, and without groups."""
    specs: list[Spec] = []
    for i, (name, engine) in enumerate(ENGINES):
        specs.append((name, 0, SHAPES[i % 4], engine))
        specs.append((name, (32, 64, 128)[i % 3], (1 + i % 4, 150 + 37 * (i % 5), 20 + 13 * (i % 4)), engine))
    specs += [("ternary", size, (3, 300, 33), "lookup") for size in (0, 16, 32, 64, 128)]
    specs += [("ternary", size, (2, tiles * 16, 40), "dsp") for tiles, size in ((1, 0), (2, 0), (4, 0), (5, 32))]
    return specs


DESIGNS = [
    Design.of(16, 16, 2, 4),
    Design.of(16, 32, 64, 4, tables=48, columns=32, group=5, depth=8),
    Design.of(8, 16, 4, 4, tables=16, columns=8, depth=64, rows_at_once=3),
    Design.of(4, 4, 3, 4, tables=12, columns=4, group=3, depth=20, rows_at_once=2),
]


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_cpp_equals_golden(design: Design) -> None:
    graph = low_bit_graph(every_format())
    assert_exact(graph, random_feeds(graph, 3), design)


@pytest.mark.parametrize("lanes", [1, 2])
def test_few_lanes(lanes: int) -> None:
    """As a rotary embedding with halves of 2 channels asks for."""
    formats = [("ternary", 0, "lookup"), ("int3", 0, "lookup"), ("binary2", 32, "lookup"), ("int5", 0, "dsp"), ("ternary", 32, "dsp")]
    graph = low_bit_graph([(name, size, (3, 64 if size else 11, 9), engine) for name, size, engine in formats])
    assert_exact(graph, random_feeds(graph, 3), Design.of(lanes, 2, 2, 1, tables=2 * lanes, columns=4 * lanes))


def test_extremes() -> None:
    """Weights, multipliers and activations at the ends of their ranges; outputs of 16 bits and of 8, which saturate."""
    specs: list[Spec] = [(name, size, (2, 600, 32), engine) for name, engine in ENGINES for size in (0, 128)]
    wide = low_bit_graph(specs, extreme=True, bits=16)
    assert_exact(wide, random_feeds(wide, 3), Design.of(16, 32, 4, tables=32))
    narrow = low_bit_graph([("ternary", 0, (2, 600, 32), "lookup"), ("int8", 128, (2, 600, 32), "dsp")], extreme=True)
    assert_exact(narrow, random_feeds(narrow, 3), Design.of(16, 32, 4, tables=32))


@pytest.mark.parametrize("group", [3, 5])
def test_ap_types_equal_golden(group: int) -> None:
    names = [("ternary", "lookup")] if group == 5 else [e for e in ENGINES if e[0] in ("int8", "int3", "ternary", "binary2")]
    specs: list[Spec] = [(name, size, (2, 70, 19), engine) for name, engine in names for size in (0, 32)]
    graph = low_bit_graph(specs, extreme=True)
    assert_exact(graph, random_feeds(graph, 3), Design.of(8, 8, 4, tables=8, columns=8, group=group, depth=32, rows_at_once=3), types="ap")


def test_golden_is_the_plain_sum() -> None:
    """In exact integers, element by element: multiplier times q times x, added up."""
    specs: list[Spec] = [("int4", 32, (3, 70, 5), "dsp"), ("binary3", 64, (3, 70, 5), "lookup"), ("ternary", 0, (3, 70, 5), "lookup")]
    graph = low_bit_graph(specs)
    before = low_bit_graph(specs, bits=16)
    feeds = random_feeds(graph, 2)
    for i, (name, size, (_, k, _), _) in enumerate(specs):
        p = graph.nodes[i].params
        q = p["weight"].astype(object)
        factor = np.ones((5, 1), object) if "group_multiplier" not in p else p["group_multiplier"].astype(object)
        groups = [c // size if size else 0 for c in range(k)]
        whole = q * factor[..., groups]
        whole = whole.sum(axis=0) if name.startswith("binary") else whole
        acc = feeds[f"x{i}"].astype(object) @ whole.T + p["bias"]
        real = acc * (0.02 * p["weight_scale"])
        np.testing.assert_allclose(run_golden(before, feeds)[f"y{i}"] * 3e-4, np.clip(real.astype(float), -9.83, 9.83), atol=4e-4)


def test_accumulator_holds_every_plane_on_its_way() -> None:
    node = low_bit_graph([("int8", 128, (1, 40000, 2), "lookup")], extreme=True).nodes[0]
    p = node.params
    assert node.attrs["acc_bits"] >= bits_for(40000 * 255 * 127 * 128 + int(np.abs(p["bias"]).max()))


@pytest.mark.parametrize(
    ("spec", "header", "old", "new"),
    [
        ("int3 dsp", "linear.hpp", "k_group == 0 ? scaled", "in_group == 0 ? scaled"),
        ("ternary dsp", "linear.hpp", "UInt<8>(unit) >> (2 * tile)", "UInt<8>(unit) >> 2"),
        ("ternary lookup", "lookup_linear.hpp", "seen_first = first_visit;", "seen_first = true;"),
        ("int3 lookup", "lookup_linear.hpp", "planes > 1 && plane == 0", "planes > 1 && plane == 1"),
        ("binary2 lookup", "lookup_linear.hpp", "seen_group * call.planes + plane", "seen_group * call.planes"),
    ],
)
def test_a_planted_bug_is_caught(spec: str, header: str, old: str, new: str) -> None:
    name, engine = spec.split()
    graph = low_bit_graph([(name, 32, (3, 200, 20), engine)])
    feeds = random_feeds(graph, 2)
    found = simulate(graph, feeds, Design.of(8, 8, 4, tables=8, columns=8), patch={header: (old, new)})
    assert (found["y0"] != run_golden(graph, feeds)["y0"]).any()


PROMISES = [("ternary", 3, 1.67), ("ternary", 5, 1.67), *((f"int{b}", 3, float(b)) for b in (2, 3, 4, 5, 6, 8)), ("binary3", 3, 3.0)]


@pytest.mark.parametrize(
    ("name", "group", "most", "engine"),
    [(*promise, engine) for promise in PROMISES for engine in ("dsp", "lookup") if (promise[0], engine) != ("binary3", "dsp")],
)
@pytest.mark.parametrize(("n", "k"), [(1536, 4096), (4096, 1536)])
def test_packed_bytes_are_what_the_format_promises(name: str, group: int, most: float, n: int, k: int, engine: str) -> None:
    graph = low_bit_graph([(name, 0, (1, k, n), engine)])
    node, design = graph.nodes[0], Design.of(16, 16, group=group)
    ctx = Lowering(graph, design, {}, lambda key, make: 0)
    layout = dsp_layout(node, ctx) if engine == "dsp" else lookup.plan(node, ctx.engine(node, LookupNumbers), k // 16, n // 16).layout
    total = sum(map(len, payload(node, layout)))
    assert total == layout.total_words(n, k // 16) * 16
    assert 8 * (total - n * (8 + layout.scales)) / (n * k) <= most


def test_folding_is_shared_with_the_passes() -> None:
    rng = np.random.default_rng(0)
    node = Node("n", "linear", ["x"], "y", params={"weight": rng.normal(size=(3, 4)), "bias": np.zeros(3)})
    x = tensor_type(8, np.array([0.1, 0.2, 0.4, 0.05]))
    real = rng.integers(-128, 128, (5, 4))
    np.testing.assert_allclose(real * x.scale @ node.params["weight"].T, 0.4 * (real @ folded_weight(node, x).T))


def given(**changes: np.ndarray) -> Graph:
    """A node of int4 with a group size of 32, some parameter replaced."""
    graph = Graph("given", inputs=["x"], outputs=["y"])
    graph.add_value("x", (2, 40))
    graph.add_value("y", (2, 3))
    params = {"weight_q": np.full((3, 40), 7, np.int8), "weight_unit": np.ones(3) / 100, "weight_multiplier": np.full((3, 2), 9)}
    attrs = {"weights": "int4", "group_size": 32, **{k: v for k, v in changes.items() if isinstance(v, str)}}
    arrays = {**params, "bias": np.zeros(3), **{k: v for k, v in changes.items() if not isinstance(v, str)}}
    graph.nodes.append(Node("n", "linear", ["x"], "y", attrs, arrays))
    return quantized(graph, {"x": tensor_type(8, 0.1), "y": tensor_type(8, 1.0)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_q": np.full((3, 40), 8, np.int8)}, "are not int4"),
        ({"weight_q": np.zeros((3, 40), np.int64)}, "int8"),
        ({"weight_multiplier": np.full((3, 1), 9)}, "needed shape"),
        ({"weight_multiplier": np.full((3, 2), 256)}, "0 to 255"),
        ({"weight_unit": np.array([1.0, np.nan, 1.0])}, "finite"),
        ({"weights": "int7"}, "int8, int6"),
    ],
)
def test_wrong_weights_are_refused(changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(AttncError, match=message):
        given(**changes)


def test_an_engine_that_cannot_serve_is_refused() -> None:
    graph = low_bit_graph([("binary2", 32, (1, 40, 4), "dsp")])
    with pytest.raises(AttncError, match="run on the engine lookup"):
        simulate(graph, random_feeds(graph, 1))


def test_a_bias_far_above_its_weights() -> None:
    """The scale of such a channel grows until its bias fits; its weights shrink, down to nothing."""
    graph = low_bit_graph([(name, 32, (2, 40, 4), "lookup") for name in ("int4", "ternary", "binary2")])
    for i, node in enumerate(graph.nodes):
        params = {"weight_q": node.params["weight"], "weight_unit": np.array([1e-3, 1e-13, 1e-10, 1e-300])}
        params["weight_multiplier"] = np.full(node.params["group_multiplier"].shape, 200)
        node.params = {**params, "bias": np.array([1.0, 1.0, -2.0, 3.0])}
        operator(node).quantize(node, [graph.type(f"x{i}")], graph.type(f"y{i}"))
        y = run_golden(graph, {f"x{j}": np.zeros((1, 2, 40), np.int8) for j in range(3)})[f"y{i}"]
        np.testing.assert_array_equal(y[0, 0], [20, 20, -40, 60])
    assert_exact(graph, random_feeds(graph, 3))


def test_costs_are_known_for_each_engine() -> None:
    graph = low_bit_graph([("ternary", 0, (4, 1536, 256), "lookup"), ("binary2", 64, (4, 1536, 256), "lookup")])
    ctx = Lowering(graph, Design.of(), dict.fromkeys(graph.values, 0), lambda key, make: 0)
    costs: list[dict[str, Resources]] = []
    for node in graph.nodes:
        costs.append({})
        for engine in operator(node).engines(node):
            calls = operator(node).lower(replace(node, attrs={**node.attrs, "engine": engine}), ctx)
            assert sum(call.span for call in calls) > 0
            costs[-1][engine] = operator(node).resources(calls[0].kernel)
    assert [set(cost) for cost in costs] == [{"dsp", "lookup"}, {"lookup"}]
    for used in (resources for cost in costs for resources in cost.values()):
        assert used.lut > 0 and used.ff > 0 and used.dsp > 0 and used.bram36 > 0
    assert costs[0]["lookup"].dsp < costs[0]["dsp"].dsp


def test_formats_without_a_quantizer_are_refused() -> None:
    graph = Graph("none", inputs=["x"], outputs=["y"])
    graph.add_value("x", (1, 4))
    graph.add_value("y", (1, 2))
    graph.nodes.append(Node("n", "linear", ["x"], "y", {"weights": "int4"}, {"weight": np.ones((2, 4)), "bias": np.zeros(2)}))
    with pytest.raises(AttncError, match="need a quantizer"):
        quantized(graph, {"x": tensor_type(8, 0.1), "y": tensor_type(8, 1.0)})


def test_lanes_that_straddle_groups_are_refused() -> None:
    graph = low_bit_graph([("int4", 32, (1, 64, 4), "dsp")])
    with pytest.raises(GraphError, match="do not divide"):
        simulate(graph, random_feeds(graph, 1), Design.of(64, 64))


def test_two_products_in_one_multiplication_are_exact() -> None:
    """(a * 2**18 + b) * w in 27 x 18 bits, for every a, b and w of 8 bits: the low 18 bits are b * w, what they borrowed goes back."""
    a = np.arange(-128, 128, dtype=np.int64)
    packed = (a[:, None] << 18) + a
    assert packed.min() >= -(1 << 26) and packed.max() < 1 << 26
    for w in range(-128, 128):
        product = packed * w
        assert np.abs(product).max() < 1 << 47
        borrowed = (product >> 17) & 1
        np.testing.assert_array_equal((product >> 18) + borrowed, np.broadcast_to(a[:, None] * w, product.shape))
        np.testing.assert_array_equal((product & ((1 << 18) - 1)) - (borrowed << 18), np.broadcast_to(a * w, product.shape))


@pytest.mark.parametrize("types", ["native", "ap"])
def test_dsp_pair_is_exact(types: str, tmp_path: Path) -> None:
    flags = ["-DATTNC_NATIVE_TYPES"] if types == "native" else ["-isystem", str(ap_include())]
    source, include = Path(__file__).with_name("dsp_pair.cpp"), data_path("hls_kernels") / "include"
    command = ["g++", "-std=c++14", "-O2", "-w", *flags, f"-I{include}", str(source), "-o", str(tmp_path / "pair")]
    subprocess.run(command, check=True)
    seen = subprocess.run([tmp_path / "pair"], check=True, capture_output=True, text=True).stdout
    assert seen.split() == [str(2 * 256**3 + 2**22), "0"]
