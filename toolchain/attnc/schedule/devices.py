"""Boards and their limits, and reading a user's own."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from attnc.errors import ConfigError
from attnc.settings_file import read_settings, validated


class Utilisation(BaseModel):
    """Shares of a device at which timing closes comfortably (as FINN recommends); a design stays below them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lut: float = Field(default=0.70, ge=0.001, le=1)
    ff: float = Field(default=0.50, ge=0.001, le=1)
    dsp: float = Field(default=0.80, ge=0.001, le=1)
    bram36: float = Field(default=0.80, ge=0.001, le=1)
    uram: float = Field(default=0.80, ge=0.001, le=1)


CLASSES = tuple(Utilisation.model_fields)
"""Classes of resources, in the order of `Resources.astuple`."""
MAX_PORTS = 64
PortTag = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,16}(\[[0-9]{1,3}\])?$")]


class Processors(BaseModel):
    """What runs the host's part on the board itself: how fast a product of a matrix with the row of a token goes in NumPy, with all
    processors at work. They share the memory with the design, which waits for them meanwhile."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="the board's processors", max_length=64)
    read_gb_s: float = Field(gt=0, le=10_000, description="weights read from memory")
    gmac_s: float = Field(gt=0, le=1_000_000, description="multiply-adds, in billions per second")


READ_A53 = 5.5
"""GB/s that four Cortex-A53 read of a matrix beside DDR4: 49.2 MB in about 9 ms, as cited of TeLLMe's head on a KV260 (second hand)."""
READ_A9 = 1.0
"""GB/s that two Cortex-A9 read: half of the DDR's rate on a PYNQ-Z2, an assumption."""
CYCLES_PER_MAC = 3
"""Of a processor for each multiply-add of bytes: turned into a float, and multiplied, in NEON units of 128 bits and no product of bytes: an
assumption. An x86 server takes 0.95 (`bench/head.py`)."""


def cortex(name: str, cores: int, mhz: float, read_gb_s: float) -> Processors:
    """Some Cortex-A processors."""
    return Processors(name=f"{cores} {name} at {mhz:,g} MHz", read_gb_s=read_gb_s, gmac_s=round(cores * mhz / 1000 / CYCLES_PER_MAC, 3))


class Board(BaseModel):
    """What a design may use. BRAM in blocks of 36 Kbit, URAM of 288 Kbit; figures from the vendor's data sheets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    part: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    lut: int = Field(gt=0, le=10_000_000)
    ff: int = Field(gt=0, le=20_000_000)
    dsp: int = Field(ge=0, le=100_000)
    bram36: int = Field(ge=0, le=100_000)
    uram: int = Field(default=0, ge=0, le=100_000)
    ddr_gb_s: float = Field(ge=0.01, le=10_000)
    ddr_mib: int = Field(default=2048, gt=0, le=1 << 24)
    axi_bits: int = Field(default=128, ge=32, le=1024, description="width of a memory port")
    ports: tuple[PortTag, ...] = Field(
        # HP1 and HP2 share a port of the memory controller (UG1085, port 4), of 128 bits at half its data rate: more than both move.
        default=("HP0", "HP1", "HP2", "HP3"),
        min_length=1,
        max_length=MAX_PORTS,
        description="memory ports",
    )
    clock_mhz: float = Field(default=200, ge=1, le=1000)
    board_part: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9_.-]{1,64}:[A-Za-z0-9_.-]{1,64})?$",
        description="vendor and name of its board files for Vivado; without them nothing of the processing system is preset",
    )
    platform: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]{0,100}$", description="platform for v++")
    utilisation: Utilisation = Utilisation()
    processors: Processors | None = Field(default=None, description="of the board itself; without them nothing is known of its host")
    note: str = Field(default="", max_length=1000)

    @property
    def limits(self) -> dict[str, float]:
        """What a design may use of each class."""
        return {name: getattr(self, name) * getattr(self.utilisation, name) for name in CLASSES}


BOARDS: dict[str, Board] = {
    board.name: board
    for board in (
        Board(
            name="pynq-z2",
            part="xc7z020clg400-1",
            lut=53_200,
            ff=106_400,
            dsp=220,
            bram36=140,
            ddr_gb_s=2.1,
            ddr_mib=512,
            axi_bits=64,
            board_part="tul.com.tw:pynq-z2",
            clock_mhz=100,
            ports=("HP0", "HP1", "HP2", "HP3"),
            processors=cortex("Cortex-A9", 2, 650, READ_A9),
        ),
        Board(
            name="ultra96",
            part="xczu3eg-sbva484-1-e",
            lut=70_560,
            ff=141_120,
            dsp=360,
            bram36=216,
            ddr_gb_s=8.5,
            ddr_mib=2048,
            board_part="avnet.com:ultra96v2",
            clock_mhz=200,
            processors=cortex("Cortex-A53", 4, 1200, READ_A53),
            note="DDR rate unverified",
        ),
        Board(
            name="aup-zu3",
            part="xczu3eg-sfvc784-2-e",
            lut=70_560,
            ff=141_120,
            dsp=360,
            bram36=216,
            ddr_gb_s=9.6,
            ddr_mib=4096,
            board_part="realdigital.org:aup-zu3-8gb",
            clock_mhz=200,
            processors=cortex("Cortex-A53", 4, 1333, READ_A53),
            note="32 bits of DDR4-2400; the board of 4 GB has board files of its own (aup-zu3-4gb)",
        ),
        Board(
            name="kv260",
            part="xck26-sfvc784-2LV-c",
            lut=117_120,
            ff=234_240,
            dsp=1_248,
            bram36=144,
            uram=64,
            ddr_gb_s=19.2,  # 64 bits of DDR4-2400 (DS987)
            ddr_mib=4096,
            board_part="xilinx.com:kv260_som",
            clock_mhz=250,
            processors=cortex("Cortex-A53", 4, 1333, READ_A53),
        ),
        Board(
            name="zcu104",
            part="xczu7ev-ffvc1156-2-e",
            lut=230_400,
            ff=460_800,
            dsp=1_728,
            bram36=312,
            uram=96,
            ddr_gb_s=17.1,
            ddr_mib=2048,
            board_part="xilinx.com:zcu104",
            clock_mhz=250,
            processors=cortex("Cortex-A53", 4, 1200, READ_A53),
        ),
        Board(
            name="zcu102",
            part="xczu9eg-ffvb1156-2-e",
            lut=274_080,
            ff=548_160,
            dsp=2_520,
            bram36=912,
            ddr_gb_s=19.2,
            ddr_mib=4096,
            board_part="xilinx.com:zcu102",
            clock_mhz=250,
            processors=cortex("Cortex-A53", 4, 1200, READ_A53),
        ),
        Board(
            name="u50",
            part="xcu50-fsvh2104-2-e",
            lut=742_560,
            ff=1_485_120,
            dsp=5_352,
            bram36=1_128,
            uram=608,
            ddr_gb_s=316,
            ddr_mib=8192,
            axi_bits=512,
            ports=tuple(f"HBM[{i}]" for i in range(32)),
            platform="xilinx_u50_gen3x16_xdma_5_202210_1",
            clock_mhz=300,
            note="user region; FF taken as twice the LUT; HBM rate unverified",
        ),
        Board(
            name="u250",
            part="xcu250-figd2104-2L-e",
            lut=1_500_000,
            ff=3_000_000,
            dsp=11_520,
            bram36=2_304,
            uram=1_280,
            ddr_gb_s=52.2,
            ddr_mib=65536,
            axi_bits=512,
            ports=tuple(f"DDR[{i}]" for i in range(4)),
            platform="xilinx_u250_gen3x16_xdma_4_1_202210_1",
            clock_mhz=300,
            note="user region; DDR rate as measured",
        ),
        Board(
            name="u280",
            part="xcu280-fsvh2892-2L-e",
            lut=1_303_680,
            ff=2_607_360,
            dsp=9_024,
            bram36=2_016,
            uram=960,
            ddr_gb_s=460,
            ddr_mib=8192,
            axi_bits=512,
            ports=tuple(f"HBM[{i}]" for i in range(32)),
            platform="xilinx_u280_gen3x16_xdma_1_202211_1",
            clock_mhz=300,
        ),
    )
}


ALIASES = {"ultra96-v2": "ultra96", "ultra96v2": "ultra96", "pynqz2": "pynq-z2", "aupzu3": "aup-zu3"}


def find_board(target: str) -> Board:
    """A known board by name, or one described in a YAML or TOML file."""
    path = board_file(target)
    if path is not None:
        return validated(Board, read_settings(path, "board file"), f"board file {path}")
    name = target.lower().replace("_", "-").removeprefix("alveo-")
    board = BOARDS.get(ALIASES.get(name, name))
    if board is None:
        near = difflib.get_close_matches(target.lower(), BOARDS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"--target: needed one of {', '.join(BOARDS)} or a .yaml/.toml file, found {target!r}{hint}")
    return board


def board_file(target: str) -> Path | None:
    """The file that a --target names; None for a known board."""
    return Path(target) if Path(target).suffix.lower() in (".yaml", ".yml", ".toml") else None


def with_utilisation(board: Board, text: str) -> Board:
    """`board` with limits as "lut=0.7,dsp=0.8" gives them; the others stay."""
    shares: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, share = part.partition("=")
        name = {"bram": "bram36"}.get(name.strip().lower(), name.strip().lower())
        if not equals or name in shares:
            raise ConfigError(f"--utilisation: needed {'=0.7,'.join(CLASSES)}=0.8, each at most once, found {text!r}")
        shares[name] = share
    return board.model_copy(update={"utilisation": validated(Utilisation, {**board.utilisation.model_dump(), **shares}, "--utilisation")})
