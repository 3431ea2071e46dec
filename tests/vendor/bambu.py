"""A stand-in for bambu: it takes the options that its guide lists, looks at what it is given, and runs the C++ where the tool runs RTL,
with the test bench as the tool calls it. The cycles that it prints are made up."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

OPTIONS = {
    "--top-fname", "--generate-tb", "--simulate", "--simulator", "--compiler", "-O1", "--std", "--generate-interface", "--clock-period",
    "-I.", "-Iinclude",
}  # fmt: skip
KNOWN = re.compile(r"#pragma HLS interface port = \w+ mode = m_axi offset = direct bundle = \w+")


def main(args: list[str]) -> int:
    with open(os.environ["STAND_IN_CALLS"], "a") as file:
        file.write(json.dumps({"program": "bambu", "args": args, "cwd": os.getcwd()}) + "\n")
    given = dict(arg.partition("=")[::2] for arg in args if arg.startswith("-"))
    sources = [arg for arg in args if not arg.startswith("-")]
    pragmas = [line for path in Path().rglob("*.[hc]*") for line in path.read_text().splitlines() if "pragma HLS" in line]
    unknown = [given.keys() - OPTIONS, [line for line in pragmas if not KNOWN.fullmatch(line)]]
    if any(unknown) or not pragmas or (given["--compiler"], given["--simulator"]) != ("I386_CLANG13", "VERILATOR"):
        print(f"error -> unknown {unknown}")
        return 1
    if any(part in Path.cwd().name for part in os.environ.get("STAND_IN_REFUSES", "").split()):
        print("error -> This function is not supported: recursion")
        return 1
    if "STAND_IN_DIFFERS" in os.environ:
        text = Path("kernel.cpp").read_text()
        Path("kernel.cpp").write_text(text.replace("= int(token.v[l])", "= int(token.v[l]) ^ (l == 1)"))
    Path("mdpi").mkdir()
    Path("mdpi/mdpi_user.h").write_text(
        '#include <cstdlib>\nextern "C" inline void m_param_alloc(int at, unsigned long bytes) { if (at > 9 || bytes % 4) std::abort(); }\n'
    )
    types = shlex.split(os.environ.get("STAND_IN_TYPES", "-DATTNC_NATIVE_TYPES"))
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    includes = [arg for arg in args if arg.startswith(("-I", "-D"))]
    made = [sources[0], given["--generate-tb"], "-o", "simulated"]
    done = subprocess.run(
        [
            *compiler,
            "-std=" + given["--std"],
            "-O0",
            "-Wall",
            "-Werror",
            "-Wno-unknown-pragmas",
            "-Wno-unused-label",
            "-D__BAMBU_SIM__",
            *types,
            *includes,
            *made,
        ]
    )
    if done.returncode != 0 or subprocess.run(["./simulated"]).returncode != 0:
        return 1
    print("Start execution of Verilator\n---Total cycles             : 4321 cycles\n---Number of executions     : 1")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
