"""Writes what is in a build folder."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import attnc
from attnc.arrays import Array
from attnc.codegen.data import pack_region, write_run_data
from attnc.codegen.decoder import decoder_facts, write_decoder
from attnc.codegen.folder import MANIFEST
from attnc.codegen.graph_file import save_graph, type_to_json
from attnc.codegen.interface import arguments, registers
from attnc.codegen.listing import LISTING, listing
from attnc.codegen.nest import affine_nest
from attnc.codegen.platform_files import Wiring, platform_facts, write_platform
from attnc.codegen.render import TOP, environment, write_sources
from attnc.decoding.plan import Decoder, Run
from attnc.files import write_whole
from attnc.ir import Graph
from attnc.kernels.design import Design
from attnc.model import Feed, Fetch, Model, TensorSpec
from attnc.ops import operator
from attnc.schedule.cost import Estimate, estimate
from attnc.schedule.devices import Board
from attnc.schedule.given import NOTHING, Given
from attnc.schedule.program import Program, build_program
from attnc.schedule.queues import Routing
from attnc.tensors import embedded
from attnc_host.integrity import OWN, manifest_checksum, sha256

SCHEMA = 2


@dataclass(frozen=True)
class Vectors:
    """For the test bench: inputs of the device, integers [samples, rows, channels], and golden's answer to them; of a decoder samples are
    `runs`, one after the other."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]
    decoder: Decoder | None = None
    runs: tuple[Run, ...] = ()
    routing: Routing = field(default_factory=dict)
    """Of the first sample, where there are experts."""


def write_project(
    folder: Path,
    model: Model,
    design: Design,
    board: Board,
    clock_mhz: float,
    source: dict[str, str],
    vectors: Vectors,
    given: Given = NOTHING,
) -> tuple[Program, Estimate]:
    """Everything but the report; `given` is what a schedule settles."""
    for sub in ("hls/data", "weights", "golden", "host"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    graph = model.graph
    with open(folder / "weights" / "weights.bin", "wb") as weights:
        program = replace(build_program(graph, design, weights.write), depths=given.depths)
    if vectors.decoder is not None:  # what is estimated is what the test bench runs
        program = program.at({run.entry: run.position for run in vectors.runs})
    program = replace(program, routing=vectors.routing)
    cost = estimate(program, board, clock_mhz, given.places, given.ports, settled=True)
    number = write_sources(program, folder / "hls", board.part, clock_mhz, cost, given.pipelines)
    wiring = Wiring(TOP, cost.ports, clock_mhz, _shared_bytes(program))
    write_platform(environment(), folder, board, wiring)
    write_json(folder / LISTING, listing(program, cost))
    write_run_data(graph, program, folder / "weights")
    (folder / "weights" / "run.txt").rename(folder / "hls" / "data" / "run.txt")
    save_graph(graph, folder / "golden")
    regions = program.memory
    pack_region(graph, program, regions.inputs, graph.inputs, vectors.inputs).tofile(folder / "golden" / "inputs.bin")
    expected = pack_region(graph, program, regions.outputs, graph.outputs, vectors.outputs)
    files = ["weights/weights.bin", "weights/program.bin", "weights/constants.bin", "golden/inputs.bin", "golden/expected.bin"]
    if vectors.decoder is not None:
        files.append(write_decoder(folder, vectors.decoder, vectors.runs, program, expected))
    expected.tofile(folder / "golden" / "expected.bin")
    for path in files:
        _link(folder / path, folder / "hls" / "data" / Path(path).name)
    for name, proto in (("leading", model.leading), ("trailing", model.trailing)):
        if proto is not None:
            (folder / "host" / f"{name}.onnx").write_bytes(embedded(proto).SerializeToString(deterministic=True))
    manifest = _manifest(folder, model, program, board, wiring, source)
    if vectors.decoder is not None:
        manifest["decoder"] = decoder_facts(vectors.decoder, program, cost, board)
    manifest["registers"] = registers(arguments(program), number, cost.ports)
    manifest["estimate"] = {"cycles": cost.cycles}
    manifest["files"] = checksums(folder)
    write_json(folder / MANIFEST, {**manifest, OWN: manifest_checksum(manifest)})
    return program, cost


def _shared_bytes(program: Program) -> int:
    """Bytes that software lays out beside each other: weights, program, and the memory of two samples, one that is computed and one that
    comes. Each begins on a page and ends two words later, since a port may touch what lies behind the last."""
    lanes, page = program.design.lanes, 4096
    sizes = (program.weight_words, program.memory.words, program.memory.words, 4 * len(program.steps) * program.instruction_ints // lanes)
    return sum(-(-(words + 2) * lanes // page) * page for words in sizes)


def _link(source: Path, target: Path) -> None:
    """A second name for a file, so that `hls` is complete in itself and nothing is stored twice; a copy where links fail."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_json(path: Path, data: Any) -> None:
    """Equal data gives equal bytes."""
    write_whole(path, (json.dumps(data, indent=1) + "\n").encode())


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype.name, "shape": list(spec.shape), "batched": spec.batched}


def _source(folder: Path, index: Array, stem: str) -> dict[str, Any]:
    nest = affine_nest(index)
    if nest is not None:
        return {"offset": nest.offset, "counts": list(nest.counts), "strides": list(nest.strides)}
    np.save(folder / "host" / f"{stem}.npy", index.astype(np.int64))
    return {"file": f"host/{stem}.npy"}


def _edge(folder: Path, graph: Graph, program: Program, link: Feed | Fetch, stem: str) -> dict[str, Any]:
    """What the host must know of one input or output of the device."""
    rows, channels = graph.value(link.value).shape
    place = program.memory.values[link.value]
    entry = {
        "value": link.value,
        "tensor": link.tensor,
        "rows": rows,
        "channels": channels,
        "type": type_to_json(graph.type(link.value)),
        "offset": place.offset,
        "words": place.words,
        "source": _source(folder, link.index, stem),
    }
    if isinstance(link, Fetch):
        entry["shape"] = list(link.shape)
    else:
        masks = [(node, i) for node, i, name in graph.uses() if name == link.value and operator(node).excludes(node, i)]
        entry["excluded"], entry["keyless"] = bool(masks), all(operator(node).allows_nothing(node, i) for node, i in masks)
    return entry


def _kind(graph: Graph, name: str) -> str:
    for kind, names in (("input", graph.inputs), ("constant", graph.constants), ("output", graph.outputs)):
        if name in names:
            return kind
    return "activation"


def _nodes(program: Program) -> list[list[Any]]:
    """The main nodes of the steps in their order, each with the number of steps that follow each other."""
    names = (" + ".join(dict.fromkeys(one.chain.main.node.name for one in step)) for step in program.steps)
    return [[name, len(list(same))] for name, same in itertools.groupby(names)]


def _manifest(folder: Path, model: Model, program: Program, board: Board, wiring: Wiring, source: dict[str, str]) -> dict[str, Any]:
    graph, memory = model.graph, program.memory
    host = {name: f"host/{name}.onnx" if getattr(model, name) is not None else None for name in ("leading", "trailing")}
    feeds = [_edge(folder, graph, program, feed, f"feed_{i}") for i, feed in enumerate(model.feeds)]
    fetches = [_edge(folder, graph, program, fetch, f"fetch_{i}") for i, fetch in enumerate(model.fetches)]
    regions = {"words": memory.words}
    for name, region in (("input", memory.inputs), ("constant", memory.constants), ("output", memory.outputs)):
        regions[f"{name}_offset"], regions[f"{name}_words"] = region.offset, region.words
    values = [
        {
            "name": name,
            "rows": graph.value(name).shape[0],
            "channels": graph.value(name).shape[1],
            "type": type_to_json(graph.type(name)),
            "offset": place.offset,
            "words": place.words,
            "kind": _kind(graph, name),
        }
        for name, place in memory.values.items()
    ]
    return {
        "schema": SCHEMA,
        "attnc": attnc.__version__,
        "name": graph.name,
        "model": source,
        "target": {"name": board.name, "part": board.part, "clock_mhz": wiring.clock_mhz},
        "platform": platform_facts(board, wiring),
        "design": program.design_facts,
        "top": TOP,
        "inputs": [_spec(spec) for spec in model.inputs],
        "outputs": [_spec(spec) for spec in model.outputs],
        "host": host,
        "feeds": feeds,
        "fetches": fetches,
        "memory": regions,
        "program": {"instructions": len(program.steps), "instruction_ints": program.instruction_ints, "nodes": _nodes(program)},
        "engines": [{"name": e.name, "op": e.op, "kernels": [s.kernel.function for s in e.slots]} for e in program.engines],
        "values": values,
    }


def checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """SHA-256 and size of every file, by relative path; the report may change later and is left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.parent != folder:
            found[path.relative_to(folder).as_posix()] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    return found
