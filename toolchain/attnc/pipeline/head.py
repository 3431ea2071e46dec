"""Where the last linear layer of a decoder runs: on the device, or on the host.

A token takes either the one or the other: while the host computes, the device waits for the next token, and no weights of other layers
come. On the device its weights come at the rate of the ports or of the DDR, whichever is less, unless multiplying takes longer; both are
bounds, so that the search for a design need not be run twice. On the host it is the longer of reading them and of multiplying.
For tokens that are decoded together they come once on the device, but the host computes one after the other.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from attnc.config import Head
from attnc.decoding.head import LastLinear, host_layer
from attnc.kernels.design import WEIGHT_PORTS
from attnc.schedule.cost import DDR_EFFICIENCY
from attnc.schedule.devices import Board
from attnc.schedule.stages import MACS_PER_DSP
from attnc_host.head import Layer

LOOK_UP = 4
"""Multiply-adds of bytes in the time of which NumPy looks up a byte that several weights share, measured on an x86 server
(`bench/head.py`)."""

CALLS_MS = 0.3
"""What the interpreter and the calls of NumPy take besides, on a processor of a board: an assumption (0.04 to 0.15 on an x86 server)."""


@dataclass(frozen=True)
class HeadChoice:
    """Where it runs, `why`, and what a token takes in either place: cycles of the device at least, an estimate of the host, or nothing
    where nothing is known of its processors."""

    where: Literal["device", "host"]
    asked: Head
    why: str
    node: str
    rows: int
    channels: int
    format: str
    device_bytes: int
    device_cycles: int
    device_ms: float
    host_bytes: int
    host_ms: float | None
    processors: str

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def choose_head(head: LastLinear, board: Board, clock_mhz: float, asked: Head, together: int = 1) -> HeadChoice:
    """By what a token takes, of so many `together`; where they are equal the device, which has the design for it anyway."""
    layer, processors = host_layer(head), board.processors
    cycles, size = _on_device(head, board, clock_mhz, together)
    ms, found = cycles / clock_mhz / 1000, None if processors is None else host_ms(layer, board)
    where: Literal["device", "host"] = "device"
    if asked != "auto":
        where, why = asked, f"--head {asked}"
    elif found is None:
        why = f"nothing is known of the processors of {board.name}'s host"
    else:
        where, why = "host" if found < ms else "device", "a token takes less"
    return HeadChoice(
        where=where,
        asked=asked,
        why=why,
        node=head.linear.name,
        rows=layer.rows,
        channels=layer.channels,
        format=head.format.name,
        device_bytes=size,
        device_cycles=cycles,
        device_ms=round(ms, 4),
        host_bytes=layer.bytes,
        host_ms=None if found is None else round(found, 4),
        processors="" if processors is None else processors.name,
    )


def _on_device(head: LastLinear, board: Board, clock_mhz: float, together: int) -> tuple[int, int]:
    """Cycles of a token, at least, of so many that are decoded together; and bytes of weights."""
    (rows, channels), size = head.shape, head.format.promised_bytes(*head.shape)
    ports = min(WEIGHT_PORTS[-1], len(board.ports)) * board.axi_bits / 8
    per_cycle = min(ports, board.ddr_gb_s * 1e3 * DDR_EFFICIENCY / clock_mhz)
    macs = rows * channels / (MACS_PER_DSP * max(board.limits["dsp"], 1)) if head.format.name == "int8" else 0.0
    return round(max(size / per_cycle / together, macs)), round(size)


def host_ms(layer: Layer, board: Board) -> float:
    """Of a token on the processors of the board, estimated: the longer of reading the file and of computing, and the calls."""
    assert board.processors is not None
    groups, size = layer.groups
    work = layer.rows * (layer.channels if layer.plain else layer.planes * groups * size * LOOK_UP)
    return max(layer.bytes / board.processors.read_gb_s, work / board.processors.gmac_s) / 1e6 + CALLS_MS
