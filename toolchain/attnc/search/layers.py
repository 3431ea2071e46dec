"""The graph whose layers can take any of their formats: swapped in place, measured by golden."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from attnc.arrays import Array
from attnc.golden import run_golden
from attnc.ir import Node
from attnc.ops import operator
from attnc.ops.linear_weights import put_weight, weight_format, weight_shape
from attnc.passes.weights import weighted
from attnc.pipeline.quantize import chunk_size, device_integers
from attnc.pipeline.state import State
from attnc.quant.candidates import candidates
from attnc.quant.samples import Edge, chunks, count_samples, one_sample
from attnc.quant.weight_config import LayerSettings
from attnc.quant.weights import QUANTIZERS
from attnc.search.budget import Outputs
from attnc.search.state import Store, fingerprint

Assignment = Mapping[str, LayerSettings]
"""Settings by name of layer."""


def assignment_key(assignment: Assignment) -> str:
    """A short name, the same for the same formats."""
    return fingerprint({name: (settings.label, settings.quantizer) for name, settings in assignment.items()})[:32]


@dataclass
class Samples:
    """Samples of the model at the edge of the device."""

    single: list[dict[str, Array]]
    """Each in the model's own shapes."""
    integers: list[dict[str, Array]]
    """What the device gets for them."""


class Layers:
    """A quantized state whose open layers (weights `auto` that lie on no grid yet) can change their formats. Only the weights in use are in
    memory, the others in `store`."""

    def __init__(self, state: State) -> None:
        assert state.float_graph is not None and state.searched is not None
        self.state, self.edge = state, Edge(state.model)
        self.store: Store | None = None
        self._original = {node.name: node for node in state.float_graph.nodes}
        self._live = {node.name: node for node in weighted(state.graph)}
        self.choices: dict[str, list[LayerSettings]] = {}
        self.shapes = {name: weight_shape(node) for name, node in self._live.items()}
        for name, settings in state.searched.items():
            if self._live[name].attrs["quantizer"] in QUANTIZERS:  # not imported, nor carried over without loss
                self.choices[name] = candidates(settings, self.shapes[name][1], name)
        self._used: dict[str, LayerSettings] = {}

    def original(self, name: str) -> Node:
        """The float node of a layer."""
        return self._original[name]

    def samples(self, arrays: Mapping[str, Array]) -> Samples:
        """`arrays`, as the model takes them, prepared once for all runs."""
        single = [one_sample(arrays, index) for index in range(count_samples(arrays))]
        return Samples(single, [device_integers(self.state.graph, feeds, self.state.model) for feeds in self.edge.feeds(arrays)])

    def run(self, assignment: Assignment, samples: Samples) -> list[Outputs]:
        """Golden's outputs of every sample with these formats."""
        for name, settings in assignment.items():
            if self._used.get(name) != settings:
                self._put(name, settings)
        return list(golden_outputs(self.state, self.edge, samples))

    def _put(self, name: str, settings: LayerSettings) -> None:
        assert self.store is not None
        found, original, live = self.store.weight(name, settings), self._original[name], self._live[name]
        node = Node(name, original.op, original.inputs, original.output, dict(original.attrs), dict(original.params), original.source)
        node.attrs["quantizer"] = settings.quantizer
        put_weight(node, found)
        graph = self.state.graph
        operator(node).quantize(node, [graph.type(value) for value in node.inputs], graph.type(node.output))
        live.attrs, live.params = node.attrs, node.params
        self._used[name] = settings

    def bytes(self, assignment: Assignment) -> float:
        """What the formats promise for the weights of all layers, closed ones included."""
        return sum(
            (assignment[name].format if name in assignment else weight_format(self._original[name])).promised_bytes(*shape)
            for name, shape in self.shapes.items()
        )

    @property
    def weights(self) -> int:
        """Weights of all layers."""
        return sum(n * k for n, k in self.shapes.values())


def golden_outputs(state: State, edge: Edge, samples: Samples) -> Iterator[Outputs]:
    """Golden's outputs of the model, sample by sample."""
    single = iter(samples.single)
    for chunk in chunks(iter(samples.integers), chunk_size(state.graph)):
        found = {name: state.graph.type(name).dequantize(q) for name, q in run_golden(state.graph, chunk).items()}
        for index in range(len(next(iter(found.values())))):
            yield edge.finish(next(single), {name: array[index : index + 1] for name, array in found.items()})
