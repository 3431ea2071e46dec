"""Build the C++ simulator of a build folder."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from attnc.errors import BuildError, ConfigError

TYPES = ("native", "ap")


def ap_include() -> Path:
    """Folder with ap_int.h: from Vitis where XILINX_HLS is set, else from the hls4ml package."""
    vitis = os.environ.get("XILINX_HLS")
    if vitis and (Path(vitis) / "include" / "ap_int.h").is_file():
        return Path(vitis) / "include"
    found = importlib.util.find_spec("hls4ml")
    for root in (found.submodule_search_locations or []) if found else []:
        folder = Path(root) / "templates" / "vivado" / "ap_types"
        if (folder / "ap_int.h").is_file():
            return folder
    raise ConfigError("--types ap needs ap_int.h: install the extra 'attnc[ap]' (package hls4ml), or set XILINX_HLS to a Vitis HLS installation")


def build_simulator(folder: Path, types: str = "native", flags: str | None = None) -> Path:
    """Compile the test bench in `folder` (the `hls` folder of a build) and return the program."""
    if types not in TYPES:
        raise ConfigError(f"--types: needed one of {', '.join(TYPES)}, found {types!r}")
    for tool in ("make", os.environ.get("CXX", "g++")):
        if shutil.which(tool) is None:
            raise BuildError(f"simulation needs {tool!r}, which is not installed or not on PATH")
    command = ["make", "-C", str(folder), "build", f"TYPES={types}"]
    if types == "ap":
        command.append(f"AP_INCLUDE={ap_include()}")
    if flags:
        command.append(f"CXXFLAGS={flags}")
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise BuildError(f"the C++ compiler failed in {folder}:\n{done.stderr.strip() or done.stdout.strip()}")
    return folder / f"csim_{types}"
