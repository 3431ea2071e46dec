"""Boards and their limits, and reading a user's own."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attnc.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


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
    ddr_gb_s: float = Field(gt=0, le=10_000)
    axi_bits: int = Field(default=128, description="width of a memory port")
    clock_mhz: float = Field(default=200, gt=0, le=1000)
    note: str = ""


BOARDS: dict[str, Board] = {
    board.name: board
    for board in (
        Board(
            name="pynq-z2", part="xc7z020clg400-1", lut=53_200, ff=106_400, dsp=220, bram36=140, ddr_gb_s=2.1, axi_bits=64, clock_mhz=100
        ),
        Board(
            name="ultra96",
            part="xczu3eg-sbva484-1-e",
            lut=70_560,
            ff=141_120,
            dsp=360,
            bram36=216,
            ddr_gb_s=8.5,
            clock_mhz=200,
            note="DDR rate unverified",
        ),
        Board(
            name="kv260", part="xck26-sfvc784-2LV-c", lut=117_120, ff=234_240, dsp=1_248, bram36=144, uram=64, ddr_gb_s=17.1, clock_mhz=250
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
            clock_mhz=250,
        ),
        Board(name="zcu102", part="xczu9eg-ffvb1156-2-e", lut=274_080, ff=548_160, dsp=2_520, bram36=912, ddr_gb_s=19.2, clock_mhz=250),
        Board(
            name="u50",
            part="xcu50-fsvh2104-2-e",
            lut=742_560,
            ff=1_485_120,
            dsp=5_352,
            bram36=1_128,
            uram=608,
            ddr_gb_s=316,
            axi_bits=512,
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
            axi_bits=512,
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
            axi_bits=512,
            clock_mhz=300,
        ),
    )
}


ALIASES = {"ultra96-v2": "ultra96", "ultra96v2": "ultra96", "pynqz2": "pynq-z2"}


def find_board(target: str) -> Board:
    """A known board by name, or one described in a YAML or TOML file."""
    path = Path(target)
    if path.suffix.lower() in (".yaml", ".yml", ".toml"):
        return _read_board(path)
    name = target.lower().replace("_", "-").removeprefix("alveo-")
    board = BOARDS.get(ALIASES.get(name, name))
    if board is None:
        near = difflib.get_close_matches(target.lower(), BOARDS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"--target: needed one of {', '.join(BOARDS)} or a .yaml/.toml file, found {target!r}{hint}")
    return board


def _read_board(path: Path) -> Board:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"board file {path}: cannot be read ({error})") from error
    try:
        data: Any = tomllib.loads(text) if path.suffix.lower() == ".toml" else yaml.safe_load(text)
    except (yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"board file {path}: not valid {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"board file {path}: needed a table with the fields {', '.join(Board.model_fields)}, found {type(data).__name__}")
    try:
        return Board.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "board"
        raise ConfigError(f"board file {path}: field {where!r}: {first['msg']}, found {first.get('input')!r}") from error
