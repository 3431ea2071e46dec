"""What a report says of a decoder: the length of sequences, bytes of caches, and the cycles of a block and of a token by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attnc.decoding.plan import Decoder, Run
from attnc.schedule.program import Program


def decoder_report(decoder: Decoder, runs: Sequence[Run], program: Program, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """As plain values; the estimates by entry and position are those of the build's manifest, the test bench has the entries at the
    positions of `runs`."""
    return {
        "length": decoder.length,
        "block": decoder.block,
        "branches": decoder.branches,
        "sessions": decoder.model.graph.sessions,
        "cache_bytes": program.memory.caches.words * program.design.lanes,
        "token_table_bytes": decoder.tokens.tokens.nbytes,
        "simulated_at": {run.entry: run.position for run in runs},
        "estimates": manifest["decoder"]["estimates"],
    }
