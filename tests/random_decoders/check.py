"""A random decoder, compiled: in any blocks and sessions it gives the logits of the whole sequence, in golden and in C++."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Literal
from unittest import mock

import numpy as np
import onnx

from attnc.arrays import Array
from attnc.compiler import begin, write
from attnc.config import CompileOptions
from attnc.decoding.golden import GoldenDecoder
from attnc.decoding.plan import Decoder
from attnc.golden import run_golden
from attnc.kernels.design import KEY_PORTS, AttentionNumbers
from attnc.pipeline.design import add_caches
from attnc.pipeline.phases import Phase, run
from attnc.pipeline.state import State
from attnc.verify import golden_backend
from attnc_host import Accelerator
from attnc_host.caches import DECODE, PREFILL, block_fits
from attnc_host.decoder import Session
from random_decoders.grow import Recipe, Writer
from random_graphs.pack import FLAGS, Settings, legal

assert golden_backend  # registers "golden"
SPLITS = 3
ACTIONS = 12


@dataclass(frozen=True)
class Case:
    """A decoder and how it is compiled."""

    recipe: Recipe
    settings: Settings
    keys: int
    """Keys and values of a cache that attention to a query alone takes at a time."""
    length: int
    block: int
    sessions: int
    cache: str
    head: Literal["device", "host"]
    timed: bool
    """Whether its C++ runs in simulated time too, in both styles of pipelines."""
    seed: int

    @classmethod
    def drawn(cls, seed: int) -> Case:
        """The one of a seed."""
        dice = Random(f"decoder {seed}")

        def choose(*options: Any) -> Any:
            return options[dice.randrange(len(options))]

        settings = replace(Settings.drawn(dice), arrives="float", passes="auto", types="native")  # others take minutes in C++
        length = choose(6, 9, 12, 15, 16, 21, 33)
        recipe = Recipe.drawn(dice, settings.group_size)
        return cls(
            recipe=recipe,
            settings=settings,
            keys=choose(1, 1, 2, 4),
            length=length,
            block=choose(*(n for n in (2, 3, 4, 5, 8, 16) if n < length)),
            sessions=choose(1, 2, 3),
            cache=choose("int8", "int8", "k4v8", "int4"),
            head=choose("device", "device" if recipe.final_softcap else "host"),
            timed=choose(0, 0, 0, 1) == 1,
            seed=seed,
        )

    def options(self, output: Path) -> CompileOptions:
        """As `attnc compile` has them."""
        settings = self.settings
        return CompileOptions(
            hold_out=0, calibration=settings.calibration, weights=settings.weights, group_size=settings.group_size,
            quantizer="binary" if settings.weights.startswith("binary") else "minmax", activations=settings.activations,
            activation_bits=settings.activation_bits, engine=settings.engine, max_length=self.length, block=self.block,
            sessions=self.sessions, cache=self.cache, head=self.head, output=output, check=self.timed,
        )  # fmt: skip


def planned(case: Case, folder: Path) -> State:
    """The decoder, quantized and with its caches, without hardware."""
    path = folder / "decoder.onnx"
    onnx.save(Writer(case.recipe).write(), path)
    state = begin(path, case.options(folder / "build"), lambda title: None)
    run(state, lambda title: None, Phase.WIDEN)
    add_caches(state)
    return state


def check_golden(case: Case, decoder: Decoder) -> None:
    """A sequence in blocks of any sizes, over caches that hold anything, gives the logits of the model over the whole sequence."""
    for seed in range(SPLITS):
        run_in_blocks(decoder, np.random.default_rng((case.seed, seed)), case.recipe.vocabulary)


def run_in_blocks(decoder: Decoder, rng: np.random.Generator, vocabulary: int) -> None:
    """The same for one way to cut a sequence."""
    ids = rng.integers(0, vocabulary, decoder.length)
    rows, whole = decoder.rows(ids, 0), whole_of(decoder, ids)
    golden, position, block = GoldenDecoder(decoder.model.graph), 0, decoder.block
    for name, cache in golden.caches.items():
        low, high = next(decoder.model.graph.type(key).range for key, value in decoder.model.graph.values.items()
                         if value.held is not None and value.held.name == name)  # fmt: skip
        cache[...] = rng.integers(low, high + 1, cache.shape)
    while position < decoder.length:
        count = int(rng.integers(0, block + 1))
        if count and block_fits(position, block, decoder.length, decoder.borders):
            count = min(count, decoder.length - position)
            given = rng.integers(-100, 100, (block, rows.shape[1])).astype(rows.dtype)  # what follows the tokens is nobody's
            given[:count] = rows[position : position + count]
            golden.run(PREFILL, position, {decoder.inputs[PREFILL]: given})
            position += count
        else:
            found = decoder.logits(golden.run(DECODE, position, {decoder.inputs[DECODE]: rows[position : position + 1]}))
            np.testing.assert_array_equal(found[0], whole[position], err_msg=f"golden at {position}")
            position += 1


def whole_of(decoder: Decoder, ids: Array) -> Array:
    """Logits [tokens, vocabulary] in integers of a sequence of `ids` that golden works on as a whole; what follows them is anything."""
    graph, full = decoder.sequence.graph, np.zeros(decoder.length, np.int64)
    full[: len(ids)] = ids
    return run_golden(graph, {graph.inputs[0]: decoder.rows(full, 0)[np.newaxis]})[graph.outputs[0]][0]


def build(case: Case, state: State) -> Path:
    """Emit the project of the case's own design."""
    design = legal(case.settings, state.graph)
    queries = [numbers.queries for numbers in design.engines.values() if isinstance(numbers, AttentionNumbers)]
    state.design = design.having(keys=min(case.keys, *queries, KEY_PORTS[-1] * design.beat))
    return write(state, lambda title: None, lambda text: None)


def check_cpp(case: Case, state: State) -> None:
    """Sessions that take turns in pieces of any size, forks and new beginnings: the same logits in C++ and golden as over the whole
    sequence."""
    decoder = state.decoder
    assert decoder is not None
    folder = build(case, state)
    with (
        mock.patch.dict(os.environ, CXXFLAGS=FLAGS),
        Accelerator.open(folder, "csim") as csim,
        Accelerator.open(folder, "golden") as golden,
    ):
        talk(case, decoder, {"golden": golden, "csim": csim})


def talk(case: Case, decoder: Decoder, backends: Mapping[str, Accelerator]) -> None:
    """Random actions on the sessions of every backend, and each logit against golden over the whole sequence."""
    rng, type_ = np.random.default_rng((case.seed, 99)), decoder.sequence.graph.type(decoder.sequence.graph.outputs[0])
    sessions: dict[int, dict[str, Session]] = {}
    for _ in range(ACTIONS):
        number, kind = int(rng.integers(case.sessions)), rng.choice(["extend", "extend", "extend", "fork", "anew"])
        current = sessions.get(number, {})
        before = next((session.ids.copy() for session in current.values()), [])
        if kind == "fork" and before and case.sessions > 1:
            other = int((number + rng.integers(1, case.sessions)) % case.sessions)
            sessions[other] = {name: session.fork(other) for name, session in current.items()}
            continue
        given: list[int] = []
        if not before or kind == "anew" or len(before) == case.length:
            sessions[number] = current = {name: accelerator.session(number) for name, accelerator in backends.items()}
            given, before = before[: int(rng.integers(len(before) + 1))], []
        room = case.length - len(before) - len(given)
        count = int(rng.integers(0 if given else 1, room + 1))
        given += map(int, rng.integers(0, case.recipe.vocabulary, count))
        whole = type_.dequantize(whole_of(decoder, np.array([*before, *given]))[np.newaxis])[0]
        for name, session in current.items():
            found = session.extend(given)
            assert session.ids == [*before, *given]
            np.testing.assert_array_equal(found, whole[len(session.ids) - 1], err_msg=f"{name}, session {number}: {given} behind {before}")
