"""A decoder over sequences and what is built from it: its graph with caches, the host's tables, and runs that show that they agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from attnc.arrays import Array
from attnc.config import block_of
from attnc.decoding.embedding import Embedding, embedding
from attnc.decoding.golden import GoldenDecoder
from attnc.decoding.head import host_head, host_layer, last_linear, without_head
from attnc.errors import AttncError, ConfigError, UnsupportedError
from attnc.golden import run_golden
from attnc.ir import Graph
from attnc.model import Feed, Fetch, Model
from attnc.passes.decoding import renamed, with_cache
from attnc_host.caches import DECODE, PREFILL, block_fits
from attnc_host.head import Head

UNWRITTEN = 0xA5
"""What the test bench fills memory with before the first run."""


@dataclass(frozen=True)
class Decoder:
    """`sequence` is the model over whole sequences of `length` tokens, `model` the one with caches. `tokenizer`: the file that was found
    beside the model. `head`: the last linear layer where that runs on the host, behind `model`."""

    sequence: Model
    model: Model
    length: int
    block: int
    tokens: Embedding
    tokenizer: Path | None = None
    head: Head | None = None

    @property
    def inputs(self) -> dict[str, str]:
        """The device's input by entry."""
        name = self.sequence.graph.inputs[0]
        return {entry: renamed(entry, name) for entry in (PREFILL, DECODE)}

    @property
    def rings(self) -> list[int]:
        """Rows of the caches that are rings."""
        held = (value.held for value in self.model.graph.values.values())
        return sorted({each.rows for each in held if each is not None and each.ring})

    @property
    def chunks(self) -> list[int]:
        """Tokens of the chunks of caches of two precisions."""
        held = (value.held for value in self.model.graph.values.values())
        return sorted({each.chunk for each in held if each is not None and each.chunk})

    @property
    def borders(self) -> list[int]:
        """No block goes over a multiple of any."""
        return [*self.rings, *self.chunks]

    def rows(self, ids: Array, position: int) -> Array:
        """What the device gets for tokens, [tokens, channels]."""
        return self.tokens.rows(ids, position, self.sequence.graph.type(self.sequence.graph.inputs[0]))

    def logits(self, outputs: Mapping[str, Array]) -> Array:
        """Logits [tokens, vocabulary], integers, of what the device gives of `DECODE`."""
        if self.head is None:
            (logits,) = outputs.values()
            return logits
        peak = self.head.layer.peak
        return self.head.integers(outputs[self.head.layer.input], None if peak is None else outputs[peak])


@dataclass(frozen=True)
class Run:
    """An entry at a position, with the tokens of it; `outputs` of the device [1, channels] by name, integers, where it gives some."""

    entry: str
    position: int
    rows: Array
    outputs: Mapping[str, Array]


def plan_decoder(sequence: Model, length: int, block: int | None, sessions: int, vocabulary: int, folder: Path) -> Decoder:
    """From a quantized model over sequences, whose file lies in `folder`. Raises where it is none that can be decoded token by token."""
    size = block_of(block, length)
    if size >= length:
        raise ConfigError(f"--block {size}: needs fewer tokens than --max-length {length}")
    if sequence.trailing is not None or len(sequence.fetches) != 1 or len(sequence.graph.outputs) != 1:
        last = next((place for place in reversed(sequence.placements) if place.where == "host"), None)
        name, operator = (last.node, last.operator) if last else (sequence.fetches[0].tensor, "output")
        raise UnsupportedError(name, operator, "it runs on the host behind the device; of a decoder only the logits may come from there")
    if len(sequence.graph.inputs) != 1:
        raise UnsupportedError(sequence.feeds[-1].tensor, "input", "a decoder has one input on the device, the rows of its tokens")
    chunks = {node.attrs["cache_chunk"] for node in sequence.graph.nodes if "cache_chunk" in node.attrs}
    if any(chunk % size for chunk in chunks):
        raise ConfigError(f"--block {size}: needs to divide the {max(chunks)} tokens of a chunk that the model was quantized for")
    tokenizer = folder / "tokenizer.json"
    found = tokenizer if tokenizer.is_file() else None
    model = _with_edges(sequence, with_cache(sequence.graph, length, size), sessions)
    return Decoder(sequence, model, length, size, embedding(sequence, vocabulary), found)


def head_on_host(decoder: Decoder, ms: float | None) -> Decoder:
    """The same with its last linear layer on the host, where a token is estimated to take `ms`. Raises where it ends with anything else."""
    head, sessions = last_linear(decoder.sequence.graph), decoder.model.graph.sessions
    model = _with_edges(decoder.sequence, with_cache(without_head(head), decoder.length, decoder.block), sessions)
    return replace(decoder, model=model, head=host_head(head, host_layer(head, ms)))


def _with_edges(sequence: Model, graph: Graph, sessions: int) -> Model:
    """The model with caches: rows of tokens in, by entry; logits of the last one out, or what the host makes them of."""
    graph.sessions = sessions
    (feed,), (fetch,) = sequence.feeds, sequence.fetches
    feeds = []
    for entry in (PREFILL, DECODE):
        shape = graph.value(renamed(entry, feed.value)).shape
        feeds.append(Feed(renamed(entry, feed.value), feed.tensor, np.arange(shape[0] * shape[1]).reshape(shape)))
    channels = {name: graph.value(name).shape[1] for name in graph.outputs}
    fetches = [Fetch(fetch.tensor, name, (1, 1, count), np.arange(count)) for name, count in channels.items()]
    return replace(sequence, graph=graph, feeds=feeds, fetches=fetches, leading=None)


def check_runs(decoder: Decoder, ids: Array) -> list[Run]:
    """Runs for the test bench: a block from position 0 on, and the token behind it. Before, the whole sequence `ids` [length] is worked on
    in blocks of many sizes, and every logit must be what the model over sequences gives."""
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
    return runs[:2]


def images(runs: list[Run], decoder: Decoder) -> tuple[dict[str, Array], dict[str, Array]]:
    """Inputs and outputs of the device for each run, [runs, rows, channels]: what an entry does not take is zero, and what it does not make
    is left as it was."""
    graph = decoder.model.graph
    inputs: dict[str, Array] = {}
    for entry, name in decoder.inputs.items():
        shape = graph.value(name).shape
        empty = np.zeros(shape, graph.type(name).dtype)
        inputs[name] = np.stack([run.rows if run.entry == entry else empty for run in runs])
    last: Mapping[str, Array] = {name: np.zeros(graph.value(name).shape, graph.type(name).dtype) for name in graph.outputs}
    outputs = []
    for run in runs:
        last = run.outputs or last
        outputs.append(last)
    return inputs, {name: np.stack([given[name] for given in outputs]) for name in graph.outputs}


def settings(runs: list[Run], entries: Mapping[str, range]) -> Array:
    """The integers that start each run: first instruction, how many, position, session; [runs, 4]."""
    return np.array([[entries[run.entry].start, len(entries[run.entry]), run.position, 0] for run in runs], "<i4")
