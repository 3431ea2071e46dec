"""What the passes of a compilation hand on to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from attnc.arrays import Array
from attnc.config import CompileOptions
from attnc.decoding.plan import Decoder
from attnc.ir import Graph, Node
from attnc.kernels.design import Design
from attnc.model import Model
from attnc.original import Original
from attnc.passes.types import Requirement
from attnc.pipeline.head import HeadChoice
from attnc.quant.calibration import Statistics
from attnc.quant.weight_config import LayerChoices, LayerSettings
from attnc.schedule.devices import Board
from attnc.schedule.engine_choice import EngineChoice
from attnc.schedule.file import Schedule
from attnc.weights import QuantizedWeight


@dataclass
class State:
    """What the passes hand on to each other."""

    path: Path
    options: CompileOptions
    board: Board
    clock_mhz: float
    model: Model
    samples: dict[str, Array]
    """Those that calibrate."""
    unseen: dict[str, Array] | None
    """Those that figures are measured on; None where all calibrate."""
    doubts: list[str]
    """Why calibration cannot support the figures, or only weakly."""
    synthetic: bool
    float_model: str = ""
    float_error: float = 0.0
    plan: dict[str, Requirement] = field(default_factory=dict)
    statistics: dict[str, Statistics] = field(default_factory=dict)
    output_sqnr: dict[str, float] = field(default_factory=dict)
    """Of every output of the model in floating point, in dB: golden against onnxruntime, on the samples of `measured`."""
    margins: dict[str, float] = field(default_factory=dict)
    """How many dB below that other samples may be."""
    unlucky: dict[str, float] = field(default_factory=dict)
    """Of outputs whose figure is that of all samples, since those held out were lucky: what the latter reach."""
    layer_db: dict[str, float] = field(default_factory=dict)
    """Of every value: golden against the float graph, energies in dB."""
    undefined: int = 0
    """Samples on which the model itself gives NaN, and which are left out of `output_sqnr`."""
    float_graph: Graph | None = None
    layers: LayerChoices | None = None
    widened: frozenset[tuple[str, int]] = frozenset()
    """Nodes and those of their operands that get 16 bits because the model needs it."""
    widths: dict[str, Any] = field(default_factory=dict)
    weights: dict[bytes, QuantizedWeight] = field(default_factory=dict)
    """What was quantized, for when the graph is quantized anew."""
    unplanned: Graph | None = None
    """The float graph before types were planned."""
    searched: dict[str, LayerSettings] | None = None
    """Filled with the layers whose formats are for a search to choose (they start at the finest); None: there is no search."""
    search: dict[str, Any] | None = None
    """What the search found, for the report."""
    schedule: Schedule | None = None
    design: Design | None = None
    engines: EngineChoice | None = None
    """How the engine of layers that may have either was chosen; None where a schedule was given."""
    misfit: str | None = None
    even_channels: dict[tuple[str, int], Array] = field(default_factory=dict)
    """What `caches.narrow_caches` found of operands of attention."""
    cache_errors: list[dict[str, Any]] = field(default_factory=list)
    """What formats of caches cost a decoder, as `cache_error.measure_caches` has it."""
    decoder: Decoder | None = None
    """Where one was asked for: what `model` became, and was before."""
    head: HeadChoice | None = None
    """Where its last linear layer runs."""

    @cached_property
    def original(self) -> Original:
        """The model as its file has it."""
        return Original(self.path, self.options.max_length)

    def settings(self, node: Node) -> LayerSettings:
        """What was chosen for the weights of a layer."""
        assert self.layers is not None
        return self.layers.choose(node)

    def input_bits(self, node: Node) -> int:
        """Width of the input of a layer: what was asked for, where that is a number, else 16 for those that `widened` names."""
        asked = self.settings(node).activation_bits
        return (16 if (node.name, 0) in self.widened else 8) if asked == "auto" else asked

    @property
    def measured(self) -> dict[str, Array]:
        """Samples that figures are measured on: no scale has seen them, where some could be held out."""
        return self.samples if self.unseen is None else self.unseen

    @property
    def graph(self) -> Graph:
        """The device's graph."""
        return self.model.graph
