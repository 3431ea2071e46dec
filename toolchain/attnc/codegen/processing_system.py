"""The processing systems that an accelerator is placed beside: their IP in a block design, their ports into memory, how Linux sees them.

Names of properties, pins and segments are those of Vivado 2022.2 and later (PG201 for Zynq UltraScale+, PG082 for Zynq-7000); those of
clocks, interrupts and labels are of the device trees in Linux (zynqmp.dtsi, zynq-7000.dtsi).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from attnc.schedule.devices import Board

Properties = dict[str, str]
MEMORY = "*_DDR_*"
"""Segments that are memory. The others behind the same port, as flash, are no place for an accelerator."""


@dataclass(frozen=True)
class MemoryPort:
    """A port into the system's memory: its interface, the clock of that, where its address segments are found (see `MEMORY`), what opens
    it, and where its width is set while the system runs: the number of the port among all, or the address of its registers."""

    interface: str
    clock: str
    segments: str
    opened: Properties
    closed: Properties
    place: int


@dataclass(frozen=True)
class DeviceTree:
    """How an overlay refers to the system: cells of an address, labels of the interrupt controller and of the clock with its number, the
    interrupt number (of a shared peripheral interrupt), the resets of the logic, and options of bootgen."""

    cells: int
    interrupts: str
    interrupt: int
    clock: str
    resets: str
    arch: str


@dataclass(frozen=True)
class System:
    """A processing system. `registers` is where its master sees the accelerator; `preset` are options of its block automation beside the
    board's own preset; `frequency` is the property of the clock's rate in MHz. `fixed` states every other port, so that a board's preset
    leaves none open that nothing is connected to."""

    ip: str
    parts: tuple[str, ...]
    clock: str
    frequency: str
    reset: str
    interrupt: str
    master: str
    master_clock: str
    registers: int
    preset: Properties
    fixed: Properties
    ports: dict[str, MemoryPort] = field(repr=False)
    tree: DeviceTree

    def properties(self, clock_mhz: float, tags: Iterable[str]) -> Properties:
        """All that is set, for a clock and the memory ports that are used."""
        used = set(tags)
        found = {self.frequency: f"{clock_mhz:g}", **self.fixed}
        for tag, port in self.ports.items():
            found |= port.opened if tag in used else port.closed
        return found


def _ultrascale_port(tag: str, number: int) -> MemoryPort:
    return MemoryPort(
        interface=f"S_AXI_{tag}_FPD",
        clock=f"saxi{tag.lower()}_fpd_aclk",
        segments=f"SAXIGP{number}/*",
        opened={f"PSU__USE__S_AXI_GP{number}": "1", f"PSU__SAXIGP{number}__DATA_WIDTH": "128"},
        closed={f"PSU__USE__S_AXI_GP{number}": "0"},
        place=number,
    )


def _zynq_port(tag: str, number: int) -> MemoryPort:
    return MemoryPort(
        interface=f"S_AXI_{tag}",
        clock=f"S_AXI_{tag}_ACLK",
        segments=f"S_AXI_{tag}/*",
        opened={f"PCW_USE_S_AXI_{tag}": "1", f"PCW_S_AXI_{tag}_DATA_WIDTH": "64"},
        closed={f"PCW_USE_S_AXI_{tag}": "0"},
        place=0xF800_8000 + (number << 12),
    )


ULTRASCALE = System(
    ip="zynq_ultra_ps_e",
    parts=("xczu", "xck2"),
    clock="pl_clk0",
    frequency="PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ",
    reset="pl_resetn0",
    interrupt="pl_ps_irq0",
    master="M_AXI_HPM0_FPD",
    master_clock="maxihpm0_fpd_aclk",
    registers=0xA000_0000,
    preset={},
    fixed={
        "PSU__FPGA_PL0_ENABLE": "1",
        "PSU__USE__FABRIC__RST": "1",
        "PSU__USE__IRQ0": "1",
        "PSU__USE__IRQ1": "0",
        "PSU__USE__M_AXI_GP0": "1",
        "PSU__MAXIGP0__DATA_WIDTH": "128",
        "PSU__USE__M_AXI_GP1": "0",
        "PSU__USE__M_AXI_GP2": "0",
        "PSU__USE__S_AXI_GP6": "0",
        "PSU__USE__S_AXI_ACP": "0",
        "PSU__USE__S_AXI_ACE": "0",
    },
    ports={tag: _ultrascale_port(tag, number) for number, tag in enumerate(("HPC0", "HPC1", "HP0", "HP1", "HP2", "HP3"))},
    tree=DeviceTree(cells=2, interrupts="gic", interrupt=89, clock="zynqmp_clk 71", resets="<&zynqmp_reset 116>", arch="zynqmp"),
)
ZYNQ = System(
    ip="processing_system7",
    parts=("xc7z",),
    clock="FCLK_CLK0",
    frequency="PCW_FPGA0_PERIPHERAL_FREQMHZ",
    reset="FCLK_RESET0_N",
    interrupt="IRQ_F2P",
    master="M_AXI_GP0",
    master_clock="M_AXI_GP0_ACLK",
    registers=0x43C0_0000,
    preset={"make_external": "FIXED_IO, DDR", "Master": "Disable", "Slave": "Disable"},
    fixed={
        "PCW_EN_CLK0_PORT": "1",
        "PCW_EN_RST0_PORT": "1",
        "PCW_USE_FABRIC_INTERRUPT": "1",
        "PCW_IRQ_F2P_INTR": "1",
        "PCW_USE_M_AXI_GP0": "1",
        "PCW_USE_M_AXI_GP1": "0",
        "PCW_USE_S_AXI_GP0": "0",
        "PCW_USE_S_AXI_GP1": "0",
        "PCW_USE_S_AXI_ACP": "0",
    },
    ports={tag: _zynq_port(tag, number) for number, tag in enumerate(("HP0", "HP1", "HP2", "HP3"))},
    tree=DeviceTree(cells=1, interrupts="intc", interrupt=29, clock="clkc 15", resets="", arch="zynq"),
)
SYSTEMS = (ULTRASCALE, ZYNQ)


def system_of(board: Board) -> System | None:
    """The processing system of a board's device, where the board's memory ports are ports of that; else none, as on an Alveo card."""
    for system in SYSTEMS:
        if board.part.lower().startswith(system.parts) and set(board.ports) <= system.ports.keys():
            return system
    return None
