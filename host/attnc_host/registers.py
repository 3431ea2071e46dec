"""The registers of an accelerator behind s_axilite, as UG1399 lays them out for ap_ctrl_hs, and what synthesis says of them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as Xml
from dataclasses import dataclass
from pathlib import Path

from attnc_host.errors import AcceleratorError
from attnc_host.fields import Fields

CONTROL, GLOBAL_ENABLE, ENABLE, PENDING = 0x00, 0x04, 0x08, 0x0C
"""Control; interrupts: global enable, enable, status."""
START, DONE, IDLE, READY = 1, 2, 4, 8
"""Bits of control: start clears itself when the run is over, done clears when it is read."""
GONE = 0xFFFFFFFF
"""What a bus answers where nothing is."""
KINDS = ("pointer", "scalar", "status")


@dataclass(frozen=True)
class Argument:
    """An argument of the accelerator: where its registers begin, its bits (of 64 the low word first), and of a pointer the memory that it
    leads to (program, weights or memory) and the port of the board that it goes through."""

    name: str
    kind: str
    offset: int
    bits: int
    memory: str = ""
    port: str = ""


@dataclass(frozen=True)
class RegisterMap:
    """All registers; `identity` is what the hardware says in the high word of its status, `bytes` the room that they take."""

    arguments: tuple[Argument, ...]
    identity: int
    bytes: int

    def of(self, kind: str) -> tuple[Argument, ...]:
        """The arguments of a kind."""
        return tuple(one for one in self.arguments if one.kind == kind)

    @property
    def status(self) -> Argument:
        """The result that says how far the accelerator is."""
        return self.of("status")[0]

    @property
    def scalars(self) -> tuple[str, ...]:
        """Names of those that a run may give; the driver itself gives `instructions`."""
        return tuple(one.name for one in self.of("scalar") if one.name != "instructions")


def read_registers(fields: Fields) -> RegisterMap:
    """The map in a manifest; registers must not overlap."""
    if fields.text("protocol") != "ap_ctrl_hs":
        fields.fail("protocol", "'ap_ctrl_hs'", fields.get("protocol"))
    size = fields.integer("bytes", 0x10, 1 << 16)
    found: list[Argument] = []
    end = 0x10
    for entry in fields.children("arguments"):
        kind = entry.text("kind")
        if kind not in KINDS:
            entry.fail("kind", " or ".join(KINDS), kind)
        bits, offset = entry.integer("bits", 32, 64), entry.integer("offset", 0)
        if bits % 32 or offset % 4 or offset < end or offset + bits // 8 > size:
            entry.fail("offset", f"a multiple of 4 from {end:#x} on, with {bits} bits below {size:#x}", offset)
        end = offset + bits // 8
        pointer = (entry.text("memory"), entry.text("port")) if kind == "pointer" else ("", "")
        if kind == "pointer" and pointer[0] not in ("program", "weights", "memory"):
            entry.fail("memory", "program, weights or memory", pointer[0])
        found.append(Argument(entry.text("name"), kind, offset, bits, *pointer))
    names = [one.name for one in found]
    if len(set(names)) < len(names) or sum(one.kind == "status" for one in found) != 1 or "instructions" not in names:
        fields.fail("arguments", "different names, among them 'instructions' and one status", names)
    return RegisterMap(tuple(found), fields.integer("identity", 1, (1 << 32) - 1), size)


def check_synthesized(registers: RegisterMap, path: Path, top: str) -> None:
    """Raise where the registers of a synthesised IP (its `*_hw.h`, or the `.hwh` of its design) are elsewhere than in the manifest."""
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise AcceleratorError(f"{path}: cannot be read: {error.strerror}") from error
    found = _from_hwh(text, path, top) if path.suffix == ".hwh" else _from_header(text)
    if not found:
        raise AcceleratorError(f"{path}: has no registers of {top}")
    for argument in registers.arguments:
        offset = found.get(_plain(argument.name))
        if offset is None:
            raise AcceleratorError(f"{path}: has no register {argument.name!r}, which the manifest has at {argument.offset:#04x}")
        if offset != argument.offset:
            raise AcceleratorError(
                f"{path}: register {argument.name!r} is at {offset:#04x}, in the manifest at {argument.offset:#04x}: this is the IP of "
                "another build, or of a release of the tool that lays registers out differently"
            )


def _plain(name: str) -> str:
    """A name without what HLS adds to those that are words of Verilog (`program_r`)."""
    return re.sub(r"_r$", "", name.lower())


def _from_header(text: str) -> dict[str, int]:
    """Offsets by argument in a header that HLS writes for drivers."""
    found = re.findall(r"#define\s+\w*?_ADDR_(\w+?)_DATA\s+0x([0-9a-fA-F]+)", text)
    return {_plain(name): int(number, 16) for name, number in found}


def _from_hwh(text: str, path: Path, top: str) -> dict[str, int]:
    """Offsets of the low words by argument, of the module of `top` in the description of a block design."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise AcceleratorError(f"{path}: needed a hardware description without a DOCTYPE")
    try:
        tree = Xml.fromstring(text)
    except Xml.ParseError as error:
        raise AcceleratorError(f"{path}: not valid XML: {error}") from error
    found: dict[str, int] = {}
    for module in tree.iter("MODULE"):
        if module.get("MODTYPE") != top:
            continue
        for register in module.iter("REGISTER"):
            value = next((one.get("VALUE", "") for one in register.iter("PROPERTY") if one.get("NAME") == "ADDRESS_OFFSET"), "")
            name, high = re.subn(r"_([12])$", r" \1", register.get("NAME", ""))
            stem, _, part = name.partition(" ") if high else (name, "", "1")
            if part == "1" and re.fullmatch(r"0x[0-9a-fA-F]+|\d+", value):
                found.setdefault(_plain(stem), int(value, 0))
    return found
