"""The pipeline: one flat list of passes over the state, each in a phase. What runs again is a phase."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from attnc.errors import ConfigError
from attnc.ops import verify
from attnc.passes.approximations import share_implementations
from attnc.passes.types import assign_types
from attnc.pipeline.compare import check_against_float, compare_layers
from attnc.pipeline.design import add_caches, settle_design
from attnc.pipeline.quantize import (
    calibrate,
    choose_attention_biases,
    plan,
    plan_again,
    quantize,
    quantize_weights,
)
from attnc.pipeline.rewrite import (
    choose_formats,
    ease,
    fold_attention_masks,
    narrow,
    note_implementations,
    pad_heads_to_words,
    pair_rotary_channels,
    scale_tokens,
)
from attnc.pipeline.state import State
from attnc.pipeline.widths import choose_widths

Progress = Callable[[str], None]


class Phase(IntEnum):
    """The phases, in order."""

    REWRITE = 1
    """The imported graph, checked, and made easy to quantize; what the options say of it is noted."""
    CALIBRATE = 2
    """What every value is to become, and statistics of it."""
    QUANTIZE = 3
    """From the planned float graph to integers, measured against float: all that follows from the widths of inputs."""
    WIDEN = 4
    """The widths of inputs; each that is tried runs QUANTIZE again."""
    DESIGN = 5
    """The hardware."""


@dataclass(frozen=True)
class Pass:
    """A change of the state; `title` is what a person reads while it runs. Some are for decoders alone."""

    phase: Phase
    title: str
    run: Callable[[State], None]
    of_decoders: bool = False


PASSES = (
    Pass(Phase.REWRITE, "folding masks into attention", fold_attention_masks),
    Pass(Phase.REWRITE, "pairing channels of rotary embeddings", pair_rotary_channels),
    Pass(Phase.REWRITE, "padding heads", pad_heads_to_words),
    Pass(Phase.REWRITE, "checking the imported graph against the float model", check_against_float),
    Pass(Phase.REWRITE, "choosing formats of weights", choose_formats),
    Pass(Phase.REWRITE, "easing attention", ease),
    Pass(Phase.REWRITE, "making keys and values smaller", narrow, of_decoders=True),
    Pass(Phase.REWRITE, "scaling activations per token", scale_tokens),
    Pass(Phase.REWRITE, "noting implementations", note_implementations),
    Pass(Phase.CALIBRATE, "planning types", plan),
    Pass(Phase.CALIBRATE, "calibrating", calibrate),
    Pass(Phase.QUANTIZE, "choosing scales", lambda s: assign_types(s.graph, s.plan, s.statistics, s.options.calibration)),
    Pass(Phase.QUANTIZE, "choosing implementations", lambda s: share_implementations(s.graph)),
    Pass(Phase.QUANTIZE, "choosing how biases are made", choose_attention_biases),
    Pass(Phase.QUANTIZE, "quantizing weights", quantize_weights),
    Pass(Phase.QUANTIZE, "quantizing", quantize),
    Pass(Phase.QUANTIZE, "comparing golden with float", compare_layers),
    Pass(Phase.WIDEN, "choosing widths of inputs", lambda s: choose_widths(s, requantize)),
    Pass(Phase.DESIGN, "adding caches", add_caches, of_decoders=True),
    Pass(Phase.DESIGN, "choosing the design", settle_design),
)


def run(state: State, progress: Progress, last: Phase = Phase.DESIGN) -> None:
    """The passes up to those of phase `last`, the graph verified after each."""
    dump(state, 0, "imported")
    for number, each in enumerate(PASSES, 1):
        if each.phase <= last and (state.options.max_length is not None or not each.of_decoders):
            progress(each.title)
            each.run(state)
            verify(state.graph)
            dump(state, number, each.title)


def requantize(state: State) -> None:
    """The quantized graph anew, with the widths that `state` asks for now."""
    plan_again(state)
    for each in PASSES:
        if each.phase is Phase.QUANTIZE:
            each.run(state)
            verify(state.graph)


def dump(state: State, number: int, title: str) -> None:
    """The graph as text, if the options ask for it."""
    if state.options.dump is not None:
        try:
            state.options.dump.mkdir(parents=True, exist_ok=True)
            (state.options.dump / f"{number}_{title.replace(' ', '_')}.txt").write_text(state.graph.dump(), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--dump {state.options.dump}: cannot be written ({error})") from error
