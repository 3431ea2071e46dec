"""The whole compiler, as one list of steps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from attnc import report
from attnc.codegen.project import staged, vectors_npz, write_json, write_project
from attnc.config import CompileOptions
from attnc.errors import ConfigError, ModelError
from attnc.frontend import import_model
from attnc.frontend.load import load_model
from attnc.golden import run_golden, run_reference
from attnc.ir import Graph
from attnc.model import Model
from attnc.ops import operator, verify
from attnc.ops.attention_bias import EXCLUDED_BELOW
from attnc.ops.base import Array, Design
from attnc.passes.types import Requirement, assign_types, plan_types, quantize_graph
from attnc.quant.calibration import Observer, Statistics
from attnc.quant.samples import Edge, FloatModel, chunks, count_samples, load_samples, one_sample, synthetic_samples
from attnc.schedule.cost import Estimate, estimate
from attnc.schedule.design import choose_design
from attnc.schedule.devices import Board, find_board

Progress = Callable[[str], None]
CHUNK_ELEMENTS = 1 << 22
"""Samples run together through the float model while its widest value stays below this many elements."""
VECTORS = 8
"""Samples that the test bench in the build carries, and over which layers are compared with float."""
FLOAT_TOLERANCE = 1e-3


@dataclass
class State:
    """What the steps hand on to each other."""

    path: Path
    options: CompileOptions
    board: Board
    clock_mhz: float
    model: Model
    samples: dict[str, Array]
    synthetic: bool
    float_model: str = ""
    float_error: float = 0.0
    plan: dict[str, Requirement] = field(default_factory=dict)
    statistics: dict[str, Statistics] = field(default_factory=dict)
    sqnr: dict[str, float] = field(default_factory=dict)
    float_graph: Graph | None = None
    design: Design | None = None

    @property
    def graph(self) -> Graph:
        """The device's graph."""
        return self.model.graph


def compile_model(path: Path, options: CompileOptions, progress: Progress = lambda text: None) -> Path:
    """Compile `path` into the folder `options.output` and return it. Raises `AttncError`; leaves nothing behind on failure."""
    board = find_board(options.target)
    progress("reading the model")
    model = import_model(path, options.shapes, options.strict)
    samples = _samples(path, model, options)
    state = State(path, options, board, options.clock_mhz or board.clock_mhz, model, samples, options.calib is None)
    steps: list[tuple[str, Callable[[State], None]]] = [
        ("checking the imported graph against the float model", check_against_float),
        ("planning types", lambda s: s.plan.update(plan_types(s.graph))),
        ("calibrating", calibrate),
        ("choosing scales", lambda s: assign_types(s.graph, s.plan, s.statistics, s.options.calibration)),
        ("quantizing", quantize),
        ("comparing golden with float", compare_layers),
        ("choosing the design", lambda s: setattr(s, "design", choose_design(s.graph, s.board, s.clock_mhz))),
    ]
    dump(state, 0, "imported")
    for number, (title, step) in enumerate(steps, 1):
        progress(title)
        step(state)
        verify(state.graph)
        dump(state, number, title)
    progress("writing the project")
    return write(state)


def dump(state: State, number: int, title: str) -> None:
    """The graph as text, if the options ask for it."""
    if state.options.dump is not None:
        try:
            state.options.dump.mkdir(parents=True, exist_ok=True)
            (state.options.dump / f"{number}_{title.replace(' ', '_')}.txt").write_text(state.graph.dump())
        except OSError as error:
            raise ConfigError(f"--dump {state.options.dump}: cannot be written ({error})") from error


def _samples(path: Path, model: Model, options: CompileOptions) -> dict[str, Array]:
    if options.calib is not None:
        return load_samples(options.calib, model.inputs)
    return synthetic_samples(onnx.load(path, load_external_data=False), model.inputs, options.seed)


def check_against_float(state: State) -> None:
    """The float meaning of the graph equals the model as onnxruntime runs it, on a few calibration samples: a model that was
    understood wrongly is refused and not compiled."""
    verify(state.graph)
    edge, float_model = Edge(state.model), FloatModel(load_model(state.path))
    state.float_model = float_model.name
    names = [spec.name for spec in state.model.outputs]
    for index in _comparable(state, edge)[:2]:
        sample = one_sample(state.samples, state.model.inputs, index)
        expected = float_model(sample)
        found = edge.finish(sample, run_reference(state.graph, next(edge.feeds(sample))))
        for name in names:
            if expected[name].shape != found[name].shape:
                raise ModelError(f"output {name!r}: the model gives shape {expected[name].shape}, the imported graph {found[name].shape}")
            if expected[name].dtype.kind != "f":
                continue
            size = max(float(np.abs(expected[name]).max(initial=0.0)), 1e-6)
            error = float(np.abs(found[name] - expected[name]).max(initial=0.0)) / size
            if not error <= FLOAT_TOLERANCE:
                raise ModelError(
                    f"output {name!r}: the imported graph differs from {float_model.name} by {error:.2g} of the largest value "
                    f"(needed: at most {FLOAT_TOLERANCE}); the model was not understood correctly"
                )
            state.float_error = max(state.float_error, error)


def _comparable(state: State, edge: Edge) -> list[int]:
    """Samples in which every query of every attention has a key, or all where there are none: what a query gets whose keys are
    all left out (a token of padding that sees its neighbours only) is not defined, and differs between exporters."""
    excluding = [name for node, index, name in state.graph.uses() if name in state.graph.inputs and operator(node).excludes(node, index)]
    total = count_samples(state.samples, state.model.inputs)
    if not excluding:
        return list(range(total))
    complete = [
        index
        for index, feeds in enumerate(edge.feeds(state.samples))
        if all(np.all(feeds[name].max(axis=-1) > EXCLUDED_BELOW) for name in excluding)
    ]
    return complete or list(range(total))


def calibrate(state: State) -> None:
    """Statistics of every value over all samples, in chunks that bound the memory."""
    total = count_samples(state.samples, state.model.inputs)
    widest = max(value.shape[0] * value.shape[1] for value in state.graph.values.values())
    observer = Observer(total)
    for chunk in chunks(Edge(state.model).feeds(state.samples), max(1, CHUNK_ELEMENTS // widest)):
        run_reference(state.graph, chunk, observer)
    for name, array in state.graph.constants.items():
        observer(name, array[np.newaxis])
    state.statistics = observer.found


def quantize(state: State) -> None:
    """Keep the float graph for comparison; turn this one into integers."""
    graph = state.graph
    state.float_graph = Graph(
        graph.name,
        graph.inputs,
        graph.outputs,
        [type(node)(node.name, node.op, node.inputs, node.output, dict(node.attrs), node.params, node.source) for node in graph.nodes],
        graph.values,
        dict(graph.constants),
    )
    quantize_graph(graph)


def device_integers(graph: Graph, feeds: dict[str, Array], model: Model) -> dict[str, Array]:
    """The device's inputs as integers, as the host quantizes them."""
    result = {}
    for name, array in feeds.items():
        readers = [(node, index) for node, index, used in graph.uses() if used == name]
        type_ = graph.type(name)
        result[name] = operator(readers[0][0]).quantize_operand(*readers[0], array, type_) if readers else type_.quantize(array)
    return result


def compare_layers(state: State) -> None:
    """SQNR of every value of golden against float, over the first samples: 10 log10(sum float^2 / sum (golden - float)^2)."""
    assert state.float_graph is not None
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for count, feeds in enumerate(Edge(state.model).feeds(state.samples)):
        if count == VECTORS:
            break
        real: dict[str, Array] = {}
        run_reference(state.float_graph, feeds, real.__setitem__)

        def compare(name: str, q: Array, real: dict[str, Array] = real) -> None:
            expected = real.pop(name)
            signal[name] = signal.get(name, 0.0) + float(np.square(expected).sum())
            noise[name] = noise.get(name, 0.0) + float(np.square(state.graph.type(name).dequantize(q) - expected).sum())

        run_golden(state.graph, device_integers(state.graph, feeds, state.model), compare)
    state.sqnr = {name: report.decibels(signal[name], noise[name]) for name in signal}


def write(state: State) -> Path:
    """The build folder, in one rename."""
    assert state.design is not None
    model, path = state.model, state.path
    edge = Edge(model)
    first = [feed for feed, _ in zip(edge.feeds(state.samples), range(VECTORS), strict=False)]
    feeds = {name: np.concatenate([feed[name] for feed in first]) for name in model.graph.inputs}
    vectors = device_integers(model.graph, feeds, model)
    source = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    with staged(state.options.output, state.options.force) as folder:
        kept = {
            spec.name: state.samples[spec.name][: len(first)] if spec.shape and spec.shape[0] == 1 else state.samples[spec.name]
            for spec in model.inputs
        }
        (folder / "golden").mkdir()
        vectors_npz(folder / "golden" / "inputs.npz", kept)
        outputs = run_golden(model.graph, vectors)
        finished = []
        for i in range(len(first)):
            real = {name: model.graph.type(name).dequantize(array[i : i + 1]) for name, array in outputs.items()}
            finished.append(edge.finish(one_sample(state.samples, model.inputs, i), real))
        vectors_npz(
            folder / "golden" / "outputs.npz",
            {spec.name: np.concatenate([np.atleast_1d(f[spec.name]) for f in finished]) for spec in model.outputs},
        )
        program = write_project(folder, model, state.design, state.board, state.clock_mhz, source, vectors)
        cost: Estimate = estimate(program, state.board, state.clock_mhz)
        facts = report.compile_report(
            model=model, program=program, cost=cost, board=state.board, source=source, sqnr=state.sqnr,
            float_check={"against": state.float_model, "largest_relative_error": round(state.float_error, 9)},
            calibration={
                "source": "synthetic" if state.synthetic else str(state.options.calib.name if state.options.calib else ""),
                "samples": count_samples(state.samples, model.inputs),
                "method": state.options.calibration,
            },
        )  # fmt: skip
        write_json(folder / "report.json", facts)
        (folder / "report.txt").write_text(report.as_text(facts))
    return state.options.output
