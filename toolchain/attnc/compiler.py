"""The whole compiler, as one list of steps."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from attnc import report
from attnc.codegen.project import staged, vectors_npz, write_json, write_project
from attnc.config import DEFAULT_TARGET, CompileOptions
from attnc.errors import ConfigError, FitError, ModelError
from attnc.frontend import import_model
from attnc.frontend.imposed import report as import_report
from attnc.frontend.load import load_model
from attnc.golden import run_golden, run_reference
from attnc.ir import Graph, Node
from attnc.model import Model
from attnc.ops import verify
from attnc.ops.base import Array, Design
from attnc.passes import attention, tokens
from attnc.passes.approximations import set_implementations, share_implementations
from attnc.passes.masks import fold_masks
from attnc.passes.rotary import pair_rotary
from attnc.passes.types import Requirement, assign_types, plan_types, quantize_graph
from attnc.passes.weights import assign_weights, mark_lossless, weighted
from attnc.quant.calibration import Observer, Statistics
from attnc.quant.gram import GramObserver
from attnc.quant.samples import Edge, FloatModel, chunks, count_samples, load_samples, one_sample, synthetic_samples
from attnc.quant.weight_config import LayerChoices, LayerSettings, WeightConfig, check_weight_config, read_weight_config
from attnc.quant.weights import QUANTIZERS
from attnc.report_tables import as_text, render
from attnc.schedule.cost import check_memory, estimate
from attnc.schedule.design import check_fit, choose_engines
from attnc.schedule.devices import Board, find_board, with_utilisation
from attnc.schedule.file import Schedule, check_board, check_program, read_schedule, schedule_text
from attnc.schedule.program import build_program
from attnc.weights import WeightFormat

Progress = Callable[[str], None]
WEIGHT_OPTIONS = ("weights", "group_size", "quantizer", "activations", "engine")
"""Options that a config file may set too; on the command line they win over the file's own settings, not over its rules."""
GRAM_SAMPLES = 64
"""Calibration samples from which covariances of inputs are taken."""
CHUNK_ELEMENTS = 1 << 22
"""Samples run together through the float model while its widest value stays below this many elements."""
GLANCE = 8
"""Samples over which activations are looked at before the graph is rewritten."""
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
    layers: LayerChoices | None = None
    schedule: Schedule | None = None
    design: Design | None = None
    misfit: str | None = None

    def settings(self, node: Node) -> LayerSettings:
        """What was chosen for the weights of a layer."""
        assert self.layers is not None
        return self.layers.choose(node)

    @property
    def graph(self) -> Graph:
        """The device's graph."""
        return self.model.graph


Step = tuple[str, Callable[[State], None]]
STEPS: list[Step] = [
    ("folding masks into attention", lambda s: fold_attention_masks(s)),
    ("pairing channels of rotary embeddings", lambda s: pair_rotary_channels(s)),
    ("checking the imported graph against the float model", lambda s: check_against_float(s)),
    ("choosing formats of weights", lambda s: choose_formats(s)),
    ("easing attention", lambda s: ease(s)),
    ("scaling activations per token", lambda s: scale_tokens(s)),
    ("noting implementations", lambda s: set_implementations(s.graph, s.options.implementations, s.options.error_target)),
    ("planning types", lambda s: plan(s)),
    ("calibrating", lambda s: calibrate(s)),
    ("choosing scales", lambda s: assign_types(s.graph, s.plan, s.statistics, s.options.calibration)),
    ("choosing implementations", lambda s: share_implementations(s.graph)),
    ("quantizing weights", lambda s: quantize_weights(s)),
    ("quantizing", lambda s: quantize(s)),
    ("comparing golden with float", lambda s: compare_layers(s)),
    ("choosing the design", lambda s: choose(s)),
]


def compile_model(path: Path, options: CompileOptions, progress: Progress = lambda text: None) -> Path:
    """Compile `path` into the folder `options.output` and return it. Raises `AttncError`; leaves nothing behind on failure."""
    state = begin(path, options, progress)
    run(state, STEPS, progress)
    progress("writing the project")
    return write(state)


def quantize_model(path: Path, options: CompileOptions, progress: Progress = lambda text: None) -> State:
    """The quantized graph of `path` and what led to it, without hardware: enough to measure golden, or to try designs."""
    state = begin(path, options, progress)
    run(state, STEPS[:-1], progress)
    return state


def begin(path: Path, options: CompileOptions, progress: Progress) -> State:
    """Settings, model and samples."""
    schedule = None if options.schedule is None else read_schedule(options.schedule)
    board = find_board(options.target or (schedule and schedule.target) or DEFAULT_TARGET)
    if schedule and schedule.utilisation:
        board = board.model_copy(update={"utilisation": schedule.utilisation})
    if options.utilisation is not None:
        board = with_utilisation(board, options.utilisation)
    clock_mhz = options.clock_mhz or (schedule and schedule.clock_mhz) or board.clock_mhz
    progress("reading the model")
    model = import_model(path, options.shapes, options.strict)
    if schedule and options.schedule:
        check_board(schedule, options.schedule, model.graph, board)
    samples = _samples(path, model, options)
    return State(path, options, board, clock_mhz, model, samples, options.calib is None, schedule=schedule)


def run(state: State, steps: list[Step], progress: Progress) -> None:
    """The steps in order, the graph verified after each."""
    dump(state, 0, "imported")
    for number, (title, step) in enumerate(steps, 1):
        progress(title)
        step(state)
        verify(state.graph)
        dump(state, number, title)


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


def fold_attention_masks(state: State) -> None:
    """Constant causal and banded masks become attributes, so that masked work is not done."""
    fold_masks(state.graph)


def pair_rotary_channels(state: State) -> None:
    """Half-split rotary embeddings of linear layers turn adjacent channels instead; the weights are permuted."""
    pair_rotary(state.graph)


def check_against_float(state: State) -> None:
    """The float meaning of the graph equals the model as onnxruntime runs it, on a few calibration samples: a model that was
    understood wrongly is refused and not compiled. Of a model that arrived quantized, its twin without rounding is run."""
    verify(state.graph)
    quantized = state.model.quantized
    proto = load_model(state.path) if quantized is None else quantized.float_model()
    edge, float_model = Edge(state.model), FloatModel(proto)
    state.float_model = float_model.name
    names = [spec.name for spec in state.model.outputs]
    for index in range(min(2, count_samples(state.samples, state.model.inputs))):
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


def glance(state: State, names: set[str]) -> dict[str, Statistics]:
    """Statistics of some values over the first samples: enough to choose how to rewrite the graph, before it is calibrated."""
    observer = Observer(GLANCE)
    for _, feeds in zip(range(GLANCE), Edge(state.model).feeds(state.samples), strict=False):
        run_reference(state.graph, feeds, lambda name, array: observer(name, array) if name in names else None)
    for name in names & state.graph.constants.keys():
        observer(name, state.graph.constants[name][np.newaxis])
    return observer.found


def choose_formats(state: State) -> None:
    """Format of the weights and engine of every layer, from the options and the config file; weights that already lie on a grid
    which the format holds are marked."""
    options = state.options
    config = WeightConfig() if options.config is None else read_weight_config(options.config)
    given = {name: getattr(options, name) for name in WEIGHT_OPTIONS if getattr(options, name) is not None}
    config = check_weight_config({**config.model_dump(mode="json", exclude_unset=True), **given}, str(options.config or "options"))
    state.layers = config.bind(state.graph, str(options.config or "options"))
    mark_lossless(state.graph, state.layers.weights)


def ease(state: State) -> None:
    """Operands of attention that are easier to quantize; a model that arrived quantized stays as it is."""
    if state.model.quantized is None:
        attention.ease_attention(state.graph, glance(state, attention.operands(state.graph)))


def scale_tokens(state: State) -> None:
    """Dynamic activations for the layers whose settings ask for them."""

    def wanted(node: Node) -> bool:
        return state.settings(node).activations == "dynamic" and "weight_q" not in node.params

    if any(wanted(node) for node in weighted(state.graph)):
        tokens.per_token(state.graph, wanted, glance(state, tokens.operands(state.graph, wanted)))


def quantize_weights(state: State) -> None:
    """Weights on their grids. A second walk through the float graph, over few samples, finds the covariances of their inputs where a
    quantizer wants them."""
    nodes = weighted(state.graph)
    needing = [node for node in nodes if QUANTIZERS[state.settings(node).quantizer].needs_gram]
    grams: dict[str, Array] = {}
    if needing:
        types = {name: state.graph.type(name) for name in {node.inputs[0] for node in needing}}
        observer = GramObserver(types, types)
        widest = max(value.shape[0] * value.shape[1] for value in state.graph.values.values())
        feeds = itertools.islice(Edge(state.model).feeds(state.samples), GRAM_SAMPLES)
        for chunk in chunks(feeds, max(1, CHUNK_ELEMENTS // widest)):
            run_reference(state.graph, chunk, observer)
        grams = observer.grams()

    def chosen(node: Node) -> tuple[WeightFormat, str]:
        return state.settings(node).format, state.settings(node).quantizer

    assign_weights(state.graph, chosen, grams)
    for node in nodes:
        engine = state.settings(node).engine
        if engine != "auto" or node.attrs["weights"] == "int8":  # bytes are what multipliers are made for
            node.attrs["engine"] = "dsp" if engine == "auto" else engine


def plan(state: State) -> None:
    """What every value is to become."""
    found = state.model.quantized
    state.plan.update(plan_types(state.graph, None if found is None else found.requantized))


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


def choose(state: State) -> None:
    """The design: the schedule's where one is given, else the best that fits; and the engine of every layer that may have either."""
    graph, board, path = state.graph, state.board, state.options.schedule
    if state.schedule is None or path is None:
        state.design = choose_engines(graph, board, state.clock_mhz, state.options.objective)
    else:
        state.design = state.schedule.parallelism
    program = build_program(graph, state.design, None)
    check_memory(program, board)
    if state.schedule is not None and path is not None:
        cost = estimate(program, board, state.clock_mhz, state.schedule.memory, state.schedule.ports)
        check_program(state.schedule, path, program, cost, board)
        state.misfit = check_fit(graph, state.design, cost, board, state.clock_mhz)
        if state.misfit and state.options.fit:
            raise FitError(state.misfit)


def device_integers(graph: Graph, feeds: dict[str, Array], model: Model) -> dict[str, Array]:
    """The device's inputs as integers, as the host quantizes them."""
    from attnc.ops import operator

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
        places, ports = (state.schedule.memory, state.schedule.ports) if state.schedule else ({}, {})
        program, cost = write_project(folder, model, state.design, state.board, state.clock_mhz, source, vectors, places, ports)
        facts = report.compile_report(
            model=model, program=program, cost=cost, board=state.board, source=source, sqnr=state.sqnr, misfit=state.misfit,
            float_check={"against": state.float_model, "largest_relative_error": round(state.float_error, 9)},
            calibration={
                "source": "synthetic" if state.synthetic else str(state.options.calib.name if state.options.calib else ""),
                "samples": count_samples(state.samples, model.inputs),
                "method": state.options.calibration,
            },
        )  # fmt: skip
        if model.quantized is not None:
            facts["import"] = import_report(model.quantized, model.graph)
        objective = f"as given in {state.options.schedule.name}" if state.options.schedule else state.options.objective
        (folder / "schedule.yaml").write_text(schedule_text(program, cost, state.board, objective))
        write_json(folder / "report.json", facts)
        (folder / "report.txt").write_text(as_text(render(facts)))
    return state.options.output
