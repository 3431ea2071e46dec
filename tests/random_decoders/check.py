"""A random decoder, compiled: in any blocks and sessions it gives the logits of the whole sequence, in golden and in C++."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Literal
from unittest import mock

import numpy as np
import onnx
import onnxruntime

from attnc.arrays import Array
from attnc.compiler import begin, write
from attnc.config import CompileOptions
from attnc.decoding.golden import GoldenDecoder
from attnc.decoding.plan import Decoder
from attnc.errors import UnsupportedError
from attnc.frontend import import_model
from attnc.golden import run_golden, run_reference
from attnc.kernels.design import KEY_PORTS, AttentionNumbers
from attnc.passes import caches
from attnc.pipeline.design import add_caches
from attnc.pipeline.phases import Phase, run
from attnc.pipeline.state import State
from attnc.quant.samples import Edge
from attnc.verify import golden_backend
from attnc_host import Accelerator, InputError
from attnc_host.caches import BATCH, DECODE, PREFILL, block_fits
from attnc_host.decoder import Sampling, Session
from random_decoders.grow import MOST_TOKENS, Recipe, Writer
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
    chunk: int
    """Tokens of a chunk of caches of two precisions, where these are cut in such."""
    branches: int
    """That are decoded together; 0: none are."""
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
        recipe = Recipe.drawn(dice, settings.group_size)
        cache, together = choose("int8", "int8", "k4v8", "int4"), choose(0, 0, 0, 2, 4, 8)
        block = choose(2, 3, 4, 5, 8) if not together else choose(*(n for n in (3, 5, 6, 8, 12) if n > together))
        chunk = block * (choose(1, 1, 2) if block < 5 else 1)
        lengths = (6, 9, 12, 15, 16, 21, 33)
        if cache != "int8" and not together:
            lengths = (*(3 * chunk + n for n in (0, 1, 2)), *(4 * chunk + n for n in (-1, 0, 1)), 5 * chunk + 1)
        length = choose(*(n for n in lengths if n > block and n >= 2 * together))
        if recipe.lengthy:
            length = min(length, recipe.trained)
        return cls(
            recipe=recipe,
            settings=settings,
            keys=choose(1, 1, 2, 4),
            length=length,
            block=min(block, length - 1),
            chunk=chunk,
            branches=together if recipe.branches and together < min(block, length - 1) and 2 * together <= length else 0,
            sessions=choose(1, 2, 3),
            cache=cache,
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
            sessions=self.sessions, cache=self.cache, head=self.head, batch=self.branches or None, output=output, check=self.timed,
        )  # fmt: skip


def planned(case: Case, folder: Path) -> State:
    """The decoder, quantized and with its caches, without hardware."""
    path = folder / "decoder.onnx"
    onnx.save(Writer(case.recipe).write(), path)
    if case.recipe.lengthy:
        check_refusal(case, path)
    with mock.patch.object(caches, "NEWEST", case.chunk):
        state = begin(path, case.options(folder / "build"), lambda title: None)
        run(state, lambda title: None, Phase.WIDEN)
        add_caches(state)
    return state


def check_refusal(case: Case, path: Path) -> None:
    """Tables that change behind some length are refused beyond it, and it is named."""
    trained = case.recipe.trained
    for length in (trained + 1, min(3 * trained, MOST_TOKENS)):
        try:
            import_model(path, length=length)
        except UnsupportedError as error:
            assert f"needed --max-length {trained} or less, found {length}" in error.reason, error
        else:
            raise AssertionError(f"{case.recipe.scaling} is taken for {length} tokens, and turns them by other angles from {trained} on")


def check_float(case: Case, path: Path) -> None:
    """What is compiled is the file's function at any length, of a prompt that comes whole or, where the file has a past, in two parts:
    onnxruntime says so."""
    rng, recipe = np.random.default_rng((case.seed, 7)), case.recipe
    model, session = import_model(path, length=case.length), onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ids = rng.integers(0, recipe.vocabulary, case.length)
    whole = run_reference(model.graph, Edge(model).feed({"input_ids": ids[None].astype(model.inputs[0].dtype)}))[model.graph.outputs[0]][0]
    types = {value.name: np.int32 if "int32" in value.type else np.int64 for value in session.get_inputs()}
    names, near = [value.name for value in session.get_outputs()], 1e-3 * float(np.abs(whole).max())
    for length in (case.length, int(rng.integers(1, case.length + 1))):
        cut = int(rng.integers(length)) if recipe.past else 0
        past = {name: np.zeros((1, recipe.kv_heads, 0, recipe.size), np.float32) for name in types if "past" in name}
        for start, stop in [(0, cut)] * (cut > 0) + [(cut, length)]:
            given = {"input_ids": ids[None, start:stop], "attention_mask": np.ones((1, stop)), "position_ids": np.arange(start, stop)[None]}
            feeds = past | {name: array.astype(types[name]) for name, array in given.items() if name in types}
            found = dict(zip(names, session.run(names, feeds), strict=True))
            past = {name.replace("present", "past_key_values"): array for name, array in found.items() if name != "logits"}
            np.testing.assert_allclose(
                found["logits"][0], whole[start:stop], rtol=0, atol=near, err_msg=f"{start} to {stop} in onnxruntime"
            )


def check_golden(case: Case, decoder: Decoder) -> None:
    """A sequence in blocks of any sizes, over caches that hold anything, gives the logits of the model over the whole sequence."""
    for seed in range(SPLITS):
        rng = np.random.default_rng((case.seed, seed))
        run_in_blocks(decoder, rng, case.recipe.vocabulary)
        if decoder.branches:
            run_together(decoder, rng, case.recipe.vocabulary)


def run_in_blocks(decoder: Decoder, rng: np.random.Generator, vocabulary: int) -> None:
    """The same for one way to cut a sequence."""
    ids = rng.integers(0, vocabulary, decoder.length)
    rows, whole = decoder.rows(ids, 0), whole_of(decoder, ids)
    golden, position, block = holding_anything(decoder, rng), 0, decoder.block
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


def holding_anything(decoder: Decoder, rng: np.random.Generator) -> GoldenDecoder:
    """A sequence that has not begun."""
    golden = GoldenDecoder(decoder.model.graph)
    for name, cache in golden.caches.items():
        low, high = next(decoder.model.graph.type(key).range for key, value in decoder.model.graph.values.items()
                         if value.held is not None and value.held.name == name)  # fmt: skip
        cache[...] = rng.integers(low, high + 1, cache.shape)
    return golden


def run_together(decoder: Decoder, rng: np.random.Generator, vocabulary: int) -> None:
    """Branches behind a prefix of any length, as far as there is place: each gives the logits of a whole sequence of its own."""
    golden, count = holding_anything(decoder, rng), decoder.branches
    prefix = int(rng.choice([0, rng.integers(decoder.length - count + 1), decoder.length - count]))
    ids = rng.integers(0, vocabulary, (count, decoder.length))
    ids[:, :prefix] = ids[0, :prefix]
    whole = [whole_of(decoder, each) for each in ids]
    for position in range(prefix):
        golden.run(DECODE, position, {decoder.inputs[DECODE]: decoder.rows(ids[0, position : position + 1], position)})
    for position in range(prefix, prefix + (decoder.length - prefix) // count):
        given = {decoder.inputs[BATCH]: decoder.together(ids[:, position], position)}
        found = decoder.logits(golden.run(BATCH, position, given, prefix), BATCH)
        for branch in range(count):
            np.testing.assert_array_equal(found[branch], whole[branch][position], err_msg=f"golden, branch {branch} at {position}")


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
        talk = Talk(case, decoder, {"golden": golden, "csim": csim}, folder)
        for _ in range(ACTIONS):
            talk.act()


class Talk:
    """The sessions of every backend, the same actions on all: each logit, and each token that is generated, must be what golden says of a
    whole sequence."""

    def __init__(self, case: Case, decoder: Decoder, backends: Mapping[str, Accelerator], folder: Path) -> None:
        self.case, self.decoder, self.backends, self.file = case, decoder, backends, folder / "talk.json"
        self.type = decoder.sequence.graph.type(decoder.sequence.graph.outputs[0])
        self.rng = np.random.default_rng((case.seed, 99))
        self.sessions: dict[int, dict[str, Session]] = {}

    def act(self) -> None:
        """One random action."""
        number = int(self.rng.integers(self.case.sessions))
        current = self.sessions.get(number, {})
        before = next((session.ids.copy() for session in current.values()), [])
        kind = self.rng.choice(["extend", "extend", "extend", "fork", "anew", "saved", "generate", "many"])
        if kind == "many":
            self.many()
        elif kind in ("fork", "saved") and before:
            self.copied(current, number, kind)
        else:
            given: list[int] = []
            if not before or kind == "anew" or len(before) == self.case.length:
                self.sessions[number] = current = {name: accelerator.session(number) for name, accelerator in self.backends.items()}
                given, before = before[: int(self.rng.integers(len(before) + 1))], []
            room = self.case.length - len(before) - len(given)
            given += self.tokens(int(self.rng.integers(0 if given else 1, room + 1)))
            (self.generate if kind == "generate" else self.extend)(current, before, given)

    def tokens(self, count: int) -> list[int]:
        return self.rng.integers(0, self.case.recipe.vocabulary, count).tolist()

    def logits(self, ids: Sequence[int]) -> Array:
        """Of each of `ids` [tokens, vocabulary], as a session has them."""
        return self.type.dequantize(whole_of(self.decoder, np.array(ids))[np.newaxis])[0]

    def extend(self, current: Mapping[str, Session], before: list[int], given: list[int]) -> None:
        expected = self.logits([*before, *given])[len(before) + len(given) - 1]
        for name, session in current.items():
            found = session.extend(given)
            assert session.ids == [*before, *given]
            np.testing.assert_array_equal(found, expected, err_msg=f"{name}, session {session.number}: {given} behind {before}")

    def copied(self, current: Mapping[str, Session], number: int, kind: str) -> None:
        """To another session; by a file to the same too."""
        other = int((number + self.rng.integers(self.case.sessions)) % self.case.sessions)
        if kind == "fork" and other == number:
            return
        made = {}
        for name, session in current.items():
            if kind == "fork":
                made[name] = session.fork(other)
            else:
                session.save(self.file)
                made[name] = self.backends[name].session(other)
                made[name].load(self.file)
            assert made[name].ids == session.ids
        self.sessions[other] = made

    def followed(self, ids: list[int], most: int, sampling: Sampling, seed: int) -> list[int]:
        """The tokens that follow `ids`, each by the logits of a whole sequence."""
        made, rng = list[int](), np.random.default_rng(seed)
        while len(made) < most and len(ids) + len(made) <= self.case.length:
            logits = self.logits([*ids, *made])[len(ids) + len(made) - 1]
            made.append(sampling.choose(logits, [*ids, *made], rng))
        return made

    def generate(self, current: Mapping[str, Session], before: list[int], given: list[int]) -> None:
        sampling, seed, most = self.sampling(), int(self.rng.integers(100)), int(self.rng.integers(1, 5))
        expected = self.followed([*before, *given], most, sampling, seed)
        for name, session in current.items():
            assert list(session.generate(given, most, sampling, seed=seed)) == expected, f"{name}: {given} behind {before}"
            assert session.ids == [*before, *given, *expected[:-1]]

    def sampling(self) -> Sampling:
        return Sampling(float(self.rng.choice([0.0, 1.0])), int(self.rng.choice([0, 3])), float(self.rng.choice([1.0, 0.8])))

    def many(self) -> None:
        """Several texts, which begin alike or do not."""
        first, prompts = self.tokens(int(self.rng.integers(1, self.case.length))), []
        for _ in range(int(self.rng.integers(1, 2 * max(self.case.branches, 1) + 1))):
            kept = first[: int(self.rng.choice([len(first), self.rng.integers(len(first) + 1)]))]
            prompts.append([*kept, *self.tokens(int(self.rng.integers(0 if kept else 1, min(self.case.length - len(kept), 3) + 1)))])
        sampling, seed, most = self.sampling(), int(self.rng.integers(100)), int(self.rng.integers(1, 5))
        expected = [self.followed(ids, most, sampling, seed + number) for number, ids in enumerate(prompts)]
        for name, accelerator in self.backends.items():
            found: list[list[int]] = [[] for _ in prompts]
            for number, token in accelerator.generate_many(prompts, most, sampling=sampling, seed=seed):
                found[number].append(token)
            assert found == expected, f"{name}: {prompts}"
        for session in self.sessions.pop(0, {}).values():
            self.refused(session)

    def refused(self, session: Session) -> None:
        """Its caches hold other texts by now: it says so, where they are not its own."""
        if session.left and session.ids:
            with contextlib.suppress(InputError):
                found = session.extend([0])
                np.testing.assert_array_equal(found, self.logits(session.ids)[len(session.ids) - 1])
