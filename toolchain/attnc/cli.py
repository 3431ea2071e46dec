"""The command line: parses, calls, prints. What a command does lies elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

import attnc
from attnc.config import Calibration, CompileOptions
from attnc.errors import AttncError, ConfigError, DataError
from attnc_host import Accelerator, AcceleratorError
from attnc_host import manifest as manifests
from attnc_host.progress import Progress

if TYPE_CHECKING:
    from attnc.model import Placement
    from attnc.verify.csim import CsimResult

EXIT_DIFFERENT = 1
EXIT_ERROR = 2
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
PIPE_WIDTH = 140
"""Columns of a table that goes to a file or a pipe."""

app = typer.Typer(
    name="attnc",
    help="Compile ONNX transformers to FPGA accelerators that are bit-exact with their golden model.",
    epilog="\b\nThe usual way:\n"
    "  attnc inspect model.onnx\n"
    "  attnc compile model.onnx --target kv260 --calib calib.npz -o build/\n"
    "  attnc csim build/\n"
    "  attnc run build/ --inputs x.npz --output y.npz --backend csim",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _State:
    """What an option of any command says about all output."""

    verbose = False


def _set_verbose(value: bool) -> bool:
    _State.verbose = _State.verbose or value
    return value


def _show_version(value: bool) -> None:
    if value:
        print(f"attnc {attnc.__version__}")
        raise typer.Exit


Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say more; with an error, show the traceback.", callback=_set_verbose, is_eager=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Types = Annotated[
    Literal["native", "ap"], typer.Option("--types", help="C++ types: native integers (fast), or ap_int as the hardware has.")
]
Build = Annotated[Path, typer.Argument(metavar="BUILD", help="A build folder, made by `attnc compile`.")]
ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX model.")]
Shapes = Annotated[
    list[str] | None, typer.Option("--shape", metavar="NAME=1,128", help="Fix the shape of an input with dynamic axes; may be repeated.")
]


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", callback=_show_version, is_eager=True)] = False,
    verbose: Verbose = False,
) -> None:
    pass


@app.command(
    "compile",
    short_help="Compile a model into a build folder.",
    no_args_is_help=True,
    epilog="\b\nExamples:\n"
    "  attnc compile vit.onnx --target kv260 --calib images.npz\n"
    "  attnc compile bert.onnx --target zcu104 --shape input_ids=1,128 --shape attention_mask=1,128 -o build/bert\n"
    "  attnc compile vit.onnx --target my_board.yaml --clock 150 --json > report.json",
)
def compile_command(
    model: ModelFile,
    target: Annotated[str, typer.Option("--target", help="Board (see `attnc targets`), or a YAML or TOML file with one.")] = "kv260",
    calib: Annotated[
        Path | None, typer.Option("--calib", help="Calibration inputs, .npz by input name. Without: made-up inputs, accuracy is a guess.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The build folder to write; an attnc build there is replaced.")] = Path(
        "build"
    ),
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a model that needs the host to compute anything.")] = False,
    shape: Shapes = None,
    calibration: Annotated[Calibration, typer.Option("--calibration", help="How ranges are chosen.")] = "mse",
    clock: Annotated[float | None, typer.Option("--clock", metavar="MHZ", help="Target clock; the board's by default.")] = None,
    dump: Annotated[Path | None, typer.Option("--dump", metavar="DIR", help="Write the graph as text after every step into DIR.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output folder even if attnc did not make it.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the made-up calibration inputs.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print neither the report nor progress.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compile an ONNX model into a build folder: HLS sources, weights, golden vectors, manifest and report."""
    options = _options(
        target=target,
        calib=calib,
        output=output,
        strict=strict,
        shapes=_shapes(shape),
        calibration=calibration,
        clock_mhz=clock,
        dump=dump,
        force=force,
        seed=seed,
    )
    if calib is None and not quiet:
        _note("without --calib the inputs for calibration are made up: accuracy on real data is then a guess")
    with Progress(delay=0, quiet=quiet) as progress:
        progress.stage("starting")
        from attnc.compiler import compile_model

        folder = Path(compile_model(model, options, progress.stage))
    from attnc.report import load_report, render

    report = load_report(folder)
    if as_json:
        _print_json({"build": str(folder), **report})
    elif not quiet:
        _print(render(report))
        print(f"build folder: {_clean(str(folder))}")


@app.command(
    short_help="Simulate the C++, compare with golden.",
    no_args_is_help=True,
    epilog="\b\nExamples:\n"
    "  attnc csim build/\n"
    "  attnc csim build/ --inputs heldout.npz --json\n"
    "  attnc csim build/ --types ap\n\n"
    "\b\nExit code: 0 when every element is equal, 1 when not, 2 after an error.",
)
def csim(
    build: Build,
    inputs: Annotated[Path | None, typer.Option("--inputs", help="Inputs, .npz by input name; the build's own vectors by default.")] = None,
    types: Types = "native",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compile the emitted C++ with g++, run it, and compare it with golden bit for bit."""
    arrays = None if inputs is None else _inputs(build, inputs)
    with Progress() as progress:
        from attnc.verify.csim import compare_build

        result = compare_build(build, arrays, types, progress)
    if as_json:
        _print_json(result.to_json())
    else:
        _print(_comparison(result))
    if not result.bit_exact:
        raise typer.Exit(EXIT_DIFFERENT)


def _comparison(result: CsimResult) -> RenderableType:
    table = Table(show_header=False, title="C++ against golden", title_justify="left")
    table.add_row("samples", f"{result.samples:,}")
    table.add_row("elements compared", f"{result.elements:,}")
    table.add_row("mismatches", f"{result.mismatches:,}")
    table.add_row("types", result.types)
    table.add_row("simulation", f"{result.seconds:.2f} s")
    first = result.first_mismatch
    if first:
        where = f"output {_clean(first['output'])!r}, sample {first['sample']}, row {first['index'][0]}, channel {first['index'][1]}"
        table.add_row("first mismatch", escape(f"{where}: expected {first['expected']}, found {first['found']}"))
    if _State.verbose:
        for name, depth in sorted(result.depths.items()):
            table.add_row(f"depth of {escape(name)}", f"{depth:,}")
    table.add_row("result", "equal, bit for bit" if result.bit_exact else "DIFFERENT")
    return table


@app.command(
    short_help="Run a build on inputs.",
    no_args_is_help=True,
    epilog="\b\nExamples:\n"
    "  attnc run build/ --inputs x.npz --output y.npz\n"
    "  attnc run build/ --inputs x.npz --output y.npz --backend golden",
)
def run(
    build: Build,
    inputs: Annotated[Path, typer.Option("--inputs", help="Inputs, .npz by the model's input names.")],
    output: Annotated[Path, typer.Option("--output", help="Receives the outputs, .npz by the model's output names.")],
    backend: Annotated[Literal["csim", "golden"], typer.Option("--backend", help="What runs the program.")] = "csim",
    types: Types = "native",
    verify: Annotated[bool, typer.Option("--verify", help="Check the checksums of the build folder first.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run a build on inputs, float in and float out, through the same runtime as a board."""
    from attnc.npz import check_writable, save_npz
    from attnc.verify import golden_backend  # registers "golden"

    assert golden_backend
    check_writable(output)
    arrays = _inputs(build, inputs)
    with Progress() as progress, Accelerator.open(build, backend, types, verify, progress=progress) as accelerator:
        outputs = accelerator.run(arrays)
    save_npz(output, outputs)
    if as_json:
        shapes = {name: {"shape": list(array.shape), "dtype": array.dtype.name} for name, array in outputs.items()}
        _print_json({"output": str(output), "backend": backend, "outputs": shapes})
    else:
        found = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
        print(f"{_clean(str(output))}: {_clean(found)}")


@app.command(
    "eval",
    short_help="Measure accuracy and mismatches on data.",
    no_args_is_help=True,
    epilog="\b\nExamples:\n"
    "  attnc eval build/ --inputs heldout.npz --model vit.onnx\n"
    "  attnc eval build/ --inputs test.npz --labels y --json\n\n"
    "\b\nExit code: 0 when the C++ equals golden, 1 when not, 2 after an error.",
)
def eval_command(
    build: Build,
    inputs: Annotated[Path, typer.Option("--inputs", help="Samples, .npz by input name, with their labels.")],
    labels: Annotated[str | None, typer.Option("--labels", help="Name of the labels in the .npz.", show_default="label")] = None,
    model: Annotated[Path | None, typer.Option("--model", help="The original model, for the accuracy in float.")] = None,
    types: Types = "native",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure a build on data: accuracy of float, golden and C++, and every mismatch. Updates its report."""
    manifest = manifests.load(build)
    arrays, truth = _labelled(build, inputs, labels)
    original = _original(manifest, model, inputs)
    with Progress(delay=0) as progress:
        progress.stage("starting")
        from attnc import report

        facts = report.evaluate(build, arrays, truth, original, progress.stage, types)
    if as_json:
        _print_json(facts)
    else:
        _print(report.render(facts))
    if facts["evaluation"]["mismatches"]:
        raise typer.Exit(EXIT_DIFFERENT)


def _labelled(build: Path, path: Path, name: str | None) -> tuple[dict[str, Any], Any]:
    """Inputs and labels from one archive; without labels there, none, unless they were asked for by name."""
    from attnc.npz import load_npz

    arrays = load_npz(path)
    wanted = name or "label"
    if name is not None and name not in arrays:
        raise DataError(f"{path}: needed the labels {name!r}, found {', '.join(map(repr, arrays))}")
    is_input = wanted in {port.name for port in manifests.load(build).inputs}
    truth = arrays.get(wanted) if name is not None or not is_input else None
    return _only_inputs(build, path, arrays, silent=(wanted,)), truth


def _original(manifest: manifests.Manifest, model: Path | None, inputs: Path) -> Path | None:
    """The model that was compiled: the one given, which must be it, or one of its name nearby that is it."""
    source = manifest.data.get("model", {})
    if not isinstance(source, dict) or not isinstance(source.get("file"), str):
        return model
    if model is not None:
        if not model.is_file():
            raise DataError(f"--model {model}: no such file")
        if _sha256(model) != source.get("sha256"):
            raise DataError(
                f"--model {model}: is not the model that {manifest.folder} was compiled from ({source['file']}); compile it again"
            )
        return model
    for folder in (Path(), manifest.folder, manifest.folder.parent, inputs.parent):
        path = folder / Path(source["file"]).name
        if path.is_file() and _sha256(path) == source.get("sha256"):
            return path
    _note(f"the model {source['file']} was not found: no accuracy in float; give it with --model")
    return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


@app.command(
    short_help="Device, host or unsupported, per node.",
    no_args_is_help=True,
    epilog="\b\nExamples:\n"
    "  attnc inspect model.onnx\n"
    "  attnc inspect bert.onnx --shape input_ids=1,128 --json\n\n"
    "\b\nExit code: 0 when the model can be compiled, 1 when something is unsupported, 2 after an error.",
)
def inspect(model: ModelFile, shape: Shapes = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Say what would run on the device, what on the host, and what is unsupported and why."""
    shapes = _shapes(shape)
    with Progress() as progress:
        progress.stage("reading the model")
        from attnc.frontend import inspect_model

        placements = list(inspect_model(model, shapes))
    counts = {where: sum(p.where == where for p in placements) for where in ("device", "host", "folded", "unsupported")}
    if as_json:
        nodes = [{"node": p.node, "operator": p.operator, "where": p.where, "reason": p.reason} for p in placements]
        _print_json({"model": str(model), "compilable": not counts["unsupported"], "counts": counts, "nodes": nodes})
    else:
        _print(_placements(placements))
        print(", ".join(f"{where} {count}" for where, count in counts.items()))
        print("can be compiled" if not counts["unsupported"] else "cannot be compiled as it is")
    if counts["unsupported"]:
        raise typer.Exit(EXIT_DIFFERENT)


def _placements(placements: Sequence[Placement]) -> RenderableType:
    """Nodes on the host and unsupported ones one by one; others counted by operator, unless all are asked for."""
    table = Table()
    for title in ("where", "operator", "node", "reason"):
        table.add_column(title, overflow="fold")
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for p in placements:
        alone = _State.verbose or p.where in ("host", "unsupported")
        grouped.setdefault((p.where, p.operator, p.reason if not alone else f"{p.reason}\0{p.node}"), []).append(p.node)
    order = {"unsupported": 0, "host": 1, "device": 2, "folded": 3}
    for (where, operator, reason), nodes in sorted(grouped.items(), key=lambda item: order.get(item[0][0], 4)):
        name = nodes[0] if len(nodes) == 1 else f"{len(nodes)} nodes"
        table.add_row(where, *(escape(_clean(text)) for text in (operator, name, reason.split("\0")[0])))
    return table


@app.command(epilog="\b\nExamples:\n  attnc targets\n  attnc targets --json")
def targets(as_json: Json = False, verbose: Verbose = False) -> None:
    """List the boards and their limits. `attnc compile --target` also takes a YAML or TOML file with the same fields."""
    from attnc.schedule.devices import BOARDS

    if as_json:
        _print_json([board.model_dump() for board in BOARDS.values()])
        return
    table = Table(caption="BRAM in blocks of 36 Kbit, URAM of 288 Kbit", caption_justify="left")
    for title in ("target", "part"):
        table.add_column(title, no_wrap=True)
    for title in ("LUT", "FF", "DSP", "BRAM", "URAM", "DDR GB/s", "MHz"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    for b in BOARDS.values():
        numbers = (b.lut, b.ff, b.dsp, b.bram36, b.uram)
        table.add_row(b.name, b.part, *(f"{n:,}" for n in numbers), f"{b.ddr_gb_s:g}", f"{b.clock_mhz:g}", escape(b.note))
    _print(table)


def _options(**fields: Any) -> CompileOptions:
    from pydantic import ValidationError

    try:
        return CompileOptions(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        option = {"clock_mhz": "clock", "shapes": "shape"}.get(str(first["loc"][0]), str(first["loc"][0]))
        raise ConfigError(f"--{option}: {first['msg']}, found {first.get('input')!r}") from error


def _shapes(given: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """NAME=1,128 to {NAME: (1, 128)}."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in given or ():
        name, equals, numbers = text.rpartition("=")
        try:
            dims = tuple(int(number) for number in numbers.split(","))
        except ValueError:
            dims = ()
        if not name or not equals or not dims or min(dims) < 1:
            raise ConfigError(f"--shape: needed NAME=1,128 with positive whole numbers, found {text!r}")
        if name in shapes:
            raise ConfigError(f"--shape: the shape of {name!r} is given twice")
        shapes[name] = dims
    return shapes


def _inputs(build: Path, path: Path) -> dict[str, Any]:
    """The arrays of an archive that the model takes."""
    from attnc.npz import load_npz

    return _only_inputs(build, path, load_npz(path))


def _only_inputs(build: Path, path: Path, arrays: Mapping[str, Any], silent: Sequence[str] = ()) -> dict[str, Any]:
    """Leave out what is no input, such as labels, and say so; an input that is missing is an error."""
    names = [port.name for port in manifests.load(build).inputs]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise DataError(f"{path}: input {', '.join(map(repr, missing))} is missing, the file has {', '.join(map(repr, arrays))}")
    extra = [name for name in arrays if name not in names and name not in silent]
    if extra:
        _note(f"{path}: {', '.join(map(repr, extra))} is left out, as the model has no such input")
    return {name: arrays[name] for name in names}


def _clean(text: str) -> str:
    """Without control characters: names come from files, and a terminal obeys what is printed."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _note(text: str) -> None:
    print(f"attnc: note: {_clean(text)}", file=sys.stderr)


def _print(content: RenderableType) -> None:
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False).print(content)


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2))


def _fail(label: str, text: str, code: int) -> int:
    """One message on stderr."""
    sys.stdout.flush()
    if _State.verbose:
        traceback.print_exc()
    print(f"attnc: {label}: {_clean(text)}", file=sys.stderr)
    return code


def _invoke(args: Sequence[str]) -> int:
    """Run a command line; the exit code."""
    try:
        typer.main.get_command(app).main(args=list(args), prog_name="attnc")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0 if done.code is None else EXIT_ERROR
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point: run the command line `argv` (of the process by default) and return the exit code."""
    _State.verbose = False
    try:
        code = _invoke(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        if code == EXIT_INTERRUPTED:
            print("attnc: interrupted", file=sys.stderr)
        return code
    except BrokenPipeError:
        # Nobody reads on: point stdout elsewhere, so that closing it does not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DIFFERENT
    except KeyboardInterrupt:
        print("attnc: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (AttncError, AcceleratorError) as error:
        return _fail("error", str(error), EXIT_ERROR)
    except MemoryError:
        return _fail("error", "out of memory", EXIT_ERROR)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail("error", f"{where}{error.strerror or error}", EXIT_ERROR)
    except Exception as error:
        hint = "" if _State.verbose else " (-v for the traceback)"
        return _fail("internal error", f"{type(error).__name__}: {error}{hint}", EXIT_INTERNAL)


if __name__ == "__main__":
    sys.exit(main())
