"""Build the C++ simulator of a build folder: the host runtime's way, with the compiler's errors."""

from __future__ import annotations

from pathlib import Path

from attnc.errors import BuildError, ConfigError
from attnc_host import AcceleratorError, csim

TYPES = csim.TYPES


def ap_include() -> Path:
    """Folder with ap_int.h: from Vitis where XILINX_HLS is set, else from the hls4ml package."""
    try:
        return csim.ap_include()
    except AcceleratorError as error:
        raise ConfigError(f"--{error}") from error


def build_simulator(folder: Path, types: str = "native", flags: str | None = None) -> Path:
    """Compile the test bench in `folder` (the `hls` folder of a build) and return the program."""
    if types not in TYPES:
        raise ConfigError(f"--types: needed one of {', '.join(TYPES)}, found {types!r}")
    if types == "ap":
        ap_include()
    try:
        return csim.build_simulator(folder, types, flags)
    except AcceleratorError as error:
        raise BuildError(str(error)) from error
