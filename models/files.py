"""Files as users have them: small random models as exporters, optimizers and quantizers write them, compiled and measured.

    python -m models.files                              every model in every kind of file
    python -m models.files --model bert --kind ort      those whose names begin so
    python -m models.files --quick --json               without the simulation of the emitted C++

A row is a file: whether it compiles with C++ equal to golden, and its SQNR against onnxruntime running that very file, on samples that
calibration never saw, beside what another kind of the same model reaches (`Kind.beside`, the plain export unless a kind says otherwise).
Where the file says how every tensor is rounded, golden must be as near to the float model that it was made of as onnxruntime running the
file.
Each runs in a process of its own with a time limit. Exit code 1 if a file does not compile, or
more than one in twenty fall more than `SLACK_DB` behind.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from models import files_decoder, files_fused, files_quantized, files_shipped, processes, zoo
from models.file_kinds import MODELS, PLAIN, Skipped, Source

SLACK_DB = 1.0
ENOUGH = 0.95
"""Share of the files that shall reach what they are compared with, less that: in few bits one may be a coarser function."""
GROUPS = {
    "exports": ("plain", "torchscript", "dynamo-"), "optimized by onnxruntime": ("ort-", "fused"), "decoder with a past": ("genai",),
    "weights in blocks": ("nbits", "blocked"), "dynamic int8": ("dynamic-",), "QOperator": ("qoperator",), "QDQ": ("qdq",),
    "files of packages": ("shipped", "minilm"),
}  # fmt: skip
"""What kinds are counted together, by how their names begin."""
KINDS = {kind.name: kind for kind in (PLAIN, *files_fused.KINDS, *files_decoder.KINDS, *files_quantized.KINDS, *files_shipped.KINDS)}


def measure(model: str, name: str, folder: Path, quick: bool) -> dict[str, Any]:
    """Make a file, compile it, measure: one row of the table."""
    from attnc.compiler import compile_model
    from attnc.config import CompileOptions
    from attnc.report import load_report

    kind, source, path = KINDS[name], Source(model, folder), folder / f"{model}-{name}" / "model.onnx"
    path.parent.mkdir(exist_ok=True)
    if model in MODELS:
        source.write_samples(path)
    try:
        kind.make(source, path)
    except Skipped as skipped:
        return {"skipped": str(skipped)}
    build = path.parent / "build"
    fixed = {"output": build, "target": zoo.TARGET, "calib": path.with_suffix(".npz"), "force": True, "check": not quick}
    compile_model(path, CompileOptions(**{**fixed, **kind.options}))
    report = load_report(build)
    sqnr, varying = zoo.accuracy(path, build)
    row = {"sqnr_db": sqnr, "varying": varying, "elements": report["check"]["elements"] if not quick else 0}
    if kind.floating:
        float_model = kind.floating(source)
        row |= {"float_db": zoo.accuracy(path, build, float_model)[0], "file_db": zoo.accuracy(path, build, float_model, False)[0]}
    return row


def run_one(model: str, kind: str, folder: Path, quick: bool) -> dict[str, Any]:
    """A file in a process of its own."""
    row = {"model": model, "kind": kind} | processes.run(measure, model, kind, folder, quick)
    outcome = row.get("error") or row.get("skipped") or f"{row['sqnr_db']} dB"
    print(f"{model} {kind} ({row['seconds']} s, {row.get('cpu_seconds', 0)} of processors): {outcome}", file=sys.stderr, flush=True)
    return row


def judge(rows: list[dict[str, Any]]) -> None:
    """Say in each row what it is compared with, and whether it is a success."""
    reached = {(row["model"], row["kind"]): row.get("sqnr_db") for row in rows}
    for row in rows:
        kind = KINDS[row["kind"]]
        row["beside"], row["beside_db"] = kind.beside, reached.get((row["model"], kind.beside))
        if "skipped" in row:
            continue
        shown = row.get("sqnr_db")
        if "file_db" in row:
            row["beside"], row["beside_db"], shown = "file to float", row["file_db"], row["float_db"]
            row["remark"] = f"to float {shown:.1f} dB"
        behind = shown is not None and row["beside_db"] is not None and shown < row["beside_db"] - SLACK_DB
        row["ok"] = not zoo.failed(row) and not behind


def counts(rows: list[dict[str, Any]]) -> Any:
    """For each group its files, how many compile and are exact, how many are successes, and the least that one has above what it is
    compared with."""
    from rich.table import Table

    table = Table()
    for title in ("files", "number", "compile, exact", "reach what they should", "least above, dB"):
        table.add_column(title, justify="left" if title == "files" else "right")
    for name, beginnings in GROUPS.items():
        judged = [row for row in rows if row["kind"].startswith(beginnings) and "ok" in row]
        above = [
            row.get("float_db", row["sqnr_db"]) - row["beside_db"] for row in judged if "sqnr_db" in row and row["beside_db"] is not None
        ]
        if judged:
            done = (sum("error" not in row for row in judged), sum(row["ok"] for row in judged))
            table.add_row(name, str(len(judged)), *map(str, done), f"{min(above):+.1f}" if above else "")
    return table


def show(rows: list[dict[str, Any]]) -> None:
    """The tables: every file, and how many of each group are successes."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Files as users have them: C++ against golden, golden against onnxruntime")
    for title in ("model", "kind", "elements", "SQNR dB", "beside", "remark"):
        table.add_column(title, justify="left" if title in ("model", "kind", "remark") else "right", overflow="fold")
    for row in rows:
        if "skipped" in row:
            table.add_row(row["model"], row["kind"], "", "", "", f"skipped: {row['skipped']}")
            continue
        style = None if row["ok"] else "red"
        if "error" in row:
            table.add_row(row["model"], row["kind"], "", "", "", f"failed: {row['error']}", style=style)
            continue
        beside = "" if row["beside_db"] is None else f"{row['beside_db']:.1f} ({row['beside']})"
        table.add_row(row["model"], row["kind"], str(row["elements"]), f"{row['sqnr_db']:.1f}", beside, row.get("remark", ""), style=style)
    Console(width=None if sys.stdout.isatty() else 190).print(table)
    Console(width=None if sys.stdout.isatty() else 110).print(counts(rows))
    judged = [row["ok"] for row in rows if "ok" in row]
    print(f"{sum(judged)} of {len(judged)} files compile, agree bit for bit and reach what they are compared with less {SLACK_DB:g} dB")


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append", default=[], help="beginning of names; all by default")
    parser.add_argument("--kind", action="append", default=[], help="beginning of names; all by default")
    parser.add_argument("--quick", action="store_true", help="golden only: do not simulate the C++")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument("--folder", type=Path, help="keep the files and build folders here")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    kinds = [kind for name, kind in KINDS.items() if not args.kind or name.startswith(tuple(args.kind))]
    jobs = [(model, kind) for kind in kinds for model in kind.models if not args.model or model.startswith(tuple(args.model))]
    if not jobs:
        parser.error(f"nothing is called so; there are models {', '.join(MODELS)} and kinds {', '.join(KINDS)}")
    wanted = dict.fromkeys((model, name) for model, kind in jobs for name in (kind.beside, kind.name) if model in KINDS[name].models)
    with tempfile.TemporaryDirectory(prefix="attnc-files-") as temporary, ThreadPoolExecutor(args.workers) as pool:
        folder = (args.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with processes.making(Path(temporary) / "compiled"):
            made = list(pool.map(lambda job: run_one(*job, folder, args.quick), wanted))
    judge(made)
    if args.json:
        print(json.dumps(made, indent=1))
    else:
        show(made)
    judged = [row for row in made if "ok" in row]
    return int(any(map(zoo.failed, judged)) or sum(row["ok"] for row in judged) < ENOUGH * len(judged))


if __name__ == "__main__":
    sys.exit(main())
