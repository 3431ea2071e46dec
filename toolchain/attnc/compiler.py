"""From a model to a build folder."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from attnc import report
from attnc.arrays import Array
from attnc.codegen.folder import CONFIG, MANIFEST, SCHEDULE, SIMULATION, Note, staged
from attnc.codegen.project import Vectors, write_json, write_project
from attnc.config import DEFAULT_TARGET, CompileOptions
from attnc.decoder_report import decoder_report
from attnc.decoding.plan import Decoder, check_runs, images
from attnc.decoding.texts import find_texts
from attnc.errors import ConfigError
from attnc.files import read_json
from attnc.frontend import import_model
from attnc.frontend.imposed import report as import_report
from attnc.golden import run_golden
from attnc.model import Model
from attnc.npz import npz_shapes, save_npz
from attnc.outputs import check_outputs, files_read
from attnc.pipeline.compare import unlucky_words
from attnc.pipeline.phases import Phase, Progress, run
from attnc.pipeline.quantize import VECTORS, device_integers
from attnc.pipeline.rewrite import weight_config
from attnc.pipeline.state import State
from attnc.quant.samples import (
    Edge,
    count_samples,
    load_samples,
    load_sequences,
    one_sample,
    select_samples,
    synthetic_samples,
)
from attnc.quant.split import doubts, split_samples
from attnc.report_tables import as_text, render
from attnc.routings import FIRST, MEAN, ROUTED, TOKEN, Costs, Routed, Routings, other_routings, routing_report
from attnc.schedule.devices import find_board, with_utilisation
from attnc.schedule.file import check_board, read_schedule, schedule_text
from attnc.schedule.given import NOTHING
from attnc.sim.check import Check, check_build
from attnc.sim.facts import summary
from attnc_host.caches import DECODE, PREFILL
from attnc_host.integrity import sha256
from attnc_host.samples import unstack

OF_DECODERS = ("block", "cache", "head", "sessions", "batch")
"""Options."""


def compile_model(path: Path, options: CompileOptions, progress: Progress = lambda text: None, moved: Note = lambda text: None) -> Path:
    """Compile `path` into the folder `options.output` and return it. Raises `AttncError`; leaves nothing behind on failure."""
    check_outputs(path, options)
    state = begin(path, options, progress)
    run(state, progress)
    return write(state, progress, moved)


def quantize_model(path: Path, options: CompileOptions, progress: Progress = lambda text: None) -> State:
    """The quantized graph of `path` and what led to it, without hardware: enough to measure golden, or to try designs."""
    state = begin(path, options, progress)
    run(state, progress, Phase.WIDEN)
    return state


def begin(path: Path, options: CompileOptions, progress: Progress) -> State:
    """Settings, model and samples."""
    _check_of_decoders(options)
    schedule = None if options.schedule is None else read_schedule(options.schedule)
    board = find_board(options.target or (schedule and schedule.target) or DEFAULT_TARGET)
    if schedule and schedule.utilisation:
        board = board.model_copy(update={"utilisation": schedule.utilisation})
    if options.utilisation is not None:
        board = with_utilisation(board, options.utilisation)
    clock_mhz = options.clock_mhz or (schedule and schedule.clock_mhz) or board.clock_mhz
    progress("reading the model")
    if options.max_length is not None:
        find_texts(path.parent, 0)  # what is broken is said before the work
    shown = {} if options.calib is None else npz_shapes(options.calib)
    model = import_model(path, options.shapes, options.strict, shown, options.max_length)
    if schedule and options.schedule:
        check_board(schedule, options.schedule, board)
    return State(path, options, board, clock_mhz, model, *_samples(path, model, options), options.calib is None, schedule=schedule)


def _check_of_decoders(options: CompileOptions) -> None:
    """What a model over sequences of one length has no use for is refused."""
    for name in OF_DECODERS:
        given = getattr(options, name)
        if options.max_length is None and given != CompileOptions.model_fields[name].default:
            raise ConfigError(f"--{name} {given}: is of decoders, which --max-length compiles")


def _samples(path: Path, model: Model, options: CompileOptions) -> tuple[dict[str, Array], dict[str, Array] | None, list[str]]:
    """Samples that calibrate, samples to measure on, and what is doubtful about them."""
    if options.heldout is not None and options.calib is not None and options.heldout.resolve() == options.calib.resolve():
        raise ConfigError(f"--heldout {options.heldout}: is the file of --calib; leave it out, and some of the samples are held out")

    if options.calib is None:
        given = synthetic_samples(onnx.load(path, load_external_data=False), model.inputs, options.seed)
    else:
        given = _read(options.calib, model, options)
    unseen = None if options.heldout is None else _read(options.heldout, model, options)
    every = weight_config(options).hold_out
    split = split_samples(given, 0 if every is None and unseen is not None else every)
    found = doubts(given, model.inputs, split, unseen is not None)
    if options.calib is None:
        found = ["the inputs are made up, so the figures say little about real data (needed --calib)"]
    if model.quantized is not None and model.quantized.lost:
        found.append("the file was calibrated with its mask inside, so that nothing is left of attention scores but the mask: quantize it "
                     f"again without the nodes before {', '.join(model.quantized.lost)}")  # fmt: skip
    if unseen is None and len(split.held_out):
        unseen = select_samples(given, split.held_out)
    return select_samples(given, split.calibrating), unseen, found


def _read(file: Path, model: Model, options: CompileOptions) -> dict[str, Array]:
    """Samples of a file; those of a decoder are cut from token ids of any shape."""
    if options.max_length is None:
        return load_samples(file, model.inputs)
    return {model.inputs[0].name: load_sequences(file, model.inputs[0])}


def _write_vectors(state: State, folder: Path) -> Vectors:
    """The first samples through golden, for the test bench; their inputs and outputs as a user gives and gets them into `folder`."""
    model, edge = state.model, Edge(state.model)
    first = [feed for feed, _ in zip(edge.feeds(state.samples), range(VECTORS), strict=False)]
    feeds = {name: np.concatenate([feed[name] for feed in first]) for name in model.graph.inputs}
    vectors = device_integers(model.graph, feeds, model)
    kept = select_samples(state.samples, np.arange(len(first)))
    save_npz(folder / "golden" / "inputs.npz", {spec.name: unstack(spec, kept[spec.name], framed=False) for spec in model.inputs})
    outputs = run_golden(model.graph, vectors)
    finished = []
    for i in range(len(first)):
        real = {name: model.graph.type(name).dequantize(array[i : i + 1]) for name, array in outputs.items()}
        finished.append(edge.finish(one_sample(state.samples, i), real))
    made = {spec.name: unstack(spec, np.stack([f[spec.name] for f in finished]), framed=False) for spec in model.outputs}
    save_npz(folder / "golden" / "outputs.npz", made)
    return Vectors(vectors, outputs)


def _runs(state: State, decoder: Decoder) -> Vectors:
    """A block of the first sample and the token behind it."""
    (spec,) = decoder.sequence.inputs
    runs = check_runs(decoder, one_sample(state.samples, 0)[spec.name].reshape(-1))
    return Vectors(*images(runs, decoder), decoder, tuple(runs))


def _routed(state: State) -> Routed:
    """Samples of the calibration, with the experts that golden gives their tokens."""
    model = state.model if state.decoder is None else state.decoder.sequence
    if all(node.op != "expert_queue" for node in model.graph.nodes):
        return Routed(model.graph, {}, {}, state.decoder)
    count = min(ROUTED, count_samples(state.samples))
    if state.decoder is not None:
        (spec,), (name,) = model.inputs, model.graph.inputs
        ids = [one_sample(state.samples, i)[spec.name].reshape(-1) for i in range(count)]
        return Routed.of(model.graph, {name: np.stack([state.decoder.rows(one, 0) for one in ids])}, state.decoder)
    first = list(islice(Edge(model).feeds(state.samples), count))
    feeds = {name: np.concatenate([feed[name] for feed in first]) for name in model.graph.inputs}
    return Routed.of(model.graph, device_integers(model.graph, feeds, model))


def _simulated_routings(check: Check, routings: Routings) -> dict[str, dict[str, int]]:
    """Cycles of what the check has simulated anyway."""
    styles = (check.simulation or {"styles": {}})["styles"]
    first = {style: run.get("entries", {}).get(PREFILL, run)["cycles"] for style, run in styles.items()}
    token = {style: run["entries"][DECODE]["cycles"] for style, run in styles.items() if DECODE in run.get("entries", {})}
    return {FIRST: first, TOKEN: token, **({} if routings.mean[0] else {MEAN: first})}


def write(state: State, progress: Progress, moved: Note) -> Path:
    """The build folder, in one rename; a folder that has to be moved aside for it is told to `moved`. What differs from golden never takes
    that place, unless the options leave the check out."""
    assert state.design is not None
    progress("writing the project")
    model, path = state.model, state.path
    source = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    with staged(state.options.output, state.options.force, files_read(path, state.options), moved) as folder:
        (folder / "golden").mkdir()
        given = state.schedule.given if state.schedule else NOTHING
        vectors = _write_vectors(state, folder) if state.decoder is None else _runs(state, state.decoder)
        routed = _routed(state)
        vectors = replace(vectors, routing=routed.routing())
        program, cost = write_project(folder, model, state.design, state.board, state.clock_mhz, source, vectors, given)
        progress("running the C++ in time")
        with TemporaryDirectory(prefix="attnc-") as temporary:
            costs = Costs(program, cost, state.board)
            routings = other_routings(routed, program, costs, Path(temporary)) if routed.chosen else None
            check = check_build(folder, state.options.check, bool(given.depths), () if routings is None else routings.runs)
        assert state.layers is not None
        facts = report.compile_report(
            model=model, program=program, cost=cost, board=state.board, source=source, layer_db=state.layer_db, misfit=state.misfit,
            check=check.report, widths=state.widths, settings=state.layers, choice=state.engines,
            float_check={
                "against": state.float_model,
                "largest_relative_error": round(state.float_error, 9),
                "undefined_samples": state.undefined,
            },
            calibration={
                "source": "synthetic" if state.synthetic else str(state.options.calib.name if state.options.calib else ""),
                "samples": count_samples(state.samples),
                "method": state.options.calibration,
                "held_out": 0 if state.unseen is None else count_samples(state.unseen),
                "held_out_from": "" if state.options.heldout is None else state.options.heldout.name,
                "warnings": [*state.doubts, *unlucky_words(state)],
            },
        )  # fmt: skip
        if state.decoder is not None:
            facts["decoder"] = decoder_report(state.decoder, vectors.runs, program, read_json(folder / MANIFEST)) | {
                "simulated": check.later,
                "cache": state.options.cache,
                "head": None if state.head is None else state.head.facts() | {"design_cycles": cost.by_node().get(state.head.node)},
                # A scale takes a word.
                "cache_errors": [row | {"bytes": row["bytes"] + row["scales"] * program.design.lanes} for row in state.cache_errors],
            }
        if routings is not None:
            simulated = _simulated_routings(check, routings) | check.others
            facts["experts"] = routing_report(routed, routings, costs, simulated)
        if check.simulation is not None:
            write_json(folder / SIMULATION, check.simulation)
            facts["simulation"] = summary(check.simulation)
        if model.quantized is not None:
            facts["import"] = import_report(model.quantized, model.graph)
        if state.search is not None:
            facts["search"] = state.search
        if state.options.config is not None:
            shutil.copyfile(state.options.config, folder / CONFIG)
            facts["files"]["config"] = CONFIG
        objective = f"as given in {state.options.schedule.name}" if state.options.schedule else state.options.objective
        (folder / SCHEDULE).write_text(schedule_text(program, cost, state.board, objective, given.pipelines), encoding="utf-8")
        facts["checksums"] = {name: sha256(folder / name) for name in (SCHEDULE, CONFIG) if (folder / name).exists()}
        write_json(folder / "report.json", facts)
        (folder / "report.txt").write_bytes(as_text(render(facts)).encode())
    return state.options.output
