"""The emitted sources: templates of the project's own files, and the kernel headers that they include."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jinja2

from attnc.ops.base import IntType, KernelCall, Port, Table
from attnc.resources import data_path
from attnc.schedule.cost import Estimate
from attnc.schedule.program import WALK_INTS, Engine, Program, bundles

TOP = "attnc_top"


def environment() -> jinja2.Environment:
    """Templates with strict names; nothing that comes from a model is ever passed to them."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_path("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def cpp_arg(value: IntType | int | Table) -> str:
    """A template argument in C++."""
    if isinstance(value, IntType):
        return value.cpp()
    return f"tables::{value.name}" if isinstance(value, Table) else str(value)


def _port(port: Port, index: int, memory: str) -> dict[str, Any]:
    """What the template says of one stream."""
    return {"name": port.name, "kind": port.kind, "type": port.type.cpp(), "memory": memory, "first": 1 + WALK_INTS * index}


def _engine(engine: Engine) -> dict[str, Any]:
    kernel = engine.kernel
    ports = [_port(port, index, memory) for index, (port, memory) in enumerate(zip(kernel.ports, bundles(kernel), strict=True))]
    memories = sorted({p["memory"] for p in ports if p["memory"] != "result"})
    return {
        "name": engine.name,
        "op": engine.op,
        "index": engine.index,
        "function": kernel.function,
        "args": ", ".join(cpp_arg(value) for _, value in kernel.template_args),
        "ports": ports,
        "memories": memories,
        "scalars": [(name, 1 + WALK_INTS * len(ports) + i) for i, name in enumerate(kernel.scalars)],
    }


def tables_of(kernels: list[KernelCall]) -> list[Table]:
    """Every ROM once."""
    found = {arg.name: arg for kernel in kernels for _, arg in kernel.template_args if isinstance(arg, Table)}
    return [found[name] for name in sorted(found)]


def context(program: Program, part: str, clock_mhz: float, cost: Estimate | None = None) -> dict[str, Any]:
    """Names that the templates may use; all are integers or identifiers of attnc's own. Without `cost` the tools place the buffers."""
    engines = [_engine(engine) for engine in program.engines]
    return {
        "top": TOP,
        "part": part,
        "clock_ns": f"{1000 / clock_mhz:.3f}",
        "clock_mhz": clock_mhz,
        "lanes": program.design.lanes,
        "engines": engines,
        "headers": sorted({engine.kernel.header for engine in program.engines}),
        "ports": cost.ports if cost else dict.fromkeys(program.bundles, "HP0"),
        "placement": [(buffer.macro, cost.places[buffer.key]) for buffer in cost.buffers] if cost else [],
        "loads": sum(name.startswith("load_") for name in program.bundles),
        "tables": tables_of([engine.kernel for engine in program.engines]),
        "instruction_ints": program.instruction_ints,
        # As hexadecimal of fixed width: the sources are as long for 24 layers as for 2.
        "depths": {
            "program": f"0x{len(program.calls) * program.instruction_ints:08x}",
            "weights": f"0x{max(program.weight_words, 1):08x}",
            "memory": f"0x{program.memory.words:08x}",
        },
    }


FILES = {
    "top.cpp.j2": "attnc_top.cpp",
    "top.hpp.j2": "attnc_top.hpp",
    "tables.hpp.j2": "tables.hpp",
    "testbench.cpp.j2": "testbench.cpp",
    "Makefile.j2": "Makefile",
    "csim.tcl.j2": "csim.tcl",
    "csynth.tcl.j2": "csynth.tcl",
    "cosim.tcl.j2": "cosim.tcl",
    "export.tcl.j2": "export.tcl",
    "project.tcl.j2": "project.tcl",
    "connectivity.cfg.j2": "connectivity.cfg",
}


def write_sources(program: Program, folder: Path, part: str, clock_mhz: float, cost: Estimate | None = None) -> None:
    """Render every template into `folder` and copy the kernel headers beside them."""
    env, names = environment(), context(program, part, clock_mhz, cost)
    folder.mkdir(parents=True, exist_ok=True)
    for template, target in FILES.items():
        (folder / target).write_text(env.get_template(template).render(names))
    kernels = data_path("hls_kernels")
    for sub in ("include", "sim"):
        shutil.copytree(kernels / sub, folder / sub, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
