"""Many random graphs in one build: a model of independent parts, compiled with one design, run in C++ and compared with golden."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from attnc.arrays import Array
from attnc.compiler import begin
from attnc.config import CompileOptions
from attnc.golden import run_golden
from attnc.ir import Graph
from attnc.kernels.design import KINDS, Design, NamedEngine
from attnc.model import Model
from attnc.npz import save_npz
from attnc.ops import operator
from attnc.pipeline.phases import Phase, run
from attnc.schedule.design import lane_divisors, least_lanes
from harness import Patch, random_feeds, simulate
from random_graphs.grow import OPSET, Growth, Style

CALIBRATING, SAMPLES = 4, 6
"""Samples that calibrate, and samples that are compared."""
FORMATS = (*["int8"] * 5, "int6", "int5", "int4", "int3", "int2", "ternary", "ternary", "binary2", "binary3")
FLAGS = "-O0"
"""Of the C++ compiler: at these sizes it takes far longer than what it makes runs."""


@dataclass(frozen=True)
class Settings:
    """What all graphs of a build share: how they are quantized, and the design."""

    arrives: str = "float"
    """Or "u8" or "s8": as a model that onnxruntime has quantized, with zero points."""
    weights: str = "int8"
    group_size: int = 0
    activations: str = "static"
    activation_bits: int = 8
    engine: str = "auto"
    passes: str = "auto"
    calibration: str = "mse"
    simplified: bool = True
    """Whether onnxscript simplifies the model first, which takes half of the time; the frontend goes on without it where it fails."""
    types: str = "native"
    design: Design = field(default_factory=Design)
    every: int = 0
    """So many nodes of a kernel, of which one is served by an engine of its own, as `other` has it; 0: there are no such engines."""
    other: Design = field(default_factory=Design)

    @classmethod
    def drawn(cls, dice: Random) -> Settings:
        """Random ones."""

        def choose(*options: Any) -> Any:
            return options[dice.randrange(len(options))]

        weights, engine = choose(*FORMATS), choose("auto", "dsp", "lookup")
        binary = weights.startswith("binary")
        engine = "auto" if weights == "int8" or binary else engine
        bits = choose(8, 8, 8, 16) if engine != "lookup" and not binary else 8
        return cls(
            arrives=choose("float", "float", "float", "u8", "s8") if weights == "int8" else "float",
            weights=weights,
            group_size=choose(0, 0, 32) if weights != "int8" else 0,
            activations=choose("static", "static", "dynamic"),
            activation_bits=bits,
            engine=engine,
            passes=choose("auto", "one_pass", "two_pass"),
            calibration=choose("mse", "minmax", "percentile"),
            simplified=choose(False, False, False, True),
            types=choose(*["native"] * 19, "ap"),
            design=drawn_design(choose),
            every=choose(0, 0, 0, 1, 2, 2, 3),
            other=drawn_design(choose),
        )

    @property
    def style(self) -> Style:
        """Of graphs that suit them."""
        return Style.of(self.design.lanes, self.group_size)


def drawn_design(choose: Any) -> Design:
    """A random one that a schedule file may ask for."""
    lanes, rows, beat = choose(2, 4, 4, 8, 16), choose(1, 2, 3, 4, 6, 8, 16, 64), choose(1, 2)
    return Design.of(
        lanes=lanes, pe=lanes * choose(1, 2, 4), rows=rows, queries=choose(1, 2, 4, 8), tables=lanes * choose(1, 2),
        columns=lanes * choose(1, 2), group=choose(3, 5), depth=choose(8, 64, 512, 2048), rows_at_once=min(rows, choose(1, 2, 3, 4)),
        beat=beat, copies=choose(1, 2), parallel=choose(1, 1, 2), weight_ports=choose(1, 2) if beat == 2 else 1,
    )  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """One graph of a build: outputs of the device with the number of elements that differ from golden; none where all of it runs on the
    host."""

    seed: int
    elements: Mapping[str, int]

    @property
    def differs(self) -> bool:
        return any(self.elements.values())


def model_of(graphs: Sequence[Growth]) -> onnx.ModelProto:
    """One model of independent graphs."""
    inputs = [value.info for graph in graphs for value in graph.inputs]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for graph in graphs for name in graph.outputs]
    nodes, constants = ([item for graph in graphs for item in getattr(graph, name)] for name in ("nodes", "initializers"))
    body = helper.make_graph(nodes, "random", inputs, outputs, constants)
    made = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made, data_prop=True)


def calibration(graphs: Sequence[Growth]) -> dict[str, np.ndarray]:
    """Samples [samples, *shape] of every input; those of a graph depend on its seed alone."""
    return {
        value.name: np.stack([value.sample(np.random.default_rng((graph.seed, n, i))) for i in range(CALIBRATING)])
        for graph in graphs
        for n, value in enumerate(graph.inputs)
    }


class _Reader(CalibrationDataReader):
    """Samples as onnxruntime's quantizer wants them."""

    def __init__(self, samples: Mapping[str, np.ndarray]) -> None:
        self.feeds = iter([{name: array[i] for name, array in samples.items()} for i in range(CALIBRATING)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def arrived_quantized(path: Path, kind: str, samples: Mapping[str, np.ndarray]) -> Path:
    """The model with QuantizeLinear and DequantizeLinear as onnxruntime inserts them."""
    output, type_ = path.with_name("quantized.onnx"), QuantType.QUInt8 if kind == "u8" else QuantType.QInt8
    logging.disable(logging.WARNING)
    try:
        quantize_static(path, output, _Reader(samples), quant_format=QuantFormat.QDQ, activation_type=type_, weight_type=QuantType.QInt8)
    finally:
        logging.disable(logging.NOTSET)
    return output


def quantized(graphs: Sequence[Growth], settings: Settings, folder: Path) -> Model:
    """The model of `graphs`, read and quantized as `attnc compile` does it, up to the choice of a design."""
    path, samples = folder / "model.onnx", calibration(graphs)
    onnx.save(model_of(graphs), path)
    if settings.arrives != "float":
        path = arrived_quantized(path, settings.arrives, samples)
    save_npz(folder / "calib.npz", samples)
    options = CompileOptions(
        calib=folder / "calib.npz", hold_out=0, calibration=settings.calibration, weights=settings.weights, group_size=settings.group_size,
        quantizer="binary" if settings.weights.startswith("binary") else "minmax", activations=settings.activations,
        activation_bits=settings.activation_bits, engine=settings.engine,
    )  # fmt: skip
    if settings.passes != "auto" and any({"attention", "windows"} & {*graph.steps} for graph in graphs):
        options.implementations["attention"] = settings.passes
    with contextlib.ExitStack() as stack:
        if not settings.simplified:
            stack.enter_context(mock.patch("onnxscript.optimizer.optimize_ir", side_effect=RuntimeError))
        state = begin(path, options, lambda title: None)
    run(state, lambda title: None, Phase.QUANTIZE)
    return state.model


def legal(settings: Settings, graph: Graph) -> Design:
    """The design with as many lanes as the graph allows, and with its further engines."""
    lanes, (design, other) = max(settings.design.lanes, least_lanes(graph)), (settings.design, settings.other)
    while any(divisor % lanes for divisor in lane_divisors(graph)):
        lanes //= 2
    design, other = (_of_lanes(one, lanes) for one in (design, other))
    served = {kind: [node.name for node in graph.nodes if operator(node).numbers(node) is kind] for kind in KINDS.values()}
    named = [
        NamedEngine(f"other_{kind.kernel}", replace(other.usual(kind), rows=other.rows), tuple(nodes[:: settings.every]))
        for kind, nodes in served.items()
        if settings.every and nodes
    ]
    return replace(design, named=tuple(named))


def _of_lanes(design: Design, lanes: int) -> Design:
    """The design with other lanes, and as many times them where its numbers are multiples."""
    numbers = {"pe": design.linear.pe, "tables": design.lookup.tables, "columns": design.lookup.columns}
    return design.having(lanes=lanes, **{name: number // design.lanes * lanes for name, number in numbers.items()})


def corner_feeds(graph: Graph, seed: int) -> dict[str, Array]:
    """Integers for every input: all-smallest, all-largest, zeros, small ones, and two samples over the whole type."""
    feeds = random_feeds(graph, SAMPLES, seed)
    for array in feeds.values():
        array[2], array[3] = 0, array[3] // 16
    return feeds


def compare(graphs: Sequence[Growth], settings: Settings, patch: Patch | None = None) -> list[Compared]:
    """Compile all graphs as one, run C++ and golden, and tell what differs in each graph."""
    with tempfile.TemporaryDirectory(prefix="attnc-sweep-") as folder:
        model = quantized(graphs, settings, Path(folder))
    feeds = corner_feeds(model.graph, graphs[0].seed)
    expected = run_golden(model.graph, feeds)
    found = simulate(model.graph, feeds, legal(settings, model.graph), settings.types, patch, FLAGS)
    wrong = {name: int(np.count_nonzero(found[name] != expected[name])) for name in model.graph.outputs}
    made = {node.output for node in model.graph.nodes}
    return [
        Compared(graph.seed, {name: wrong[name] for name in dict.fromkeys(_device_outputs(model, graph)) if name in made})
        for graph in graphs
    ]


def _device_outputs(model: Model, graph: Growth) -> Iterator[str]:
    """Outputs of the device that tensors of a graph are made of."""
    return (fetch.value for fetch in model.fetches if fetch.tensor.startswith(graph.prefix))
