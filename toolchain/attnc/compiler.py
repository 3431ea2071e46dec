"""The whole compiler, as one list of steps."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from attnc import report
from attnc.arrays import Array
from attnc.codegen.project import staged, write_json, write_project
from attnc.config import DEFAULT_TARGET, CompileOptions
from attnc.errors import ConfigError, FitError
from attnc.frontend import import_model
from attnc.frontend.imposed import report as import_report
from attnc.golden import run_golden
from attnc.model import Model
from attnc.npz import save_npz
from attnc.ops import verify
from attnc.passes.approximations import share_implementations
from attnc.passes.types import assign_types
from attnc.quant.samples import (
    Edge,
    count_samples,
    held_out,
    in_front,
    load_samples,
    one_sample,
    select_samples,
    synthetic_samples,
)
from attnc.report_tables import as_text, render
from attnc.schedule.cost import check_memory, estimate
from attnc.schedule.design import check_fit, choose_engines
from attnc.schedule.devices import find_board, with_utilisation
from attnc.schedule.file import check_board, check_program, read_schedule, schedule_text
from attnc.schedule.program import build_program
from attnc.steps import (
    VECTORS,
    State,
    calibrate,
    check_against_float,
    choose_attention_biases,
    choose_formats,
    compare_layers,
    device_integers,
    ease,
    fold_attention_masks,
    note_implementations,
    pair_rotary_channels,
    plan,
    plan_again,
    quantize,
    quantize_weights,
    scale_tokens,
    weight_config,
)
from attnc.widths import choose_widths

Progress = Callable[[str], None]
CONFIG = "attnc.yaml"
"""In a build: the settings of its layers, where they came from a file or a search."""


Step = tuple[str, Callable[[State], None]]
STEPS: list[Step] = [
    ("folding masks into attention", fold_attention_masks),
    ("pairing channels of rotary embeddings", pair_rotary_channels),
    ("checking the imported graph against the float model", check_against_float),
    ("choosing formats of weights", choose_formats),
    ("easing attention", ease),
    ("scaling activations per token", scale_tokens),
    ("noting implementations", note_implementations),
    ("planning types", plan),
    ("calibrating", calibrate),
    ("choosing scales", lambda s: assign_types(s.graph, s.plan, s.statistics, s.options.calibration)),
    ("choosing implementations", lambda s: share_implementations(s.graph)),
    ("choosing how biases are made", choose_attention_biases),
    ("quantizing weights", quantize_weights),
    ("quantizing", quantize),
    ("comparing golden with float", compare_layers),
    ("choosing widths of inputs", lambda s: choose_widths(s, requantize)),
    ("choosing the design", lambda s: choose(s)),
]


QUANTIZING = ("choosing scales", "choosing implementations", "quantizing weights", "quantizing", "comparing golden with float")


def requantize(state: State) -> None:
    """The quantized graph anew, with the widths that `state` asks for now."""
    plan_again(state)
    for title, step in STEPS:
        if title in QUANTIZING:
            step(state)
            verify(state.graph)


def compile_model(path: Path, options: CompileOptions, progress: Progress = lambda text: None) -> Path:
    """Compile `path` into the folder `options.output` and return it. Raises `AttncError`; leaves nothing behind on failure."""
    state = begin(path, options, progress)
    run(state, STEPS, progress)
    progress("writing the project")
    return write(state)


def quantize_model(path: Path, options: CompileOptions, progress: Progress = lambda text: None) -> State:
    """The quantized graph of `path` and what led to it, without hardware: enough to measure golden, or to try designs."""
    state = begin(path, options, progress)
    run(state, STEPS[:-1], progress)
    return state


def begin(path: Path, options: CompileOptions, progress: Progress) -> State:
    """Settings, model and samples."""
    schedule = None if options.schedule is None else read_schedule(options.schedule)
    board = find_board(options.target or (schedule and schedule.target) or DEFAULT_TARGET)
    if schedule and schedule.utilisation:
        board = board.model_copy(update={"utilisation": schedule.utilisation})
    if options.utilisation is not None:
        board = with_utilisation(board, options.utilisation)
    clock_mhz = options.clock_mhz or (schedule and schedule.clock_mhz) or board.clock_mhz
    progress("reading the model")
    model = import_model(path, options.shapes, options.strict)
    if schedule and options.schedule:
        check_board(schedule, options.schedule, model.graph, board)
    samples = _samples(path, model, options)
    return State(path, options, board, clock_mhz, model, samples, options.calib is None, schedule=schedule)


def run(state: State, steps: list[Step], progress: Progress) -> None:
    """The steps in order, the graph verified after each."""
    dump(state, 0, "imported")
    for number, (title, step) in enumerate(steps, 1):
        progress(title)
        step(state)
        verify(state.graph)
        dump(state, number, title)


def dump(state: State, number: int, title: str) -> None:
    """The graph as text, if the options ask for it."""
    if state.options.dump is not None:
        try:
            state.options.dump.mkdir(parents=True, exist_ok=True)
            (state.options.dump / f"{number}_{title.replace(' ', '_')}.txt").write_text(state.graph.dump())
        except OSError as error:
            raise ConfigError(f"--dump {state.options.dump}: cannot be written ({error})") from error


def _samples(path: Path, model: Model, options: CompileOptions) -> dict[str, Array]:
    if options.calib is not None:
        samples = load_samples(options.calib, model.inputs)
        calibrating, _ = held_out(count_samples(samples, model.inputs), weight_config(options).hold_out)
        return select_samples(samples, model.inputs, calibrating)
    return synthetic_samples(onnx.load(path, load_external_data=False), model.inputs, options.seed)


def choose(state: State) -> None:
    """The design: the schedule's where one is given, else the best that fits; and the engine of every layer that may have either."""
    graph, board, path = state.graph, state.board, state.options.schedule
    if state.schedule is None or path is None:
        state.design, state.engines = choose_engines(graph, board, state.clock_mhz, state.options.objective)
    else:
        state.design = state.schedule.parallelism
    program = build_program(graph, state.design, None)
    check_memory(program, board)
    if state.schedule is not None and path is not None:
        cost = estimate(program, board, state.clock_mhz, state.schedule.memory, state.schedule.ports)
        check_program(state.schedule, path, program, cost, board)
        state.misfit = check_fit(graph, state.design, cost, board, state.clock_mhz)
        if state.misfit and state.options.fit:
            raise FitError(state.misfit)


def write(state: State) -> Path:
    """The build folder, in one rename."""
    assert state.design is not None
    model, path = state.model, state.path
    edge = Edge(model)
    first = [feed for feed, _ in zip(edge.feeds(state.samples), range(VECTORS), strict=False)]
    feeds = {name: np.concatenate([feed[name] for feed in first]) for name in model.graph.inputs}
    vectors = device_integers(model.graph, feeds, model)
    source = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    with staged(state.options.output, state.options.force) as folder:
        kept = {
            spec.name: state.samples[spec.name][: len(first)] if spec.shape and spec.shape[0] == 1 else state.samples[spec.name]
            for spec in model.inputs
        }
        if any(in_front(state.samples[spec.name], spec) for spec in model.inputs):
            kept, first = one_sample(state.samples, model.inputs, 0), first[:1]  # what the model takes at a time
        (folder / "golden").mkdir()
        save_npz(folder / "golden" / "inputs.npz", kept)
        outputs = run_golden(model.graph, vectors)
        finished = []
        for i in range(len(first)):
            real = {name: model.graph.type(name).dequantize(array[i : i + 1]) for name, array in outputs.items()}
            finished.append(edge.finish(one_sample(state.samples, model.inputs, i), real))
        save_npz(
            folder / "golden" / "outputs.npz",
            {spec.name: np.concatenate([np.atleast_1d(f[spec.name]) for f in finished]) for spec in model.outputs},
        )
        places, ports = (state.schedule.memory, state.schedule.ports) if state.schedule else ({}, {})
        program, cost = write_project(folder, model, state.design, state.board, state.clock_mhz, source, vectors, outputs, places, ports)
        assert state.layers is not None
        facts = report.compile_report(
            model=model, program=program, cost=cost, board=state.board, source=source, sqnr=state.sqnr, misfit=state.misfit,
            widths=state.widths, settings=state.layers, choice=state.engines,
            float_check={"against": state.float_model, "largest_relative_error": round(state.float_error, 9)},
            calibration={
                "source": "synthetic" if state.synthetic else str(state.options.calib.name if state.options.calib else ""),
                "samples": count_samples(state.samples, model.inputs),
                "method": state.options.calibration,
            },
        )  # fmt: skip
        if model.quantized is not None:
            facts["import"] = import_report(model.quantized, model.graph)
        if state.precision is not None:
            facts["precision"] = state.precision
        if state.options.config is not None:
            shutil.copyfile(state.options.config, folder / CONFIG)
            facts["files"]["config"] = CONFIG
        objective = f"as given in {state.options.schedule.name}" if state.options.schedule else state.options.objective
        (folder / "schedule.yaml").write_text(schedule_text(program, cost, state.board, objective))
        write_json(folder / "report.json", facts)
        (folder / "report.txt").write_text(as_text(render(facts)))
    return state.options.output
