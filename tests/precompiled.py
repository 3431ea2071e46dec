"""Headers of the standard library and of ap types compiled once per process, for the many small programs that tests compile."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from pathlib import Path

from attnc.verify.simulator import ap_include

# Nothing of attnc: what a test compares is compiled from its sources, each time. That sources include what they need is seen where command
# lines compile them, and by clang.
HEADERS = (
    "algorithm", "chrono", "cstddef", "cstdint", "cstdio", "cstdlib", "cstring", "functional", "map", "memory", "string", "vector"
)  # fmt: skip


def with_headers(flags: str, types: str) -> str:
    """`flags` for a simulator of `types`, and with g++ those that let it read its headers as they were compiled before. Where it cannot use
    them it reads their text."""
    if os.environ.get("CXX", "g++") != "g++":  # another compiler, or one with a cache
        return flags
    return f"{flags} -include {Path(_folder().name) / _compiled(flags, types)}"


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Goes with the process."""
    return tempfile.TemporaryDirectory(prefix="attnc-headers-")


@functools.cache
def _compiled(flags: str, types: str) -> str:
    name, ap = f"headers_{_compiled.cache_info().currsize}.hpp", types == "ap"
    header = Path(_folder().name) / name
    header.write_text("".join(f"#include <{one}>\n" for one in (*HEADERS, *(["ap_int.h"] if ap else []))))
    include = ["-isystem", str(ap_include())] if ap else []
    subprocess.run(["g++", "-std=c++14", *flags.split(), *include, "-x", "c++-header", header, "-o", f"{header}.gch"], check=True)
    return name
