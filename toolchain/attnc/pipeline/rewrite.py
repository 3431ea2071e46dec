"""The passes of the first phase: the float graph is checked, and rewritten until it is easy to quantize."""

from __future__ import annotations

import numpy as np

from attnc.config import CompileOptions
from attnc.errors import ConfigError, ModelError
from attnc.frontend import load_float32
from attnc.golden import run_reference
from attnc.ir import Node
from attnc.ops import operator, verify
from attnc.ops.attention_bias import EXCLUDED_BELOW
from attnc.passes import attention, attention_bias, tokens
from attnc.passes.approximations import set_implementations
from attnc.passes.masks import fold_masks
from attnc.passes.rotary import pair_rotary
from attnc.passes.weights import mark_lossless, weighted
from attnc.pipeline.state import State
from attnc.quant.calibration import Observer, Statistics
from attnc.quant.candidates import candidates
from attnc.quant.samples import Edge, FloatModel, count_samples, one_sample
from attnc.quant.weight_config import LayerChoices, WeightConfig, check_weight_config, read_weight_config

WEIGHT_OPTIONS = ("weights", "group_size", "quantizer", "activations", "activation_bits", "engine", "hold_out")
"""Options that a config file may set too; on the command line they win over the file's own settings, not over its rules."""
GLANCE = 8
"""Samples over which activations are looked at before the graph is rewritten."""
FLOAT_TOLERANCE = 1e-3


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
        sample = one_sample(state.samples, index)
        expected = float_model(sample)
        found = edge.finish(sample, run_reference(state.graph, edge.feed(sample)))
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
    total = count_samples(state.samples)
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
