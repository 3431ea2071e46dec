"""The command line: parses, calls, prints. What a command does lies elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import attnc
from attnc import cost_commands, process, tables
from attnc.cli_approx import APPROX, approx, implementations
from attnc.cli_compile import (
    EPILOG,
    BatchOption,
    BlockOption,
    BudgetOption,
    CacheOption,
    CalibOption,
    CheckOption,
    HeadOption,
    HeldoutOption,
    HoldOutOption,
    LabelsOption,
    MaxLengthOption,
    PoolOption,
    QuantizerOption,
    SessionsOption,
    TargetOption,
)
from attnc.cli_cosim import COSIM, cosim
from attnc.cli_export import EXPORT_QDQ, export_qdq
from attnc.cli_generate import GENERATE, generate
from attnc.cli_package import PACKAGE, package
from attnc.cli_report import REPORT, report
from attnc.cli_run import CSIM, EVAL, RUN, csim, eval_command, run
from attnc.cli_serve import SERVE, serve
from attnc.cli_vitis import CSYNTH, EXPORT, csynth, export
from attnc.config import SQNR_TARGET, Activations, Calibration, CompileOptions
from attnc.console import (
    EXIT_DIFFERENT,
    ActivationBitsOption,
    Json,
    ModelFile,
    ObjectiveOption,
    Shapes,
    SqnrTargetOption,
    State,
    UtilisationOption,
    Verbose,
    note,
    parse_shapes,
    print_json,
    show,
)
from attnc.errors import ConfigError
from attnc.messages import clean
from attnc.process import EXIT_ERROR
from attnc_host.progress import Progress

app = typer.Typer(
    name="attnc",
    help="Compile ONNX transformers to FPGA accelerators that are bit-exact with their golden model.",
    epilog="\b\nThe usual way:\n"
    "  attnc inspect model.onnx\n"
    "  attnc compile model.onnx --target kv260 --calib calib.npz -o build/\n"
    "  attnc csim build/\n"
    "  attnc report build/ -o report.html\n"
    "  attnc run build/ --inputs x.npz --output y.npz --backend csim",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        print(f"attnc {attnc.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", callback=_show_version, is_eager=True)] = False,
    verbose: Verbose = False,
) -> None:
    pass


def _calibration_beside(model: Path) -> Path | None:
    from attnc.quant.samples import calibration_beside

    return calibration_beside(model)


@app.command(
    "compile",
    short_help="Compile a model into a build folder.",
    no_args_is_help=True,
    epilog=EPILOG,
)
def compile_command(
    model: ModelFile,
    target: TargetOption = None,
    calib: CalibOption = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The build folder to write; an attnc build there is replaced.")] = Path(
        "build"
    ),
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a model that needs the host to compute anything.")] = False,
    shape: Shapes = None,
    calibration: Annotated[Calibration, typer.Option("--calibration", help="How ranges are chosen.")] = "mse",
    config: Annotated[Path | None, typer.Option("--config", help="attnc.yaml: weights, activations and engine per layer.")] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="int8 (default), int6 ... int2, ternary, binary4 ... binary2; auto.")
    ] = None,
    budget: BudgetOption = None,
    heldout: HeldoutOption = None,
    hold_out: HoldOutOption = None,
    labels: LabelsOption = None,
    pool: PoolOption = None,
    group_size: Annotated[
        int | None, typer.Option("--group-size", help="Weights that share a scale: 16, 32, 64, 128; 0: a channel.")
    ] = None,
    quantizer: QuantizerOption = None,
    engine: Annotated[
        Literal["auto", "dsp", "lookup"] | None, typer.Option("--engine", help="Multipliers or tables; auto: by cost.")
    ] = None,
    activations: Annotated[
        Activations | None, typer.Option("--activations", help="Scales of inputs of linear layers: calibrated, or per token (dynamic).")
    ] = None,
    activation_bits: ActivationBitsOption = None,
    sqnr_target: SqnrTargetOption = SQNR_TARGET,
    clock: Annotated[float | None, typer.Option("--clock", metavar="MHZ", help="Target clock; the board's by default.")] = None,
    objective: ObjectiveOption = "latency",
    utilisation: UtilisationOption = None,
    schedule: Annotated[Path | None, typer.Option("--schedule", help="Use this schedule.yaml in place of a search.")] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Refuse a schedule that does not fit the board; a search always does.")] = False,
    implementation: Annotated[
        list[str] | None,
        typer.Option("--implementation", metavar="GELU=TABLE", help="How to compute a function (see `attnc approx`); may be repeated."),
    ] = None,
    error_target: Annotated[
        float | None, typer.Option("--error-target", help="Error that a function may have; half a step of its output by default.")
    ] = None,
    max_length: MaxLengthOption = None,
    block: BlockOption = None,
    sessions: SessionsOption = 1,
    batch: BatchOption = None,
    cache: CacheOption = "int8",
    head: HeadOption = "auto",
    check: CheckOption = True,
    dump: Annotated[Path | None, typer.Option("--dump", metavar="DIR", help="Write the graph as text after every step into DIR.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Move an output folder that attnc did not make aside, to OUTPUT.old-1.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the made-up calibration inputs.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print neither the report nor progress.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compile an ONNX model into a build folder: HLS sources, weights, golden vectors, manifest and report."""
    if calib is None and (calib := _calibration_beside(model)) is not None and not quiet:
        note(f"calibrated with {calib}, which lies beside the model (--calib takes others)")
    options = _options(
        target=target,
        calib=calib,
        output=output,
        strict=strict,
        shapes=parse_shapes(shape),
        calibration=calibration,
        config=config,
        weights=weights,
        budget=budget,
        heldout=heldout,
        hold_out=hold_out,
        labels=labels,
        pool=pool,
        group_size=group_size,
        quantizer=quantizer,
        engine=engine,
        activations=activations,
        activation_bits=activation_bits,
        sqnr_target=sqnr_target,
        clock_mhz=clock,
        objective=objective,
        utilisation=utilisation,
        schedule=schedule,
        fit=fit,
        implementations=implementations(implementation),
        error_target=error_target,
        check=check,
        dump=dump,
        force=force,
        seed=seed,
        max_length=max_length,
        block=block,
        sessions=sessions,
        batch=batch,
        cache=cache,
        head=head,
    )
    with Progress(delay=0, quiet=quiet) as progress:
        from attnc.search.compile import compile_model

        folder = compile_model(model, options, progress, (lambda text: None) if quiet else note, note)
    from attnc.report import load_report
    from attnc.report_tables import render

    facts = load_report(folder)
    for warning in () if quiet else facts["calibration"]["warnings"]:
        note(warning)
    if "unchecked" in facts["check"] and (check or not quiet):
        note(f"the C++ was not compared with golden: {facts['check']['unchecked']}")
    if as_json:
        print_json({"build": str(folder), **facts})
    elif not quiet:
        show(render(facts))
        print(f"build folder: {clean(str(folder))}")


app.command(**CSIM)(csim)
app.command(**COSIM)(cosim)
app.command(**CSYNTH)(csynth)
app.command(**EXPORT)(export)
app.command(**RUN)(run)
app.command(**PACKAGE)(package)
app.command(**EVAL)(eval_command)
app.command(**REPORT)(report)
app.command(**SERVE)(serve)
app.command(**GENERATE)(generate)


@app.command(
    short_help="Device, host or unsupported, per node.",
    no_args_is_help=True,
    epilog="\b\nExamples:\n"
    "  attnc inspect model.onnx\n"
    "  attnc inspect bert.onnx --shape input_ids=1,128 --json\n"
    "  attnc inspect bert.onnx --calib calib.npz\n\n"
    "\b\nExit code: 0 when the model can be compiled, 1 when something is unsupported, 2 after an error.",
)
def inspect(model: ModelFile, shape: Shapes = None, calib: CalibOption = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Say what would run on the device, what on the host, and what is unsupported and why. Samples say how long dynamic axes are."""
    shapes = parse_shapes(shape)
    with Progress() as progress:
        progress.stage("reading the model")
        from attnc.frontend import inspect_model
        from attnc.npz import npz_shapes

        calib = calib or _calibration_beside(model)
        placements = list(inspect_model(model, shapes, {} if calib is None else npz_shapes(calib)))
    counts = {where: sum(p.where == where for p in placements) for where in ("device", "host", "folded", "unsupported")}
    if as_json:
        nodes = [{"node": p.node, "operator": p.operator, "where": p.where, "reason": p.reason} for p in placements]
        print_json({"model": str(model), "compilable": not counts["unsupported"], "counts": counts, "nodes": nodes})
    else:
        show(tables.placements(placements, State.verbose))
        print(", ".join(f"{where} {count}" for where, count in counts.items()))
        print("can be compiled" if not counts["unsupported"] else "cannot be compiled as it is")
    if counts["unsupported"]:
        raise typer.Exit(EXIT_DIFFERENT)


app.command(**EXPORT_QDQ)(export_qdq)


@app.command(epilog="\b\nExamples:\n  attnc targets\n  attnc targets --json")
def targets(as_json: Json = False, verbose: Verbose = False) -> None:
    """List the boards and their limits. `attnc compile --target` also takes a YAML or TOML file with the same fields."""
    from attnc.schedule.devices import BOARDS

    if as_json:
        print_json([board.model_dump() for board in BOARDS.values()])
        return
    show(tables.boards(BOARDS.values()))


app.command(
    short_help="Cycles and resources of a build, here or on another board.",
    no_args_is_help=True,
    epilog="\b\nExamples:\n"
    "  attnc estimate build/\n"
    "  attnc estimate build/ --target zcu104 --clock 200\n"
    "  attnc estimate build/ --calibrate csynth.xml --json",
)(cost_commands.estimate)
app.command(
    short_help="A model on several boards: a table.",
    no_args_is_help=True,
    epilog="\b\nExamples:\n  attnc sweep model.onnx --targets kv260,zcu104,zcu102\n"
    "  attnc sweep model.onnx --targets kv260 --clocks 150,200,250 --objectives latency,area --json",
)(cost_commands.sweep)


app.command(**APPROX)(approx)


def _options(**fields: Any) -> CompileOptions:
    from pydantic import ValidationError

    try:
        return CompileOptions(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        option = {"clock_mhz": "clock", "shapes": "shape"}.get(name, name.replace("_", "-"))
        raise ConfigError(f"--{option}: {first['msg']}, found {first.get('input')!r}") from error


def _invoke(args: Sequence[str]) -> int:
    """Run a command line; the exit code."""
    try:
        typer.main.get_command(app).main(args=list(args), prog_name="attnc")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0 if done.code is None else EXIT_ERROR
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point: run the command line `argv` (of the process by default) and return the exit code."""
    State.verbose = False
    return process.run(lambda: _invoke(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
