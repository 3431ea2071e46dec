"""The arguments of the top function, told once: its signature, its pragmas and the registers that a host sees are made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from attnc.schedule.program import Program

IDENTITY = "0x@IDENTITY@"
"""Stands in the sources for the number by which a host knows the hardware that they become."""
FIRST_ARGUMENT = 0x10
"""Control and interrupts lie below (UG1399, ap_ctrl_hs behind s_axilite)."""
SPANS = {"pointer": 0x0C, "scalar": 0x08, "status": 0x10}
"""Bytes of registers: low word, high word of 64 bits, and what UG1399 reserves behind them; the register of a result has a valid bit."""


@dataclass(frozen=True)
class Argument:
    """One argument. A pointer leads to `memory` (program, weights or memory: activations, inputs and outputs), in elements `word`, through
    the interface `bundle`; `depth` is the name of its size. A scalar comes with each run; the status is a result."""

    name: str
    kind: Literal["pointer", "scalar", "status"]
    memory: str = ""
    word: str = ""
    bundle: str = ""
    stores: bool = False
    depth: str = ""

    def declaration(self, scope: str = "") -> str:
        """As the signature has it; `scope` goes before the types of the design."""
        types = {"pointer": f"hls::burst_maxi<{scope}{self.word}>", "scalar": "int", "status": "volatile std::uint64_t*"}
        return f"{types[self.kind]} {self.name}"

    @property
    def bits(self) -> int:
        """Of its registers."""
        return 32 if self.kind == "scalar" else 64


def word_of(words: int) -> str:
    """Elements of a memory interface, or of a stream of words."""
    return {1: "word_t", 2: "beat_t"}.get(words, f"attnc::Word<{words} * LANES>")


def arguments(program: Program) -> list[Argument]:
    """All, in their order. The status is the last: how much room its registers take depends on the release of the tool."""
    found = [Argument("program", "pointer", "program", "code_t", "program", False, "program")]
    for name, beat in program.pointers.items():
        kind = name.partition("_")[0]
        memory = "weights" if kind in ("weights", "wideweights", "parameters") else "memory"
        depth = f"{memory}_beats" if beat > 1 else memory
        found.append(Argument(name, "pointer", memory, word_of(beat), program.bundles[name], kind in ("result", "wide"), depth))
    before, behind = (["first"], program.given) if program.stated else ([], ())
    scalars = [Argument(name, "scalar") for name in (*before, "instructions", *behind)]
    return [*found, *scalars, Argument("status", "status")]


def identity(texts: Iterable[str]) -> int:
    """A number that other sources of the hardware do not have, but for chance; never 0, which a register holds after a reset."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(len(text).to_bytes(8, "little") + text.encode())
    return int.from_bytes(digest.digest()[:4], "little") or 1


def registers(found: Iterable[Argument], number: int, ports: Mapping[str, str]) -> dict[str, Any]:
    """The register map as the manifest has it: offset and bits of every argument, and for pointers the memory that they lead to and the
    port of the board behind their interface."""
    entries, offset = [], FIRST_ARGUMENT
    for argument in found:
        entry: dict[str, Any] = {"name": argument.name, "kind": argument.kind, "offset": offset, "bits": argument.bits}
        if argument.kind == "pointer":
            entry |= {"memory": argument.memory, "port": ports[argument.bundle]}
        entries.append(entry)
        offset += SPANS[argument.kind]
    return {"protocol": "ap_ctrl_hs", "identity": number, "bytes": offset, "arguments": entries}
