"""What a build has beside others where it is a decoder: its entries, the host's tables of tokens, the runs of the test bench."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnc.arrays import Array
from attnc.decoding.plan import UNWRITTEN, Decoder, Run, settings
from attnc.kernels.call import REGISTERS
from attnc.schedule.program import Program
from attnc_host.caches import RUNS

TOKENS, POSITIONS = "host/tokens.bin", "host/positions.bin"
TOKENIZER = "host/tokenizer.json"


def write_decoder(folder: Path, decoder: Decoder, runs: Sequence[Run], program: Program, expected: Array) -> str:
    """The tables, and the runs, whose file it returns. `expected` [runs, bytes] are the output regions: where no run has given logits yet,
    it becomes what memory held."""
    decoder.tokens.tokens.tofile(folder / TOKENS)
    if decoder.tokens.positions is not None:
        decoder.tokens.positions.tofile(folder / POSITIONS)
    if decoder.tokenizer is not None:
        (folder / TOKENIZER).write_bytes(decoder.tokenizer.read_bytes())
    path = f"golden/{RUNS}"
    settings(list(runs), program.entries).tofile(folder / path)
    first = next((number for number, run in enumerate(runs) if run.logits is not None), len(runs))
    expected[:first] = UNWRITTEN
    return path


def decoder_facts(decoder: Decoder, program: Program) -> dict[str, Any]:
    """Of the manifest. `tokens` is a table of the device's integers, a row for each token; with `positions` both are float32, and their sum
    is rounded."""
    tokens, positions = decoder.tokens.tokens, decoder.tokens.positions
    return {
        "length": decoder.length,
        "block": decoder.block,
        "sessions": decoder.model.graph.sessions,
        "registers": list(REGISTERS),
        "entries": {
            entry: {"first": steps.start, "instructions": len(steps), "input": decoder.inputs[entry]}
            for entry, steps in program.entries.items()
        },
        "input": decoder.sequence.inputs[0].name,
        "output": decoder.sequence.outputs[0].name,
        "vocabulary": len(tokens),
        "tokenizer": None if decoder.tokenizer is None else TOKENIZER,
        "tokens": {"file": TOKENS, "dtype": np.dtype(tokens.dtype).name},
        "positions": None if positions is None else {"file": POSITIONS, "dtype": positions.dtype.name},
        "caches": {"offset": program.memory.caches.offset, "words": program.memory.caches.words, "rings": decoder.rings},
    }
