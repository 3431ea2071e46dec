"""The passes of the first phase: the float graph is checked, and rewritten until it is easy to quantize."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attnc.config import CACHE_BITS, CompileOptions, block_of
from attnc.errors import ConfigError
from attnc.golden import run_reference
from attnc.ir import Node
from attnc.ops.linear_weights import weight_shape
from attnc.passes import attention, attention_bias, caches, tokens
from attnc.passes.approximations import set_implementations
from attnc.passes.heads import pad_heads
from attnc.passes.masks import fold_masks
from attnc.passes.rotary import check_halves, pair_rotary
from attnc.passes.weights import held_formats, mark_lossless, weighted
from attnc.pipeline.state import State
from attnc.quant.calibration import Observer, Statistics
from attnc.quant.candidates import candidates
from attnc.quant.samples import Edge
from attnc.quant.weight_config import LayerChoices, WeightConfig, check_weight_config, read_weight_config
from attnc.weights import WeightFormat

WEIGHT_OPTIONS = ("weights", "group_size", "quantizer", "activations", "activation_bits", "engine", "hold_out")
"""Options that a config file may set too; on the command line they win over the file's own settings, not over its rules."""
GLANCE = 8
"""Samples over which activations are looked at before the graph is rewritten."""


def fold_attention_masks(state: State) -> None:
    """Constant causal and banded masks become attributes, so that masked work is not done."""
    fold_masks(state.graph)


def note_implementations(state: State) -> None:
    """What the options say of functions, of the bias of attention (chosen later) and of its passes."""
    own = {attention_bias.KIND, attention.KIND}
    functions = {name: value for name, value in state.options.implementations.items() if name not in own}
    set_implementations(state.graph, functions, state.options.error_target)
    wanted = state.options.implementations.get(attention.KIND)
    if state.options.max_length is not None and any(node.op == attention.KIND for node in state.graph.nodes):
        if wanted not in (None, "auto", "two_pass"):
            raise ConfigError(f"implementation of {attention.KIND}: needed two_pass with --max-length, found {wanted!r}")
        wanted = "two_pass"  # one pass over a sequence rounds by where its blocks of keys begin, and a cache has no such
    if wanted is not None:
        attention.force_passes(state.graph, wanted)


def pair_rotary_channels(state: State) -> None:
    """Half-split rotary embeddings of linear layers turn adjacent channels instead; the weights are permuted."""
    pair_rotary(state.graph)
    check_halves(state.graph)


def pad_heads_to_words(state: State) -> None:
    """Heads of any number of channels become ones that words of memory divide."""
    pad_heads(state.graph)


def narrow(state: State) -> None:
    """Keys and values of 4 bits, where the options say so; and what that would take, where not."""
    seen, length = glance(state, attention.operands(state.graph)), state.options.mixed_length
    bits, block = CACHE_BITS[state.options.cache], block_of(state.options.block, state.options.max_length or 0)
    state.even_channels = caches.narrow_caches(state.graph, seen, bits, length, block)


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
    held = held_formats(state.graph)
    if state.options.max_length is not None:
        _note_ternary(state, held)
    state.layers = weight_config(state.options).bind(state.graph, where, calibrated=not state.synthetic)
    auto = {name: settings for name, settings in state.layers.settings.items() if settings.weights == "auto"}
    if auto:
        if state.searched is None:
            raise ConfigError(f'{where}: weights: auto needs a search; give `attnc compile` a --budget such as "cosine>=0.99"')
        state.searched.update(auto)
        finest = {n.name: candidates(auto[n.name], weight_shape(n)[1], n.name)[0] for n in weighted(state.graph) if n.name in auto}
        state.layers = LayerChoices({**state.layers.settings, **finest})
    mark_lossless(state.graph, state.layers.weights, held)


def _note_ternary(state: State, held: Mapping[str, WeightFormat]) -> None:
    """Decoders with ternary weights (BitNet b1.58) are trained with a scale for each token, as those say whose file rounds activations."""
    for node in weighted(state.graph):
        if node.name in held and held[node.name].kind == "ternary":
            node.attrs["dynamic_input"] = True


def ease(state: State) -> None:
    """Operands of attention that are easier to quantize; a model whose activations arrived quantized stays as it is."""
    if all(value.imposed is None for value in state.graph.values.values()):
        attention.ease_attention(state.graph, glance(state, attention.operands(state.graph)))


def scale_tokens(state: State) -> None:
    """Dynamic activations for the layers whose settings ask for them."""

    def wanted(node: Node) -> bool:
        typed = state.graph.value(node.inputs[0]).imposed is not None or state.graph.value(node.output).imposed is not None
        return state.settings(node).activations == "dynamic" and state.input_bits(node) == 8 and not typed

    if any(wanted(node) for node in weighted(state.graph)):
        tokens.per_token(state.graph, wanted, glance(state, tokens.operands(state.graph, wanted)))
