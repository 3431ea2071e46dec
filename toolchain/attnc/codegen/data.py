"""The binary files that the hardware and its test bench read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from attnc.arrays import Array
from attnc.ir import Graph
from attnc.schedule.memory import Region
from attnc.schedule.program import Program
from attnc_host import layout


def element_bytes(graph: Graph, name: str) -> int:
    """Bytes per element of a value in memory."""
    return 1 if graph.type(name).bits <= 8 else 2


def pack_region(graph: Graph, program: Program, region: Region, names: Sequence[str], arrays: Mapping[str, Array]) -> np.ndarray:
    """The values `names` as they lie in `region`: uint8 [samples, bytes]."""
    lanes = program.design.lanes
    samples = max((arrays[name].shape[0] for name in names), default=1)
    image = np.zeros((samples, region.words * lanes), np.uint8)
    for name in names:
        place = program.memory.values[name]
        start = (place.offset - region.offset) * lanes
        type_ = graph.type(name)
        stored = layout.pack(type_.to_memory(arrays[name]), lanes, element_bytes(graph, name), type_.zero_point)
        image[:, start : start + place.words * lanes] = stored
    return image


def unpack_outputs(graph: Graph, program: Program, image: np.ndarray) -> dict[str, Array]:
    """The outputs of the graph from the output region, uint8 [samples, bytes]."""
    lanes, region = program.design.lanes, program.memory.outputs
    result = {}
    for name in graph.outputs:
        place, (rows, channels) = program.memory.values[name], graph.value(name).shape
        start = (place.offset - region.offset) * lanes
        data = image[:, start : start + place.words * lanes]
        result[name] = graph.type(name).from_memory(layout.unpack(data, rows, channels, lanes, element_bytes(graph, name)))
    return result


def write_run_data(graph: Graph, program: Program, folder: Path) -> None:
    """program.bin, constants.bin and run.txt."""
    memory = program.memory
    program.encode().astype("<i4").tofile(folder / "program.bin")
    constants = {name: array[np.newaxis] for name, array in graph.constants.items()}
    pack_region(graph, program, memory.constants, list(graph.constants), constants).tofile(folder / "constants.bin")
    sizes = {
        "memory_words": memory.words,
        "input_offset": memory.inputs.offset,
        "input_words": memory.inputs.words,
        "constant_offset": memory.constants.offset,
        "output_offset": memory.outputs.offset,
        "output_words": memory.outputs.words,
        **({"cache_offset": memory.caches.offset, "cache_words": memory.caches.words} if memory.caches.words else {}),
        "instructions": len(program.steps),
    }
    (folder / "run.txt").write_text("".join(f"{name} {number}\n" for name, number in sizes.items()))
