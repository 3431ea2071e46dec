"""The steps of a compilation, and what they hand on to each other."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from attnc import report
from attnc.arrays import Array
from attnc.config import CompileOptions
from attnc.errors import ConfigError, ModelError
from attnc.frontend import load_float32
from attnc.golden import run_golden, run_reference
from attnc.ir import Graph, Node
from attnc.kernels.design import Design
from attnc.model import Model
from attnc.ops import operator, verify
from attnc.ops.attention_bias import EXCLUDED_BELOW
from attnc.passes import attention, attention_bias, tokens
from attnc.passes.approximations import set_implementations
from attnc.passes.masks import fold_masks
from attnc.passes.rotary import pair_rotary
from attnc.passes.types import Requirement, plan_types, quantize_graph
from attnc.passes.weights import assign_weights, mark_lossless, weighted
from attnc.quant.calibration import Observer, Statistics
from attnc.quant.candidates import candidates
from attnc.quant.gram import GramObserver
from attnc.quant.samples import Edge, FloatModel, chunks, count_samples, one_sample
from attnc.quant.weight_config import LayerChoices, LayerSettings, WeightConfig, check_weight_config, read_weight_config
from attnc.quant.weights import QUANTIZERS
from attnc.schedule.design import EngineChoice
from attnc.schedule.devices import Board
from attnc.schedule.file import Schedule
from attnc.weights import WeightFormat

WEIGHT_OPTIONS = ("weights", "group_size", "quantizer", "activations", "activation_bits", "engine", "hold_out")
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
    widened: frozenset[str] = frozenset()
    """Layers whose inputs get 16 bits because the model needs it."""
    widths: dict[str, Any] = field(default_factory=dict)
    unplanned: Graph | None = None
    """The float graph before types were planned."""
    searched: dict[str, LayerSettings] | None = None
    """Filled with the layers whose formats are for a search to choose (they start at the finest); None: there is no search."""
    precision: dict[str, Any] | None = None
    """What the search found, for the report."""
    schedule: Schedule | None = None
    design: Design | None = None
    engines: EngineChoice | None = None
    """How the engine of layers that may have either was chosen; None where a schedule was given."""
    misfit: str | None = None

    def settings(self, node: Node) -> LayerSettings:
        """What was chosen for the weights of a layer."""
        assert self.layers is not None
        return self.layers.choose(node)

    def input_bits(self, node: Node) -> int:
        """Width of the input of a layer: what was asked for, where that is a number, else 16 for those that `widened` names."""
        asked = self.settings(node).activation_bits
        return (16 if node.name in self.widened else 8) if asked == "auto" else asked

    @property
    def graph(self) -> Graph:
        """The device's graph."""
        return self.model.graph


def fold_attention_masks(state: State) -> None:
    """Constant causal and banded masks become attributes, so that masked work is not done."""
    fold_masks(state.graph)


def note_implementations(state: State) -> None:
    """What the options say of functions, of the bias of attention (chosen later) and of its passes."""
    own = {attention_bias.KIND, attention.KIND}
    functions = {name: value for name, value in state.options.implementations.items() if name not in own}
    set_implementations(state.graph, functions, state.options.error_target)
    if attention.KIND in state.options.implementations:
        attention.force_passes(state.graph, state.options.implementations[attention.KIND])


def choose_attention_biases(state: State) -> None:
    """Constant biases as tables or as channels."""
    wanted = state.options.implementations.get(attention_bias.KIND, "auto")
    attention_bias.choose_biases(state.graph, wanted, state.options.error_target)


def pair_rotary_channels(state: State) -> None:
    """Half-split rotary embeddings of linear layers turn adjacent channels instead; the weights are permuted."""
    pair_rotary(state.graph)


def check_against_float(state: State) -> None:
    """The float meaning of the graph equals the model as onnxruntime runs it, on a few calibration samples: a model that was
    understood wrongly is refused and not compiled. Of a model that arrived quantized, its twin without rounding is run."""
    verify(state.graph)
    quantized = state.model.quantized
    proto = load_float32(state.path) if quantized is None else quantized.float_model()
    edge, float_model = Edge(state.model), FloatModel(proto)
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
            if not np.isfinite(expected[name]).all():
                raise ModelError(f"output {name!r}: {float_model.name} gives NaN or infinity on sample {index} of the calibration inputs")
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


def glance(state: State, names: set[str]) -> dict[str, Statistics]:
    """Statistics of some values over the first samples: enough to choose how to rewrite the graph, before it is calibrated."""
    observer = Observer(GLANCE)
    for _, feeds in zip(range(GLANCE), Edge(state.model).feeds(state.samples), strict=False):
        run_reference(state.graph, feeds, lambda name, array: observer(name, array) if name in names else None)
    for name in names & state.graph.constants.keys():
        observer(name, state.graph.constants[name][np.newaxis])
    return observer.found


def weight_config(options: CompileOptions) -> WeightConfig:
    """The config file, with what the options say in its place."""
    config = WeightConfig() if options.config is None else read_weight_config(options.config)
    given = {name: getattr(options, name) for name in WEIGHT_OPTIONS if getattr(options, name) is not None}
    return check_weight_config({**config.model_dump(mode="json", exclude_unset=True), **given}, str(options.config or "options"))


def choose_formats(state: State) -> None:
    """Format of the weights and engine of every layer, from the options and the config file; weights that already lie on a grid
    which the format holds are marked."""
    where = str(state.options.config or "options")
    state.layers = weight_config(state.options).bind(state.graph, where)
    auto = {name: settings for name, settings in state.layers.settings.items() if settings.weights == "auto"}
    if auto:
        if state.searched is None:
            raise ConfigError(f'{where}: weights: auto needs a search; give `attnc compile` a --budget such as "cosine>=0.99"')
        state.searched.update(auto)
        finest = {n.name: candidates(auto[n.name], n.params["weight"].shape[1], n.name)[0] for n in weighted(state.graph) if n.name in auto}
        state.layers = LayerChoices({**state.layers.settings, **finest})
    mark_lossless(state.graph, state.layers.weights)


def ease(state: State) -> None:
    """Operands of attention that are easier to quantize; a model that arrived quantized stays as it is."""
    if state.model.quantized is None:
        attention.ease_attention(state.graph, glance(state, attention.operands(state.graph)))


def scale_tokens(state: State) -> None:
    """Dynamic activations for the layers whose settings ask for them."""

    def wanted(node: Node) -> bool:
        return state.settings(node).activations == "dynamic" and state.input_bits(node) == 8 and "weight_q" not in node.params

    if any(wanted(node) for node in weighted(state.graph)):
        tokens.per_token(state.graph, wanted, glance(state, tokens.operands(state.graph, wanted)))


def chunk_size(graph: Graph) -> int:
    """Samples that go through the graph together."""
    return max(1, CHUNK_ELEMENTS // max(value.shape[0] * value.shape[1] for value in graph.values.values()))


def input_grams(state: State, graph: Graph, names: Collection[str], samples: Mapping[str, Array]) -> dict[str, Array]:
    """X^T X / count of some values over the first samples that run through `graph`, a float graph whose values have types."""
    types = {name: graph.type(name) for name in names}
    observer = GramObserver(types, types)
    feeds = itertools.islice(Edge(state.model).feeds(samples), GRAM_SAMPLES)
    for chunk in chunks(feeds, chunk_size(graph)):
        run_reference(graph, chunk, observer)
    return observer.grams()


def quantize_weights(state: State) -> None:
    """Weights on their grids. A second walk through the float graph, over few samples, finds the covariances of their inputs where a
    quantizer wants them."""
    nodes = weighted(state.graph)
    needing = [node for node in nodes if QUANTIZERS[state.settings(node).quantizer].needs_gram]
    grams = input_grams(state, state.graph, {node.inputs[0] for node in needing}, state.samples) if needing else {}

    def chosen(node: Node) -> tuple[WeightFormat, str]:
        return state.settings(node).format, state.settings(node).quantizer

    assign_weights(state.graph, chosen, grams)
    for node in nodes:
        engine = state.settings(node).engine
        if engine != "auto" or node.attrs["weights"] == "int8":  # bytes are what multipliers are made for
            node.attrs["engine"] = "dsp" if engine == "auto" else engine


def plan(state: State) -> None:
    """What every value is to become."""
    state.unplanned = state.graph.copy()
    for node in weighted(state.graph):
        node.attrs["activation_bits"] = state.input_bits(node)
    found = state.model.quantized
    state.plan.update(plan_types(state.graph, None if found is None else found.requantized))


def calibrate(state: State) -> None:
    """Statistics of every value over all samples, in chunks that bound the memory."""
    observer = Observer(count_samples(state.samples, state.model.inputs))

    def observe(name: str, array: Array) -> None:
        # A mask may be infinite: its type is fixed, whatever it holds.
        observer(name, array if state.plan[name].type is None else np.where(np.isinf(array), 0.0, array))

    for chunk in chunks(Edge(state.model).feeds(state.samples), chunk_size(state.graph)):
        run_reference(state.graph, chunk, observe)
    for name, array in state.graph.constants.items():
        observe(name, array[np.newaxis])
    state.statistics = observer.found


def plan_again(state: State) -> None:
    """Back to the float graph, planned with the widths of now. What calibration saw stays: new values are copies of known ones."""
    assert state.unplanned is not None
    state.model.graph = state.unplanned
    state.plan.clear()
    plan(state)
    for node in state.graph.nodes:
        if node.output not in state.statistics:
            state.statistics[node.output] = state.statistics[node.inputs[0]]
    for name, array in state.graph.constants.items():
        observer = Observer(1)
        observer(name, array[np.newaxis])
        state.statistics.setdefault(name, observer.found[name])


def quantize(state: State) -> None:
    """Keep the float graph for comparison; turn this one into integers."""
    state.float_graph = state.graph.copy()
    quantize_graph(state.graph)


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
