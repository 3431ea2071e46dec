"""Models of published sizes on boards: cycles, latency and resources, beside published accelerators.

    python bench/boards.py                          # rewrites docs/boards.md, bench/results/boards.json
    python bench/boards.py --models deit_tiny --json     # of these models alone; the rows of others stay

Exports each model (`models/shapes.py`: random weights, int8), compiles it for its boards, and runs the emitted C++ on one sample against
golden and in simulated time. Latency is simulated, of the style of pipelines that takes longer, beside the estimate; resources are
estimates of attnc's cost model: no synthesis run stands behind either. Published figures are measurements of other designs, some with
other precisions, clocks and workloads, as the table says. About ten minutes and 4 GiB.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.common import ROOT, last, machine, store
from models.shapes import SHAPES, export

from attnc.compiler import compile_model
from attnc.config import CompileOptions
from attnc.errors import AttncError
from attnc.report import load_report
from attnc.verify.cosim import STYLES
from attnc.verify.csim import compare_build
from attnc_host.progress import Progress

PAGE = ROOT / "docs" / "boards.md"
TARGETS: dict[str, tuple[tuple[str, float | None], ...]] = {
    "deit_tiny": (("zcu102", None), ("kv260", None)), "bert_base": (("zcu104", None),), "m3vit": (("zcu102", None), ("zcu102", 300)),
}  # fmt: skip
"""Boards of each model, with a clock in MHz other than theirs."""
COPIED = ("cycles", "latency_ms", "multiply_adds", "dsp_roof_percent", "power_watts", "ddr_bytes", "weight_bytes")
KINDS = ("lut", "ff", "dsp", "bram36", "uram")


@dataclass(frozen=True)
class Published:
    """A measurement by others; None where the source does not say."""

    design: str
    model: str
    board: str
    precision: str
    source: str
    mhz: float | None = None
    latency_ms: float | None = None
    per_second: float | None = None
    watts: float | None = None
    lut: int | None = None
    dsp: int | None = None
    bram36: float | None = None


M3VIT = "M3ViT-T (129 tokens, width 192, 12 layers, 16 experts, top 2)"
PUBLISHED = (
    Published("HeatViT", "DeiT-S, tokens pruned", "ZCU102", "int8", "arXiv 2211.08110", latency_ms=9.15),
    Published("HG-PIPE", "DeiT-tiny", "VCK190", "3 bits", "arXiv 2407.17879", 425, 1.94, 7118),
    Published("Edge-MoE", M3VIT, "ZCU102", "W16A32", "arXiv 2305.18691", 300, 34.64, watts=14.54),
    Published("UbiMoE", M3VIT, "ZCU102", "W16A32", "arXiv 2502.05602", 300, 25.76, watts=11.50, lut=123_400, dsp=1850, bram36=458),
    Published("CoQMoE", M3VIT, "ZCU102", "int8", "arXiv 2506.08496", 300, 6.47, watts=9.83, lut=156_100, dsp=1754, bram36=383),
)


def compile_for(name: str, model: Path, calib: Path, target: str, clock: float | None, folder: Path, progress: Progress) -> dict[str, Any]:
    """One row: what attnc estimates and simulates for a model on a board, and whether its C++ equals golden on one sample."""
    options = CompileOptions(target=target, clock_mhz=clock, calib=calib, output=folder / f"{name}_{target}_{clock or ''}")
    build = compile_model(model, options, lambda text: progress.stage(f"{name} on {target}: {text}"))
    report = load_report(build)
    found = report["estimate"]
    result = compare_build(build, SHAPES[name].inputs(1), "native", progress)
    return {
        "model": name,
        "board": target,
        "clock_mhz": report["target"]["clock_mhz"],
        "design": report["design"],
        **{key: found[key] for key in COPIED},
        "resources": {kind: found["resources"][kind] for kind in KINDS},
        "simulated": {style: report["simulation"][style] for style in STYLES},
        "lost": found["lost"][:3],
        "csim": {"elements": result.elements, "mismatches": result.mismatches},
    }


def measure(models: list[str]) -> list[dict[str, Any]]:
    """A row per model and board."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="attnc-bench-") as temporary, Progress(delay=0.0) as progress:
        folder = Path(temporary)
        for name in models:
            progress.stage(f"exporting {name}")
            model = folder / f"{name}.onnx"
            calib = export(name, model)
            rows += [compile_for(name, model, calib, target, clock, folder, progress) for target, clock in TARGETS[name]]
            model.with_name(model.name + ".data").unlink()
    return rows


def table(header: list[str], rows: list[list[str]]) -> str:
    """As Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float | None, digits: int = 0) -> str:
    """With separators; a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def comparison(rows: list[dict[str, Any]]) -> str:
    """The table of attnc's figures and published measurements."""
    header = ["design", "model", "board", "precision", "MHz", "ms", "per second", "W", "LUT", "FF", "DSP", "BRAM36", "URAM", "what it is"]
    ours = []
    for row in rows:
        used = [f"{row['resources'][kind]['used']:,}" for kind in KINDS]
        ms = max(style["latency_ms"] for style in row["simulated"].values())
        start = ["attnc", SHAPES[row["model"]].title, row["board"].upper(), "int8", f"{row['clock_mhz']:g}"]
        what = f"simulated ms (estimate {row['latency_ms']:.2f}), estimates"
        ours.append([*start, number(ms, 2), number(1000 / ms), number(row["power_watts"], 1), *used, what])
    theirs = []
    for p in PUBLISHED:
        speed = [number(p.mhz), number(p.latency_ms, 2), number(p.per_second), number(p.watts, 2)]
        used = [number(p.lut), "-", number(p.dsp), number(p.bram36), "-"]
        theirs.append([p.design, p.model, p.board, p.precision, *speed, *used, f"measurement, {p.source}"])
    return table(header, ours + theirs)


def page(rows: list[dict[str, Any]]) -> str:
    """docs/boards.md."""
    detail = [
        [
            SHAPES[row["model"]].title,
            row["board"].upper(),
            f"{row['cycles']:,}",
            " / ".join(f"{style['cycles']:,}" for style in row["simulated"].values()),
            f"{row['multiply_adds'] / 1e9:.2f} G",
            f"{row['dsp_roof_percent']:.1f} %",
            " / ".join(f"{100 * row['resources'][kind]['used'] / max(1, row['resources'][kind]['available']):.0f}" for kind in KINDS),
            "; ".join(f"{loss['op']}: {loss['cause']} ({loss['cycles_percent']:.0f} %)" for loss in row["lost"]),
            f"{row['csim']['elements']:,} elements, {row['csim']['mismatches']} mismatches",
        ]
        for row in rows
    ]
    header = ["model", "board", "cycles, estimate", "simulated, stp / flp", "multiply-adds", "DSP busy"]
    header += ["LUT / FF / DSP / BRAM / URAM", "lost", "C++ against golden"]
    return f"""# Models of published sizes on boards

Written by `python bench/boards.py` (or `make boards`); not edited by hand.

attnc's rows are for models with random weights (`models/shapes.py`), int8, default settings: latency is **simulated** (`attnc cosim`, the
style of pipelines that takes longer), resources are **estimates** of its cost model; no synthesis run stands behind either, and watts are
rougher still. Published rows are **measurements** by others, and no like for like: other
precisions, boards, clocks and, for M3ViT and the pruned DeiT-S, other workloads. HG-PIPE's latency is that of the first image of a
stream. A dash is a figure that we have not found. For BERT on a ZCU102 and a ZCU111 FQ-BERT's abstract (arXiv 2103.02800) gives 3.18
sequences per second and watt, and no latency.

{comparison(rows)}

What stands behind attnc's rows. DSP busy: multiply-adds over what the design's multipliers could do in all cycles. Shares of the board in
percent. Lost: the largest causes of idle multipliers, in percent of all cycles. C++: the emitted sources against golden on one sample.

{table(header, detail)}
"""


def main() -> int:
    """Compile, print, store, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", choices=list(TARGETS), default=list(TARGETS), help="only these; rows of others stay as they are"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the page")
    args = parser.parse_args()
    facts, before = machine(), last("boards")
    try:
        rows = measure(args.models)
    except AttncError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    facts["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    kept = [row for row in before.get("rows", []) if row["model"] not in args.models]
    rows = sorted([*kept, *rows], key=lambda row: list(TARGETS).index(row["model"]))
    store("boards", facts, {"rows": rows})
    PAGE.write_text(page(rows))
    if args.json:
        print(json.dumps({"machine": facts, "rows": rows, "published": [asdict(p) for p in PUBLISHED]}, indent=1))
        return 0
    print(page(rows))
    old = {(row["model"], row["board"], row["clock_mhz"]): row["cycles"] for row in before.get("rows", [])}
    for row in rows:
        then = old.get((row["model"], row["board"], row["clock_mhz"]))
        print(f"{row['model']} on {row['board']}: {row['cycles']:,} cycles, last time {number(then)}")
    return 1 if any(row["csim"]["mismatches"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
