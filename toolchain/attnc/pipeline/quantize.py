"""The passes that plan types, calibrate and make the quantized graph."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping

import numpy as np

from attnc.arrays import Array
from attnc.golden import run_reference
from attnc.ir import Graph, Node
from attnc.model import Model
from attnc.ops import operator
from attnc.passes import attention_bias
from attnc.passes.types import plan_types, quantize_graph
from attnc.passes.weights import assign_weights, weighted
from attnc.pipeline.state import State
from attnc.quant.calibration import Observer
from attnc.quant.gram import GramObserver
from attnc.quant.samples import Edge, chunks, count_samples
from attnc.quant.weights import QUANTIZERS
from attnc.weights import WeightFormat

GRAM_SAMPLES = 64
"""Calibration samples from which covariances of inputs are taken."""
CHUNK_ELEMENTS = 1 << 22
"""Samples run together through the float model while its widest value stays below this many elements."""
VECTORS = 8
"""Samples that the test bench in the build carries, and at most so many over which golden is measured."""


def choose_attention_biases(state: State) -> None:
    """Constant biases as tables or as channels."""
    wanted = state.options.implementations.get(attention_bias.KIND, "auto")
    if wanted == "auto" and state.options.max_length is not None and attention_bias.are_lines(state.graph, state.options.error_target):
        wanted = "channels"  # the only one that does without a table of all positions
    attention_bias.choose_biases(state.graph, wanted, state.options.error_target)


def chunk_size(graph: Graph) -> int:
    """Samples that go through the graph together."""
    return max(1, CHUNK_ELEMENTS // max(value.shape[0] * value.shape[1] for value in graph.values.values()))


def input_grams(state: State, graph: Graph, names: Collection[str], samples: Mapping[str, Array]) -> dict[str, Array]:
    """X^T X / count of some values over the first samples that run through `graph`, a float graph whose values have types."""
    types = {name: graph.type(name) for name in names}
    observer = GramObserver(types, types, np.float32)
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

    assign_weights(state.graph, chosen, grams, state.weights)
    for node in nodes:
        engine = state.settings(node).engine
        if engine != "auto" or node.attrs["weights"] == "int8":  # bytes are what multipliers are made for
            node.attrs["engine"] = "dsp" if engine == "auto" else engine


def plan(state: State) -> None:
    """What every value is to become."""
    state.unplanned = state.graph.copy()
    for node in weighted(state.graph):
        node.attrs["activation_bits"] = state.input_bits(node)
    for node in state.graph.nodes:
        node.attrs["wide_operands"] = tuple(sorted(operand for name, operand in state.widened if name == node.name))
    found = state.model.quantized
    state.plan.update(plan_types(state.graph, None if found is None else found.requantized))


def calibrate(state: State) -> None:
    """Statistics of every value over all samples, in chunks that bound the memory."""
    observer = Observer(count_samples(state.samples))
    for chunk in chunks(Edge(state.model).feeds(state.samples), chunk_size(state.graph)):
        run_reference(state.graph, chunk, lambda name, array: observer(name, _finite(state, name, array)))
    for name, array in state.graph.constants.items():
        observer.constant(name, _finite(state, name, array))
    state.statistics = observer.found


def _finite(state: State, name: str, array: Array) -> Array:
    """What statistics see of a value: a mask may be infinite, since its type is fixed, whatever it holds."""
    return array if state.plan[name].type is None else np.where(np.isinf(array), 0.0, array)


def plan_again(state: State) -> None:
    """Back to the float graph, planned with the widths of now. What calibration saw stays: new values are copies of known ones."""
    assert state.unplanned is not None
    state.model.graph = state.unplanned
    state.plan.clear()
    plan(state)
    for node in state.graph.nodes:
        if node.output not in state.statistics:
            state.statistics[node.output] = state.statistics[node.inputs[0]]
    observer = Observer(1)
    for name, array in state.graph.constants.items():
        if name not in state.statistics:
            observer.constant(name, _finite(state, name, array))
    state.statistics.update(observer.found)


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
