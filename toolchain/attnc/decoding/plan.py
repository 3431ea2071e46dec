"""A decoder over sequences and what is built from it: its graph with caches, the host's tables, and runs that show that they agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from attnc.arrays import Array
from attnc.config import block_of
from attnc.decoding.embedding import Embedding, embedding
from attnc.decoding.golden import GoldenDecoder
from attnc.decoding.head import host_head, host_layer, last_linear, without_head
from attnc.decoding.texts import Texts, find_texts
from attnc.errors import AttncError, ConfigError, UnsupportedError
from attnc.golden import run_golden
from attnc.ir import Graph
from attnc.model import Feed, Fetch, Model
from attnc.passes.decoding import renamed, with_cache
from attnc_host.caches import BATCH, DECODE, PREFILL, block_fits
from attnc_host.head import Head

UNWRITTEN = 0xA5
"""What the test bench fills memory with before the first run."""


@dataclass(frozen=True)
class Decoder:
    """`sequence` is the model over whole sequences of `length` tokens, `model` the one with caches. `texts`: what was found beside the
    model for them. `head`: the last linear layer where that runs on the host, behind `model`. `branches` of a sequence are decoded
    together; 0: none are."""

    sequence: Model
    model: Model
    length: int
    block: int
    tokens: Embedding
    texts: Texts = field(default_factory=Texts)
    head: Head | None = None
    branches: int = 0

    @property
    def entries(self) -> tuple[str, ...]:
        """In the order of the program."""
        return (PREFILL, DECODE, BATCH) if self.branches else (PREFILL, DECODE)

    @property
    def inputs(self) -> dict[str, str]:
        """The device's input by entry."""
        name = self.sequence.graph.inputs[0]
        return {entry: renamed(entry, name) for entry in self.entries}

    @property
    def shared(self) -> int:
        """Tokens that branches have in common in the test bench: a block, or as much of it as leaves room for two of each."""
        return min(self.block, self.length - 2 * self.branches)

    @property
    def outputs(self) -> dict[str, list[str]]:
        """The device's outputs by entry: logits, or what the host makes them of."""
        names = self.model.graph.outputs
        each = len(names) // (2 if self.branches else 1)
        return {DECODE: names[:each], BATCH: names[each:]} if self.branches else {DECODE: names}

    @property
    def rings(self) -> list[int]:
        """Rows of the caches that are rings."""
        held = (value.held for value in self.model.graph.values.values())
        return sorted({each.rows for each in held if each is not None and each.ring})

    @property
    def chunks(self) -> list[int]:
        """Tokens of the chunks of caches of two precisions."""
        return self.model.graph.chunks

    @property
    def borders(self) -> list[int]:
        """No block goes over a multiple of any."""
        return [*self.rings, *self.chunks]

    def rows(self, ids: Array, position: int) -> Array:
        """What the device gets for tokens, [tokens, channels]."""
        return self.tokens.rows(ids, position, self.sequence.graph.type(self.sequence.graph.inputs[0]))

    def logits(self, outputs: Mapping[str, Array], entry: str = DECODE) -> Array:
        """Logits [tokens, vocabulary], integers, of what the device gives of an entry."""
        found, *peak = (outputs[name] for name in self.outputs[entry])
        return found if self.head is None else self.head.integers(found, peak[0] if peak else None)

    def together(self, ids: Array, position: int) -> Array:
        """The same for tokens of branches, all at one position."""
        return np.concatenate([self.rows(ids[branch : branch + 1], position) for branch in range(len(ids))])


@dataclass(frozen=True)
class Run:
    """An entry at a position, with the tokens of it; `outputs` of the device [tokens, channels] by name, integers, where it gives some.
    Branches share all tokens before."""

    entry: str
    position: int
    rows: Array
    outputs: Mapping[str, Array]


def plan_decoder(
    sequence: Model, length: int, block: int | None, sessions: int, vocabulary: int, folder: Path, branches: int = 0
) -> Decoder:
    """From a quantized model over sequences, whose file lies in `folder`. Raises where it is none that can be decoded token by token, or
    not in so many branches together."""
    size = block_of(block, length)
    if size >= length:
        raise ConfigError(f"--block {size}: needs fewer tokens than --max-length {length}")
    if branches and (branches & (branches - 1) or branches >= size or 2 * branches > length):
        needed = f"a power of two, fewer than the {size} tokens of --block and at most half of --max-length {length}"
        raise ConfigError(f"--batch {branches}: needs {needed}")
    if sequence.trailing is not None or len(sequence.fetches) != 1 or len(sequence.graph.outputs) != 1:
        last = next((place for place in reversed(sequence.placements) if place.where == "host"), None)
        name, operator = (last.node, last.operator) if last else (sequence.fetches[0].tensor, "output")
        raise UnsupportedError(name, operator, "it runs on the host behind the device; of a decoder only the logits may come from there")
    if len(sequence.graph.inputs) != 1:
        raise UnsupportedError(sequence.feeds[-1].tensor, "input", "a decoder has one input on the device, the rows of its tokens")
    chunks = {node.attrs["cache_chunk"] for node in sequence.graph.nodes if "cache_chunk" in node.attrs}
    if any(chunk % size for chunk in chunks):
        raise ConfigError(f"--block {size}: needs to divide the {max(chunks)} tokens of a chunk that the model was quantized for")
    model = _with_edges(sequence, with_cache(sequence.graph, length, size, branches), sessions, branches)
    texts = find_texts(folder, vocabulary)
    return Decoder(sequence, model, length, size, embedding(sequence, vocabulary), texts, branches=branches)


def head_on_host(decoder: Decoder, ms: float | None) -> Decoder:
    """The same with its last linear layer on the host, where a token is estimated to take `ms`. Raises where it ends with anything else."""
    head, sessions, branches = last_linear(decoder.sequence.graph), decoder.model.graph.sessions, decoder.branches
    graph = with_cache(without_head(head), decoder.length, decoder.block, branches)
    return replace(decoder, model=_with_edges(decoder.sequence, graph, sessions, branches), head=host_head(head, host_layer(head, ms)))


def _with_edges(sequence: Model, graph: Graph, sessions: int, branches: int) -> Model:
    """The model with caches: rows of tokens in, by entry; logits of the last or of each branch out, or what the host makes them of."""
    graph.sessions = sessions
    (feed,), (fetch,) = sequence.feeds, sequence.fetches
    feeds, fetches = [], []
    for entry in (PREFILL, DECODE, BATCH)[: 2 + bool(branches)]:
        shape = graph.value(renamed(entry, feed.value)).shape
        feeds.append(Feed(renamed(entry, feed.value), feed.tensor, np.arange(shape[0] * shape[1]).reshape(shape)))
    for name in graph.outputs:
        rows, channels = graph.value(name).shape
        fetches.append(Fetch(fetch.tensor, name, (rows, 1, channels), np.arange(rows * channels)))
    return replace(sequence, graph=graph, feeds=feeds, fetches=fetches, leading=None)


def check_runs(decoder: Decoder, ids: Array) -> list[Run]:
    """Runs for the test bench: a block from position 0 on, the token behind it, and branches there. Before, the whole sequence `ids`
    [length] is worked on in blocks of many sizes, and every logit must be what the model over sequences gives."""
    graph, length, block = decoder.model.graph, decoder.length, decoder.block
    rows = decoder.rows(ids, 0)
    name = decoder.sequence.graph.inputs[0]
    whole = next(iter(run_golden(decoder.sequence.graph, {name: rows[np.newaxis]}).values()))[0]
    golden, position, runs, borders = GoldenDecoder(graph), 0, list[Run](), decoder.borders
    taken = block
    while position < length:
        if taken > 0 and block_fits(position, block, length, borders):
            given = np.zeros((block, rows.shape[1]), rows.dtype)
            given[:taken] = rows[position : position + taken]
            golden.run(PREFILL, position, {decoder.inputs[PREFILL]: given})
            runs.append(Run(PREFILL, position, given, {}))
            position, taken = position + taken, taken - 1 - taken // 2
        if position < length:
            found = golden.run(DECODE, position, {decoder.inputs[DECODE]: rows[position : position + 1]})
            if not np.array_equal(decoder.logits(found)[0], whole[position]):
                raise AttncError(f"decoding token by token differs from the whole sequence at position {position}, which is a bug in attnc")
            runs.append(Run(DECODE, position, rows[position : position + 1], found))
            position += 1
            taken = taken or (block if position + 2 * block <= length else 0)
    return [*runs[:2], *(_check_branches(decoder, ids) if decoder.branches else [])]


def _check_branches(decoder: Decoder, ids: Array) -> list[Run]:
    """Two tokens of each branch: the logits are those of sequences of their own. Only the first run is for the test bench."""
    prefix, count, runs = decoder.shared, decoder.branches, list[Run]()
    together = GoldenDecoder(decoder.model.graph)
    together.run(PREFILL, 0, {decoder.inputs[PREFILL]: decoder.rows(ids[: decoder.block], 0)})
    alone = [together.copy() for _ in range(count)]
    for position in (prefix, prefix + 1):
        tokens = np.roll(ids, -position)[:count]
        rows = decoder.together(tokens, position)
        found = together.run(BATCH, position, {decoder.inputs[BATCH]: rows}, prefix)
        logits = decoder.logits(found, BATCH)
        for branch, golden in enumerate(alone):
            own = golden.run(DECODE, position, {decoder.inputs[DECODE]: rows[branch : branch + 1]})
            if not np.array_equal(logits[branch], decoder.logits(own)[0]):
                raise AttncError(f"branch {branch} differs from a sequence of its own at position {position}, which is a bug in attnc")
        runs.append(Run(BATCH, position, rows, found))
    return runs[:1]


def images(runs: list[Run], decoder: Decoder) -> tuple[dict[str, Array], dict[str, Array]]:
    """Inputs and outputs of the device for each run, [runs, rows, channels]: what an entry does not take is zero, and what it does not make
    is left as it was."""
    graph = decoder.model.graph
    inputs: dict[str, Array] = {}
    for entry, name in decoder.inputs.items():
        shape = graph.value(name).shape
        empty = np.zeros(shape, graph.type(name).dtype)
        inputs[name] = np.stack([run.rows if run.entry == entry else empty for run in runs])
    outputs = {}
    for entry, names in decoder.outputs.items():
        for name in names:
            last: Array = np.zeros(graph.value(name).shape, graph.type(name).dtype)
            found = []
            for run in runs:
                last = run.outputs[name] if run.entry == entry else last
                found.append(last)
            outputs[name] = np.stack(found)
    return inputs, outputs
