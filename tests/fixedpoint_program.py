"""Programs that include fixedpoint.hpp and nothing else of the kernels."""

from __future__ import annotations

import subprocess
from pathlib import Path

from attnc.resources import data_path
from attnc.verify.simulator import ap_include


def outcome(program: str, folder: Path, types: str, right: str = "", wrong: str = "") -> int:
    """Exit code of a program on fixedpoint.hpp, with `right` replaced by `wrong`."""
    kernels = data_path("hls_kernels") / "include" / "attnc"
    (folder / "attnc").mkdir()
    for name in ("fixedpoint.hpp", "types.hpp"):
        text = (kernels / name).read_text()
        assert name == "types.hpp" or right in text
        (folder / "attnc" / name).write_text(text.replace(right, wrong) if right and name == "fixedpoint.hpp" else text)
    (folder / "main.cpp").write_text(program)
    flags = ["-DATTNC_NATIVE_TYPES"] if types == "native" else ["-isystem", str(ap_include())]
    warnings = ["-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-label", *(["-Werror"] if types == "native" else [])]
    subprocess.run(["g++", "-std=c++14", "-O1", *warnings, "-I.", *flags, "main.cpp", "-o", "main"], cwd=folder, check=True)
    return subprocess.run([folder / "main"]).returncode
