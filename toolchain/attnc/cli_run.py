"""The commands that run a build: `attnc csim`, `attnc run`, `attnc eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from attnc import tables
from attnc.cli_vitis import VitisOption, WorkOption, check_nothing_else, csim_in_vitis
from attnc.console import EXIT_DIFFERENT, Backend, Build, BuildOrArchive, Json, State, Types, Verbose, Verify, note, print_json, show, tell
from attnc.files import check_replaceable
from attnc.messages import clean
from attnc.verify.data import find_model, load_inputs, load_labelled
from attnc_host import Accelerator, archive
from attnc_host import manifest as manifests
from attnc_host.backends import choose
from attnc_host.progress import Progress

CSIM: dict[str, Any] = {
    "short_help": "Simulate the C++, compare with golden.",
    "no_args_is_help": True,
    "epilog": "\b\nExamples:\n"
    "  attnc csim build/\n"
    "  attnc csim build/ --inputs heldout.npz --json\n"
    "  attnc csim build/ --types ap\n"
    "  attnc csim build/ --tool vitis        (in Vitis HLS' own C simulation; see attnc csynth --help)\n\n"
    "\b\nExit code: 0 when every element is equal, 1 when not, 2 after an error.",
}
RUN: dict[str, Any] = {
    "short_help": "Run a build or an archive on inputs.",
    "no_args_is_help": True,
    "epilog": "\b\nExamples:\n"
    "  attnc run build/ --inputs x.npz --output y.npz\n"
    "  attnc run build/ --inputs x.npz --output y.npz --backend golden",
}
EVAL: dict[str, Any] = {
    "name": "eval",
    "short_help": "Measure accuracy and mismatches on data.",
    "no_args_is_help": True,
    "epilog": "\b\nExamples:\n"
    "  attnc eval build/ --inputs heldout.npz --model vit.onnx\n"
    "  attnc eval build/ --inputs test.npz --labels y --json\n\n"
    "\b\nExit code: 0 when the C++ equals golden, 1 when not, 2 after an error.",
}


def csim(
    build: Build,
    inputs: Annotated[Path | None, typer.Option("--inputs", help="Inputs, .npz by input name; the build's own vectors by default.")] = None,
    types: Types = "native",
    tool: Annotated[
        Literal["attnc", "vitis"], typer.Option("--tool", help="What simulates: attnc with g++, or the C simulation of Vitis HLS.")
    ] = "attnc",
    vitis: VitisOption = None,
    work: WorkOption = None,
    verify: Verify = True,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compile the emitted C++ with g++, run it, and compare it with golden bit for bit."""
    if tool == "vitis":
        check_nothing_else({"--inputs": inputs is not None, "--types": types != "native"}, tool)
        csim_in_vitis(build, vitis, work, verify, as_json)
        return
    check_nothing_else({"--vitis": vitis is not None, "--work": work is not None}, tool)
    manifest = manifests.load(build, verify, edited=True)
    arrays = None if inputs is None else load_inputs(manifest, inputs, note)
    with Progress() as progress:
        from attnc.verify import csim as comparison

        result = comparison.compare_build(manifest, arrays, types, progress)
    tell(result.to_json(), tables.comparison(result, State.verbose), as_json, not result.bit_exact)


def run(
    build: BuildOrArchive,
    inputs: Annotated[Path, typer.Option("--inputs", help="Inputs, .npz by the model's input names.")],
    output: Annotated[Path, typer.Option("--output", help="Receives the outputs, .npz by the model's output names.")],
    backend: Annotated[Backend, typer.Option("--backend", help="What runs the program; auto: a board, else csim.")] = "auto",
    types: Types = "native",
    verify: Verify = True,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run a build on inputs, float in and float out, through the same runtime as a board."""
    from attnc.npz import made_by_attnc, save_npz

    check_replaceable(output, made_by_attnc, [inputs, build])
    with archive.opened(build, verify) as manifest, Progress() as progress:
        arrays = load_inputs(manifest, inputs, note)
        backend = choose(manifest) if backend == "auto" else backend
        options: dict[str, Any] = {"types": types} if backend == "csim" else {}
        with Accelerator.open(manifest, backend, progress=progress, **options) as accelerator:
            outputs = accelerator.run(arrays)
    save_npz(output, outputs)
    if as_json:
        shapes = {name: {"shape": list(array.shape), "dtype": array.dtype.name} for name, array in outputs.items()}
        print_json({"output": str(output), "backend": backend, "outputs": shapes})
    else:
        found = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
        print(f"{clean(str(output))}: {clean(found)}")


def eval_command(
    build: Build,
    inputs: Annotated[Path, typer.Option("--inputs", help="Samples, .npz by input name, with their labels.")],
    labels: Annotated[str | None, typer.Option("--labels", help="Name of the labels in the .npz.", show_default="label")] = None,
    model: Annotated[Path | None, typer.Option("--model", help="The original model, for the accuracy in float.")] = None,
    types: Types = "native",
    verify: Verify = True,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure a build on data: accuracy of float, golden and C++, and every mismatch. Updates its report."""
    manifest = manifests.load(build, verify, edited=True)
    arrays, truth = load_labelled(manifest, inputs, labels, note)
    original = find_model(manifest, model, inputs, note)
    with Progress(delay=0) as progress:
        from attnc.evaluation import evaluate

        facts = evaluate(manifest, arrays, truth, original, progress, types)
    if as_json:
        print_json(facts)
    else:
        from attnc.report_tables import render

        show(render(facts))
    if facts["evaluation"]["mismatches"]:
        raise typer.Exit(EXIT_DIFFERENT)
