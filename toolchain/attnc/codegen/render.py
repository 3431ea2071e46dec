"""The emitted sources: templates of the project's own files, and the kernel headers that they include."""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2

from attnc.codegen.interface import IDENTITY, arguments, identity, word_of
from attnc.kernels.call import ENTRY
from attnc.kernels.kernel import KernelCall
from attnc.kernels.latency import READ_LATENCY
from attnc.kernels.network import Fifo, Process
from attnc.kernels.ports import Table
from attnc.kernels.storage import SHALLOW
from attnc.resources import data_path
from attnc.schedule.chains import store_port
from attnc.schedule.cost import Estimate
from attnc.schedule.engine import Engine
from attnc.schedule.fifos import fifos
from attnc.schedule.given import Style
from attnc.schedule.lowered import entry_rows
from attnc.schedule.patches import PATCH_SHIFT
from attnc.schedule.program import FETCH_INTS, Program
from attnc.schedule.streams import POINTERS, Stream

TOP = "attnc_top"
FLAGS = "-std=c++14 -I. -Iinclude -Wno-unknown-pragmas -Wno-unused-label"
"""Of the compilers in the vendor's tools, which run in the folder of the sources."""


@dataclass(frozen=True)
class Export:
    """What the vendor's tools package the design as: for which flow, in which format, in which file, for what."""

    flow_target: str
    package: str
    output: str
    purpose: str


EXPORTS = {
    "ip": Export("vivado", "ip_catalog", f"{TOP}_ip.zip", "an IP for a block design of Vivado"),
    "xo": Export("vitis", "xo", f"{TOP}.xo", "a kernel for v++ -l --config link.cfg"),
}


def environment() -> jinja2.Environment:
    """Templates with strict names; nothing that comes from a model is ever passed to them."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_path("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _stream(stream: Stream, small: bool) -> dict[str, Any]:
    """What the template says of one stream between memory and engine; `small`: elements of 4 bits are among what it moves."""
    return {
        "small": small,
        "name": stream.name,
        "kind": stream.kind,
        "function": f"attnc::{stream.mover.function}",
        "element": word_of(stream.taken),
        "vectors": stream.vectors,
        "scales": stream.scales,
        "beat": stream.beat,
        "shared": stream.shared,
        "type": stream.type.cpp(),
        "word": word_of(stream.beat),
        "memory": stream.pointers[0],
        "others": stream.pointers[1:],
    }


def _fifo(fifo: Fifo, kernel: KernelCall) -> dict[str, Any]:
    """A stream between processes of a kernel."""
    return {"name": fifo.name, "element": fifo.element(kernel.names).cpp}


def _process(process: Process, kernel: KernelCall) -> dict[str, Any]:
    """A process of a kernel: its function with template arguments, and what it is called with."""
    given = (*process.reads, *process.writes, "call")
    return {"name": process.function, "function": process.spelled(kernel.names), "given": ", ".join(given)}


def _walk(stream: Stream) -> tuple[str, str]:
    """The struct that says how a stream goes through memory, and the function that takes it from an instruction."""
    if stream.shared:
        return "attnc::Walk", "word_run_at" if stream.kind == "words" else "run_at"
    if stream.kind == "words":
        return "attnc::WordRuns", "word_runs_at" if stream.ahead else "words_at"
    return ("attnc::MixedWalk", "mixed_walk_at") if stream.mixed else ("attnc::Walk", "walk_at")


def _call(kernel: KernelCall) -> tuple[str, str]:
    """The same for the scalars of a kernel."""
    return kernel.network.call, f"{kernel.network.stem}_call_at"


def _parts(engine: Engine, first: int) -> list[dict[str, Any]]:
    """What an instruction says to an engine: structs, each with its name, the function that takes it from the instruction, and from where;
    those of the engine start at integer `first`. Only slots that read their control have one."""

    def part(name: str, place: str, taken: tuple[str, str]) -> dict[str, Any]:
        return {"name": name, "type": taken[0], "at": taken[1], "first": first + engine.places[place]}

    found = [part(f"{stream.name}_walk", stream.name, _walk(stream)) for stream in engine.streams]
    for number, slot in enumerate(engine.slots):
        if engine.chained and (slot.optional or slot.tap or engine.converts(number)):
            found.append(part(f"control_{number}", f"control_{number}", ("attnc::SlotControl", "control_at")))
        found.append(part(f"call_{number}", f"call_{number}", _call(slot.kernel)))
    return found


def _slots(engine: Engine) -> list[dict[str, Any]]:
    """The kernels in order, each with the streams of its ports."""
    names = {(stream.slot, stream.port): stream.name for stream in engine.streams}
    head, tail = engine.streams[0].name, engine.streams[-1].name
    chain = [head, *(f"chain_{number}" for number in range(1, len(engine.slots))), tail]
    found = []
    for number, slot in enumerate(engine.slots):
        kernel = slot.kernel
        own, arriving = kernel.ports[slot.fed].type, engine.arriving(number)
        processes = [_process(process, kernel) for process in kernel.network.processes]
        arrives = f"tapped_{number}" if slot.tap else chain[number]
        streams = [
            arrives if index == slot.fed else chain[number + 1] if port.kind == "store" else names[number, index]
            for index, port in enumerate(kernel.ports)
        ]
        found.append(
            {
                "name": engine.slot_name(number),
                "number": number,
                "kernel": kernel.function,
                "callee": f"{engine.slot_name(number)}_processes" if kernel.network.fifos else processes[0]["function"],
                "fifos": [_fifo(fifo, kernel) for fifo in kernel.network.fifos],
                "processes": processes,
                "ports": [
                    {
                        "name": port.name,
                        "kind": port.kind,
                        "word": word_of(port.beat),
                        "beat": port.beat,
                        "type": (arriving if index == slot.fed else port.type).cpp(),
                        "own": port.type.cpp(),
                        "stream": stream,
                    }
                    for index, (port, stream) in enumerate(zip(kernel.ports, streams, strict=True))
                ],
                "fed": kernel.ports[slot.fed].name,
                "from": arriving.cpp(),
                "to": own.cpp(),
                "converts": engine.converts(number),
                "result": kernel.ports[store_port(kernel)].name,
                "optional": slot.optional,
                "tap": f"tap_{number}" if slot.tap else None,
                "in": chain[number],
                "arrives": arrives,
                "out": chain[number + 1],
                "call": kernel.network.call,
            }
        )
    return found


def _opened(streams: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same streams; `opens` says that it is the first one that uses its pointer, so that a list of arguments names each once."""
    names = [stream["memory"] for stream in streams]
    return [{**stream, "opens": stream["memory"] not in names[:index]} for index, stream in enumerate(streams)]


def _engine(engine: Engine, first: int) -> dict[str, Any]:
    streams = _opened([_stream(stream, stream.name in engine.small) for stream in engine.streams])
    by_name = {stream["name"]: stream for stream in streams}
    return {
        "name": engine.name,
        "op": " > ".join(slot.op for slot in engine.slots),
        "index": engine.index,
        "chained": engine.chained,
        "streams": streams,
        "shared": _opened([by_name[name] for name, _ in engine.shared]),
        "first": first,
        "parts": _parts(engine, first),
        "slots": _slots(engine),
    }


def tables_of(kernels: list[KernelCall]) -> list[Table]:
    """Every ROM once."""
    found = {arg.name: arg for kernel in kernels for _, arg in kernel.template_args if isinstance(arg, Table)}
    return [found[name] for name in sorted(found)]


def _queue(program: Program) -> dict[str, Any] | None:
    """How queues of experts are read: through which pointer, with how many entries at most, and where an instruction says so."""
    if not program.queues:
        return None
    pointer, beat = next((name, beat) for name, beat in program.pointers.items() if name.startswith(POINTERS["load"]))
    entries = max(queue.entries for queue in program.queues.values())
    return {
        "memory": pointer,
        "word": word_of(beat),
        "beat": beat,
        "entries": entries,
        "rows": entry_rows(program.design),
        "first": program.places[-1],
        "registers": ENTRY,
    }


def context(program: Program, part: str, clock_mhz: float, cost: Estimate | None = None, pipelines: Style = "flp") -> dict[str, Any]:
    """Names that the templates may use; all are integers or identifiers of attnc's own. Without `cost` the tools place the buffers."""
    kernels = [slot.kernel for engine in program.engines for slot in engine.slots]
    engines = [_engine(engine, first) for engine, first in zip(program.engines, program.places, strict=False)]
    found = arguments(program)
    return {
        "top": TOP,
        "part": part,
        "clock_ns": f"{1000 / clock_mhz:.3f}",
        "clock_mhz": clock_mhz,
        "pipelines": pipelines,
        "flags": FLAGS,
        "read_latency": READ_LATENCY,
        "lanes": program.design.lanes,
        "shallow": SHALLOW,
        "engines": engines,
        "tracks": [[engines[e.index] for e in held] for held in program.tracks] if program.design.parallel > 1 else [],
        "taken": {part["at"] for engine in engines for part in engine["parts"]},
        "calls": sorted({(*_call(kernel), kernel.network.fields) for kernel in kernels}),
        "headers": sorted({f"attnc/{kernel.network.header}" for kernel in kernels}),
        "chained": any(engine.chained for engine in program.engines),
        "placement": [(buffer.macro, cost.places[buffer.key]) for buffer in cost.buffers] if cost else [],
        "signature": found,
        "scalars": [one.name for one in found if one.kind == "scalar"],
        "interfaces": [one for one in found[1:] if one.kind == "pointer"],
        "identity": IDENTITY,
        "beat": program.design.beat,
        "fifos": {name: queue.depth for name, queue in fifos(program).items()},
        "tables": tables_of(kernels),
        "instruction_ints": program.instruction_ints,
        "fetch_ints": FETCH_INTS,
        "registers": [name for name in program.registers if name not in ENTRY],
        "patched": program.registers,
        "derived": program.derived,
        "patch_count": program.most_patches,
        "first_patch": program.first_patch,
        "patch_shift": PATCH_SHIFT,
        "queue": _queue(program),
        # As hexadecimal of fixed width: the sources are as long for 24 layers as for 2.
        "depths": {
            "program": f"0x{len(program.steps) * program.instruction_ints // FETCH_INTS:08x}",
            "weights": f"0x{max(program.weight_words, 1):08x}",
            "memory": f"0x{program.memory.words:08x}",
            "weights_beats": f"0x{math.ceil(max(program.weight_words, 1) / 2):08x}",
            "memory_beats": f"0x{math.ceil(program.memory.words / 2):08x}",
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
    "project.tcl.j2": "project.tcl",
}
EXPORT_FILES = {"export.tcl.j2": "export_{}.tcl", "hls_config.cfg.j2": "hls_config_{}.cfg"}
"""One for each kind of export."""


HARDWARE = ("attnc_top.cpp", "attnc_top.hpp", "tables.hpp")
"""Files that, with the headers of the kernels, say what the hardware is."""


def write_sources(
    program: Program, folder: Path, part: str, clock_mhz: float, cost: Estimate | None = None, pipelines: Style = "flp"
) -> int:
    """Render every template into `folder` and copy the kernel headers beside them; the identity of the hardware."""
    env, names = environment(), context(program, part, clock_mhz, cost, pipelines)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {target: env.get_template(template).render(names) for template, target in FILES.items()}
    kernels = data_path("hls_kernels")
    headers = [path.read_text() for path in sorted((kernels / "include").rglob("*.hpp"))]
    number = identity([texts[name] for name in HARDWARE] + headers + [pipelines])
    for target, text in texts.items():
        (folder / target).write_text(text.replace(IDENTITY, f"0x{number:08x}"))
    for kind, export in EXPORTS.items():
        for template, target in EXPORT_FILES.items():
            (folder / target.format(kind)).write_text(env.get_template(template).render(names, kind=kind, **asdict(export)))
    for sub in ("include", "sim"):
        shutil.copytree(kernels / sub, folder / sub, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return number
