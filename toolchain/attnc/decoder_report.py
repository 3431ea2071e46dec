"""What a report says of a decoder: the length of sequences, bytes of caches, and the cycles of a block and of a token by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attnc.decoding.plan import Decoder, Run
from attnc.schedule.cost import Estimate
from attnc.schedule.devices import Board
from attnc.schedule.entries import by_position
from attnc.schedule.program import Program
from attnc_host.caches import DECODE, PREFILL, block_before


def decoder_report(decoder: Decoder, runs: Sequence[Run], program: Program, cost: Estimate, board: Board) -> dict[str, Any]:
    """As plain values; `estimates` are by entry and position, the test bench has the entries at the positions of `runs`."""
    length, block = decoder.length, decoder.block
    places = sorted({0, block, length // 4, length // 2, length - 1})
    positions = [{DECODE: place, PREFILL: block_before(place, block, length, decoder.rings)} for place in places]
    return {
        "length": length,
        "block": block,
        "sessions": decoder.model.graph.sessions,
        "cache_bytes": program.memory.caches.words * program.design.lanes,
        "token_table_bytes": decoder.tokens.tokens.nbytes,
        "simulated_at": {run.entry: run.position for run in runs},
        "estimates": by_position(program, cost, board, positions),
    }
