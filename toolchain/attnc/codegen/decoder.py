"""What a build has beside others where it is a decoder: its entries, the host's tables of tokens, the runs of the test bench."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnc.arrays import Array
from attnc.decoding.head import layer_facts
from attnc.decoding.plan import UNWRITTEN, Decoder, Run
from attnc.schedule.cost import Estimate
from attnc.schedule.devices import Board
from attnc.schedule.entries import by_position
from attnc.schedule.program import Program
from attnc_host.caches import BATCH, DECODE, PREFILL, RUNS, block_before
from attnc_host.json_file import write_json

TOKENS, POSITIONS = "host/tokens.bin", "host/positions.bin"
TOKENIZER, CHAT = "host/tokenizer.json", "host/chat.json"


def write_decoder(folder: Path, decoder: Decoder, runs: Sequence[Run], program: Program, expected: Array) -> str:
    """The tables, and the runs, whose file it returns. `expected` [runs, bytes] are the output regions: where no run of an entry has
    given logits yet, it becomes what memory held."""
    decoder.tokens.tokens.tofile(folder / TOKENS)
    if decoder.tokens.positions is not None:
        decoder.tokens.positions.tofile(folder / POSITIONS)
    if decoder.head is not None:
        decoder.head.data.tofile(folder / decoder.head.layer.file)
    if decoder.texts.tokenizer is not None:
        (folder / TOKENIZER).write_bytes(decoder.texts.tokenizer.read_bytes())
    if decoder.texts.chat is not None:
        write_json(decoder.texts.chat, folder / CHAT)
    path = f"golden/{RUNS}"
    np.array([program.start(run.entry, run.position) for run in runs], "<i4").tofile(folder / path)
    offset, lanes = program.memory.outputs.offset, program.design.lanes
    for entry, names in decoder.outputs.items():
        first = next((number for number, run in enumerate(runs) if run.entry == entry), len(runs))
        for place in (program.memory.values[name] for name in names):
            expected[:first, (place.offset - offset) * lanes : (place.end - offset) * lanes] = UNWRITTEN
    return path


def decoder_facts(decoder: Decoder, program: Program, cost: Estimate, board: Board) -> dict[str, Any]:
    """Of the manifest. `estimates` are cycles by entry and position. `tokens` is a table of the device's integers, a row for each token;
    with `positions` both are float32, and their sum is rounded. `head` is what the host computes of the device's outputs, or null."""
    tokens, positions = decoder.tokens.tokens, decoder.tokens.positions
    return {
        "length": decoder.length,
        "block": decoder.block,
        "branches": decoder.branches,
        "sessions": decoder.model.graph.sessions,
        "registers": list(program.given),
        "entries": {
            entry: {
                "first": steps.start,
                "instructions": len(steps),
                "input": decoder.inputs[entry],
                "outputs": decoder.outputs.get(entry, []),
            }
            for entry, steps in program.entries.items()
        },
        "estimates": _estimates(decoder, program, cost, board),
        "input": decoder.sequence.inputs[0].name,
        "output": decoder.sequence.outputs[0].name,
        "vocabulary": len(tokens),
        "tokenizer": None if decoder.texts.tokenizer is None else TOKENIZER,
        "chat": None if decoder.texts.chat is None else CHAT,
        "ends": list(decoder.texts.ends),
        "tokens": {"file": TOKENS, "dtype": np.dtype(tokens.dtype).name},
        "positions": None if positions is None else {"file": POSITIONS, "dtype": positions.dtype.name},
        "head": None if decoder.head is None else layer_facts(decoder.head.layer),
        "caches": {"offset": program.memory.caches.offset, "words": program.memory.caches.words}
        | {"rings": decoder.rings, "chunks": decoder.chunks},
    }


def _estimates(decoder: Decoder, program: Program, cost: Estimate, board: Board) -> list[dict[str, Any]]:
    """At places between which cycles follow a line: where a ring is full there are no more keys to come. A token takes the time of a head
    on the host besides its cycles."""
    length, block, branches = decoder.length, decoder.block, decoder.branches
    places = sorted({0, block, length // 4, length // 2, length - 1, *decoder.rings, *([decoder.shared] if branches else [])})
    positions = [{DECODE: place, PREFILL: block_before(place, block, length, decoder.borders)} for place in places]
    if branches:  # of the row of the first one
        positions = [{**at, BATCH: min(at[DECODE], length - branches)} for at in positions]
    rows = by_position(program, cost, board, positions)
    ms = None if decoder.head is None else decoder.head.layer.ms
    if ms is not None:
        for row in (row for row in rows if row["entry"] != PREFILL):
            host = ms * (branches if row["entry"] == BATCH else 1)
            row |= {"ms": round(row["ms"] + host, 6), "host_ms": round(host, 6)}
    return rows
