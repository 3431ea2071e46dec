"""What takes a design to a board: `vivado/` (block design), `vitis/` (linking with v++), `firmware/` (what Linux on a board loads)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from attnc.codegen.processing_system import MEMORY, System, system_of
from attnc.schedule.devices import Board

INSTANCE = "attnc_0"
"""The accelerator in the block design, and so in the .hwh that PYNQ reads."""
APP = "attnc"
"""The firmware folder and the files in it."""
POOL = f"{APP}-memory"
"""The u-dma-buf that the accelerator and software share."""
REGISTER_BYTES = 1 << 16
"""Address range of the registers: the least that all tools take."""
MOST_MASTERS = 16
"""Interfaces that one SmartConnect gathers (PG247)."""


class Wiring(NamedTuple):
    """What a board must know of a design: its top function, the memory port of each AXI interface (by bundle), its clock, and the bytes
    of memory that it shares with software, whole pages."""

    top: str
    ports: Mapping[str, str]
    clock_mhz: float
    shared_bytes: int


def write_platform(env: jinja2.Environment, folder: Path, board: Board, wiring: Wiring) -> None:
    """Write the folders into a build; `vivado/` and `firmware/` are for boards whose memory ports are those of a processing system."""
    names = _context(board, wiring)
    targets = {"link.cfg.j2": "vitis/link.cfg"}
    if (system := system_of(board)) is not None:
        names |= _system_context(system, board, wiring)
        targets |= {
            "vivado_build.tcl.j2": "vivado/build.tcl",
            "vivado_design.tcl.j2": "vivado/design.tcl",
            "attnc.xdc.j2": f"vivado/{APP}.xdc",
            "overlay.dtso.j2": f"firmware/{APP}/{APP}.dtso",
            "bootgen.bif.j2": f"firmware/{APP}/{APP}.bif",
        }
    for template, target in targets.items():
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        (folder / target).write_text(env.get_template(template).render(names))
    if system is not None:
        # "num_slots" is what releases up to 2022.1 read, "num_pl_slots" what later ones do. A design without an .xclbin may call itself
        # XRT_FLAT, which all releases know.
        shell = {"shell_type": "XRT_FLAT", "num_slots": "1", "num_pl_slots": 1}
        (folder / "firmware" / APP / "shell.json").write_text(json.dumps(shell, indent=1) + "\n")


def platform_facts(board: Board, wiring: Wiring) -> dict[str, Any]:
    """The same for the manifest: how software finds the accelerator. Where it is linked by v++, XRT knows its address."""
    system = system_of(board)
    registers = None if system is None else {"address": system.registers, "bytes": REGISTER_BYTES}
    return {
        "instance": INSTANCE,
        "compute_unit": f"{wiring.top}_1",
        "uio": wiring.top,
        "registers": registers,
        "interrupt": None if system is None else system.tree.interrupt,
        "ports": {f"m_axi_{bundle}": tag for bundle, tag in wiring.ports.items()},
        "pool": {"device": POOL, "bytes": wiring.shared_bytes},
    }


def _context(board: Board, wiring: Wiring) -> dict[str, Any]:
    """Names for templates: identifiers of attnc's own, and fields of a board, whose patterns let nothing else through."""
    return {
        "top": wiring.top,
        "app": APP,
        "instance": INSTANCE,
        "board": board,
        "clock_mhz": f"{wiring.clock_mhz:g}",
        "clock_hz": round(wiring.clock_mhz * 1e6),
        "ports": wiring.ports,
    }


def _system_context(system: System, board: Board, wiring: Wiring) -> dict[str, Any]:
    used = [tag for tag in system.ports if tag in wiring.ports.values()]
    gathered = {tag: [bundle for bundle, port in wiring.ports.items() if port == tag] for tag in used}
    preset = {**system.preset, "apply_board_preset": "1" if board.board_part else "0"}
    return {
        "system": system,
        "tree": system.tree,
        "properties": system.properties(wiring.clock_mhz, used),
        "preset": preset,
        "memory_ports": [{"tag": tag, "port": system.ports[tag], "bundles": gathered[tag]} for tag in used],
        "memory": MEMORY,
        "most": MOST_MASTERS,
        "registers": {"offset": f"0x{system.registers:08X}", "range": f"0x{REGISTER_BYTES:08X}"},
        "pool": POOL,
        "pool_size": cells(wiring.shared_bytes, 1 + (wiring.shared_bytes >> 32 > 0)),
        "place": f"{cells(system.registers, system.tree.cells)} {cells(REGISTER_BYTES, system.tree.cells)}",
        "unit": f"{system.registers:x}",
    }


def cells(number: int, count: int) -> str:
    """A number as `count` cells of a device tree, the highest first."""
    return " ".join(f"0x{number >> 32 * place & 0xFFFF_FFFF:x}" for place in reversed(range(count)))
