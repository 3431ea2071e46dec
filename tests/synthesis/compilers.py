"""Compilers that read emitted projects: the newest libclang and the oldest of PyPI, the nearest to that of Vitis HLS; clang where it is."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from attnc_host.csim import ap_include
from debian import find
from synthesis.diagnose import messages
from synthesis.program import compiler, system_folders

WARNINGS = ["-std=c++14", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-label"]
"""Pragmas and labels are for the synthesis tool."""
OLD = Path(sys.prefix) / "libclang9" / "clang" / "native" / "libclang.so"
"""Where the Makefile puts it."""
CLANG = find("clang")
TINFO = " ".join(f'extern "C" int {name}() {{ return -1; }}' for name in ("setupterm", "set_curterm", "del_curterm", "tigetnum"))


def flags(folder: Path, types: str) -> list[str]:
    """Of the `hls` folder of a build, on native integers or on `ap_int`."""
    of_types = ["-DATTNC_NATIVE_TYPES"] if types == "native" else [f"-isystem{ap_include()}"]
    return [*WARNINGS, *of_types, f"-I{folder}", f"-I{folder / 'sim'}", f"-I{folder / 'include'}"]


def warnings_of(library: str, source: Path, arguments: list[str], folder: Path) -> str:
    """What a libclang, "installed" or "old", has to say; empty where it has nothing. `folder` is there for what the old one needs."""
    arguments = [*arguments, "-nostdinc", *(f"-isystem{one}" for one in system_folders())]
    if library == "installed":
        return messages(str(source), arguments)
    program = Path(__file__).with_name("diagnose.py")
    command = [sys.executable, str(program), str(OLD), str(_tinfo(folder)), str(source), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout + done.stderr


def warnings_of_clang(source: Path, arguments: list[str]) -> str:
    """What the clang of this machine has to say, where it has one."""
    if CLANG is None:
        return ""
    return subprocess.run([CLANG, "-fsyntax-only", *arguments, str(source)], capture_output=True, text=True).stderr


def warnings_of_builds(folder: Path, *sources: str, optimized: bool = True) -> str:
    """What g++, which sees more where it optimizes, and the clang of this machine have to say of sources on native integers."""
    given, said = flags(folder, "native"), []
    command = [*compiler(), *(("-O1", "-c", "-o", os.devnull) if optimized else ("-fsyntax-only",)), *given]
    for source in sources:
        said.append(subprocess.run([*command, folder / source], capture_output=True, text=True).stderr)
        said.append(warnings_of_clang(folder / source, given))
    return "".join(said)


@cache
def has_memory_sanitizer() -> bool:
    """Whether that clang has the library of its sanitizer of memory, which packages may leave out."""
    if CLANG is None:
        return False
    command = [CLANG, "-fsanitize=memory,undefined", "-x", "c++", "-", "-o", os.devnull]
    return subprocess.run(command, input="int main() {}", text=True, capture_output=True).returncode == 0


@cache
def _tinfo(folder: Path) -> Path:
    """The old libclang asks a library that distributions no longer have whether a terminal has colours. This one says that it has none."""
    (folder / "tinfo.cpp").write_text(TINFO)
    (folder / "tinfo.map").write_text("NCURSES_TINFO_5.0.19991023 { global: *; };\n")
    made = folder / "libtinfo.so.5"
    options = ["-shared", "-fPIC", "-Wl,-soname,libtinfo.so.5", f"-Wl,--version-script={folder / 'tinfo.map'}"]
    subprocess.run([*compiler(), *options, "-o", str(made), str(folder / "tinfo.cpp")], check=True)
    return made
