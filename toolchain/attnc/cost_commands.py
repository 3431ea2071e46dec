"""The commands about cost: `attnc estimate` and `attnc sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from attnc import cost_tables
from attnc.config import CompileOptions, Objective
from attnc.console import Build, Json, ModelFile, Shapes, UtilisationOption, Verbose, note, parse_shapes, tell
from attnc.errors import ConfigError
from attnc_host.progress import Progress

Clock = Annotated[float | None, typer.Option("--clock", metavar="MHZ", min=1, max=1000, help="Clock; the board's by default.")]


def estimate(
    build: Build,
    target: Annotated[str | None, typer.Option("--target", help="Another board (see `attnc targets`), or a YAML or TOML file.")] = None,
    clock: Clock = None,
    utilisation: UtilisationOption = None,
    calibrate: Annotated[Path | None, typer.Option("--calibrate", metavar="CSYNTH_XML", help="Compare with a report of Vitis HLS.")] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Estimate cycles, resources and traffic of a build, stage by stage. With --calibrate, beside those of a synthesis run."""
    from attnc import estimation

    if calibrate is not None:
        if target or clock or utilisation:
            raise ConfigError("--calibrate: compares with the build as it is; leave out --target, --clock and --utilisation")
        facts = estimation.calibrate(build, calibrate)
        tell(facts, cost_tables.calibration(facts), as_json)
        return
    facts = estimation.estimate_build(build, target, clock, utilisation)
    tell(facts, cost_tables.estimate(facts), as_json)


def sweep(
    model: ModelFile,
    targets: Annotated[str, typer.Option("--targets", metavar="A,B,...", help="Boards, or YAML or TOML files with one each.")],
    clocks: Annotated[str | None, typer.Option("--clocks", metavar="MHZ,...", help="Clocks; each board's own by default.")] = None,
    objectives: Annotated[str, typer.Option("--objectives", metavar="A,B,...", help="Of latency, throughput, area, energy.")] = "latency",
    calib: Annotated[Path | None, typer.Option("--calib", help="Calibration inputs, .npz; cost hardly depends on them.")] = None,
    shape: Shapes = None,
    utilisation: UtilisationOption = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Choose a design for every board and setting and tabulate what it costs; boards that do not fit say why."""
    options = CompileOptions(calib=calib, shapes=parse_shapes(shape), utilisation=utilisation)
    wanted = _list("--objectives", objectives)
    for name in wanted:
        if name not in get_args(Objective):
            raise ConfigError(f"--objectives: needed some of {', '.join(get_args(Objective))}, found {name!r}")
    numbers = [_clock(text) for text in _list("--clocks", clocks)] if clocks is not None else []
    if calib is None:
        note("without --calib the inputs for calibration are made up; estimates of cost hardly change")
    from attnc.estimation import sweep as tabulate

    with Progress(delay=0) as progress:
        facts = tabulate(model, options, _list("--targets", targets), numbers, wanted, progress.stage)  # type: ignore[arg-type]
    tell(facts, cost_tables.sweep(facts), as_json)


def _list(option: str, text: str) -> list[str]:
    found = [part.strip() for part in text.split(",")]
    if not all(found):
        raise ConfigError(f"{option}: needed a list A,B,..., found {text!r}")
    return found


def _clock(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 1 <= number <= 1000:
        raise ConfigError(f"--clocks: needed numbers of MHz from 1 to 1000, found {text!r}")
    return number
