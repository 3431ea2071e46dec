"""Language models on boards, decoding and reading a prompt, by simulated cycles, beside what was published and what else one could take.

    python bench/llm.py                              # rewrites docs/llm.md, bench/results/llm.json
    python bench/llm.py --rows bitnet_073b:int8:kv260 --json    # these rows of them
    python bench/llm.py --rows bitnet_073b:int8:kv260 --whole   # compiled with all of its layers, too

Every layer of a decoder runs the same instructions on other weights, so its cycles are those of any other. Each row compiles the model
with two layers at full width, and its whole head, for its board; the emitted C++ runs in time, and must equal golden. Then with one layer
and the same design: what two take more is a layer. (The last layer makes only keys and values of a prompt, so the design is searched with
two.) A model of n layers takes that n - 1 times, and the single one: simulated are a block of 64 tokens at position 0, and a token at 64,
at 256 and at 511. Weights are random (`models/decoder_shapes.py`), caches have 8 bits.

With `--whole` a model is compiled with all of its layers as well, by `attnc compile`, and simulated, by `attnc cosim`: what that takes in
seconds and memory, and its cycles beside those that follow from one layer.

Figures of others are measurements by them. Some minutes and a few GiB for each row.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.boards import number, table
from bench.common import ROOT, last, machine, store
from models.decoder_shapes import SHAPES, export

from attnc.codegen.folder import SIMULATION
from attnc.compiler import compile_model
from attnc.config import CompileOptions
from attnc.console import EXIT_DIFFERENT
from attnc.errors import AttncError
from attnc.files import read_json
from attnc.process import COLLECT_AFTER
from attnc.report import load_report
from attnc.schedule.cost import DDR_EFFICIENCY
from attnc.schedule.devices import BOARDS
from attnc.verify.cosim import STYLES
from attnc_host.caches import PREFILL
from attnc_host.progress import Progress

PAGE = ROOT / "docs" / "llm.md"
LENGTH, BLOCK, PROMPT = 512, 64, 128
MIDDLE, LAST = LENGTH // 2, LENGTH - 1
WHERE = (("prefill", 0), ("decode", BLOCK), ("decode", MIDDLE), ("decode", LAST))
"""What is simulated: entry and position."""
SPENT = ("products", "head", "attention", "rest")
"""What a token's cycles go to: the products of layers, the last one, attention, and all else."""
KINDS = ("lut", "ff", "dsp", "bram36", "uram")


@dataclass(frozen=True)
class Row:
    """A model, the format of its head, and a board."""

    shape: str
    head: str
    board: str

    @staticmethod
    def parse(text: str) -> Row:
        """From `shape:head:board`."""
        shape, head, board = text.split(":")
        return Row(shape, head, board)

    @property
    def name(self) -> str:
        """As a file name, too."""
        return f"{self.shape}_{self.head}_{self.board}"


ROWS = (
    Row("bitnet_073b", "int8", "kv260"),
    Row("bitnet_073b", "ternary", "kv260"),
    Row("bitnet_073b", "int8", "zcu104"),
    Row("bitnet_073b", "int8", "ultra96"),
    Row("bitnet_2b4t", "int8", "kv260"),
    Row("bitnet_2b4t", "ternary", "kv260"),
    Row("qwen3_06b", "int8", "kv260"),
)


@dataclass(frozen=True)
class Published:
    """What others measured: tokens per second."""

    design: str
    model: str
    device: str
    source: str
    decode: str = "-"
    prefill: str = "-"
    first_s: str = "-"
    watts: str = "-"


PUBLISHED = (
    Published("TeLLMe v2", "BitNet 0.73B", "KV260", "arXiv 2510.15926", "25", "143", "0.96 (128 tokens)", "4.8"),
    Published("PD-Swap", "BitNet 0.73B", "KV260", "as TeLLMe's group cites it", "27.8", "148"),
    Published("bitnet.cpp", "BitNet-b1.58-2B-4T", "Raspberry Pi 5", "its repository", "4.6", watts="10 to 12"),
    Published("T-MAC", "BitNet-3B", "Raspberry Pi 5", "its repository, 2 threads", "11.1"),
    Published("vendor's runtime", "Qwen3-0.6B, W8A8", "RK3588", "vendor's model zoo", "15.6"),
    Published("vendor's runtime", "Qwen2-1.5B", "Hailo-10H", "vendor's model zoo", "6 to 9.5"),
)


def compiled(row: Row, layers: int, folder: Path, schedule: Path | None) -> Path:
    """A build of a model with so many layers."""
    model = folder / f"{row.name}_{layers}.onnx"
    calib, config = export(row.shape, model, layers, row.head)
    options = CompileOptions(
        target=row.board,
        calib=calib,
        config=config,
        max_length=LENGTH,
        block=BLOCK,
        schedule=schedule,
        output=folder / f"{row.name}_{layers}",
    )
    try:
        return compile_model(model, options)
    finally:
        model.unlink()


def compiled_whole(row: Row, folder: Path) -> dict[str, Any]:
    """What it takes to compile the whole model, in a process of its own, and to simulate it; `cycles` of the runs of its test bench."""
    model, build = folder / "whole.onnx", folder / "whole"
    calib, config = export(row.shape, model, SHAPES[row.shape].layers, row.head)
    options = ["--target", row.board, "--calib", str(calib), "--config", str(config), "--max-length", str(LENGTH), "--block", str(BLOCK)]
    seconds, peak, _ = ended("compile", str(model), *options, "--no-check", "--output", str(build))
    simulating, _, text = ended("cosim", str(build), "--json")
    found, report = json.loads(text)["styles"], load_report(build)
    entries = report["decoder"]["simulated_at"]
    return {
        "seconds": seconds,
        "peak_gib": peak,
        "simulation_seconds": simulating,
        "fits": report["estimate"]["fits"],
        "bit_exact": all(run["bit_exact"] for run in found.values()),
        "cycles": {f"{entry}_{at}": max(run["entries"][entry]["cycles"] for run in found.values()) for entry, at in entries.items()},
    }


def ended(*command: str) -> tuple[float, float, str]:
    """Seconds and GiB that a command of attnc takes, and what it prints."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "attnc", *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, EXIT_DIFFERENT):
        raise AttncError(f"attnc {' '.join(command)}: ended with {process.returncode}")
    return round(time.perf_counter() - begun, 1), round(used.ru_maxrss / (1 << 20), 2), text


def same_design(build: Path) -> Path:
    """A schedule with the design of a build alone: another number of layers may have other streams."""
    facts = yaml.safe_load((build / "schedule.yaml").read_text())
    path = build / "design.yaml"
    path.write_text(yaml.safe_dump({key: facts[key] for key in ("schema", "target", "clock_mhz", "utilisation", "design")}))
    return path


def cycles_of(report: dict[str, Any]) -> dict[str, dict[tuple[str, int], int]]:
    """Simulated cycles by style of pipelines, entry and position."""
    found: dict[str, dict[tuple[str, int], int]] = {}
    at = report["decoder"]["simulated_at"]
    for style in STYLES:
        entries = report["simulation"][style]["entries"]
        found[style] = {(entry, at[entry]): facts["cycles"] for entry, facts in entries.items()}
        found[style] |= {(one["entry"], one["position"]): one["cycles"] for one in report["decoder"]["simulated"][style]}
    return found


def spent(build: Path, style: str) -> dict[str, dict[str, Any]]:
    """What the first token of a build is decoded in, by kind of stage: simulated cycles, bytes of the memory, and the cycles by what the
    estimate says binds them (a memory port, or a process of a kernel)."""
    report, run = load_report(build), read_json(build / SIMULATION)["styles"][style]
    estimated = {stage["node"]: stage for stage in report["estimate"]["stages"]}
    head, found = report["decoder"]["head"]["node"], {name: {"cycles": 0, "bytes": 0, "bound": Counter[str]()} for name in SPENT}
    for stage in run["stages"]:
        if not stage["node"].startswith(f"{PREFILL}."):
            facts = estimated[stage["node"]]
            kind = "head" if stage["node"] == head else {"linear": "products", "attention": "attention"}.get(facts["op"], "rest")
            bound = "memory" if facts["bound"].split()[0] in ("port", "ddr", *report["board"]["ports"]) else facts["bound"]
            found[kind]["cycles"] += stage["cycles"]
            found[kind]["bytes"] += facts["ddr_bytes"]
            found[kind]["bound"][bound] += stage["cycles"]
    return found


def spent_of(row: Row, one: Path, two: Path, style: str) -> dict[str, dict[str, Any]]:
    """The same of all layers, with the share of the memory's rate (DDR_EFFICIENCY of its peak)."""
    more, single, double = SHAPES[row.shape].layers - 1, spent(one, style), spent(two, style)
    rate = BOARDS[row.board].ddr_gb_s * 1e3 * DDR_EFFICIENCY / load_report(one)["target"]["clock_mhz"]
    found = {}
    for kind in SPENT:
        cycles, bytes_ = (single[kind][key] + more * (double[kind][key] - single[kind][key]) for key in ("cycles", "bytes"))
        bound = double[kind]["bound"].most_common(1)
        share = round(100 * bound[0][1] / double[kind]["cycles"]) if bound else 0
        memory = round(100 * bytes_ / (cycles * rate)) if cycles else 0
        found[kind] = {"cycles": cycles, "memory_percent": memory, "bound": bound[0][0] if bound else "-", "bound_percent": share}
    return found


def measured(row: Row, folder: Path, progress: Progress) -> dict[str, Any]:
    """Of one row: cycles of the whole, what the board could at best, resources."""
    progress.stage(f"{row.name}: two layers")
    whole = compiled(row, 2, folder, None)
    progress.stage(f"{row.name}: one layer")
    alone = compiled(row, 1, folder, same_design(whole))
    one, two = load_report(alone), load_report(whole)
    layers, clock = SHAPES[row.shape].layers, one["target"]["clock_mhz"]
    single, double = cycles_of(one), cycles_of(two)
    cycles = {
        f"{entry}_{position}": max(
            single[style][entry, position] + (layers - 1) * (double[style][entry, position] - single[style][entry, position])
            for style in STYLES
        )
        for entry, position in WHERE
    }
    head = two["decoder"]["head"]
    host_ms = head["host_ms"] if head["where"] == "host" else 0.0
    first_token = math.ceil((PROMPT - 1) / BLOCK) * cycles["prefill_0"] + cycles[f"decode_{MIDDLE}"]
    seconds = {at: cycles[f"decode_{at}"] / clock / 1e6 + host_ms / 1e3 for at in (BLOCK, MIDDLE, LAST)}
    read = one["estimate"]["weight_bytes"] + (layers - 1) * (two["estimate"]["weight_bytes"] - one["estimate"]["weight_bytes"])
    return {
        **asdict(row),
        "layers": layers,
        "clock_mhz": clock,
        "design": two["design"],
        "bit_exact": all(report["simulation"][style]["bit_exact"] for report in (one, two) for style in STYLES),
        "cycles": cycles,
        "head_on": head["where"],
        "host_ms": host_ms,
        "decode_per_second": {str(at): round(1 / each, 2) for at, each in seconds.items()},
        "prefill_per_second": round(1e6 * clock * BLOCK / cycles["prefill_0"], 1),
        "first_token_s": round(first_token / clock / 1e6 + host_ms / 1e3, 4),
        "weight_bytes": read,
        "weights_roof_per_second": round(1 / (read / (BOARDS[row.board].ddr_gb_s * 1e9 * DDR_EFFICIENCY) + host_ms / 1e3), 2),
        "spent": spent_of(row, alone, whole, max(STYLES, key=lambda style: double[style]["decode", BLOCK])),
        "resources": {kind: two["estimate"]["resources"][kind] for kind in KINDS},
    }


def _head(row: dict[str, Any]) -> str:
    """Format of the head, and the host's time where it is there (an estimate)."""
    on_host = f", on the host in {row['host_ms']:.3g} ms (estimated)" if row.get("head_on") == "host" else ""
    return f"{row['head']}{on_host}"


def _spent(found: dict[str, Any], token: int) -> str:
    """Of a kind of stages: its share of a token's cycles, at which share of the memory's rate, and what binds most of it."""
    if not found["cycles"]:
        return "-"
    bound = f"{found['bound']} {found['bound_percent']}%"
    return f"{100 * found['cycles'] / token:.0f}% ({found['memory_percent']}% of the DDR's rate; {bound})"


def page(rows: list[dict[str, Any]]) -> str:
    """docs/llm.md."""
    header = [
        "design",
        "model",
        "head",
        "device",
        "tokens/s at 64",
        "at 512",
        "weights alone would allow",
        "prefill tokens/s",
        "first of 128, s",
        "what it is",
    ]
    ours = []
    for row in rows:
        decode = row["decode_per_second"]
        speed = [number(decode[str(BLOCK)], 1), number(decode[str(LAST)], 1), number(row["weights_roof_per_second"], 1)]
        rest = [number(row["prefill_per_second"]), number(row["first_token_s"], 3), "simulated"]
        ours.append(["attnc", SHAPES[row["shape"]].title, _head(row), row["board"].upper(), *speed, *rest])
    theirs = [[p.design, p.model, "-", p.device, p.decode, "-", "-", p.prefill, p.first_s, f"measured, {p.source}"] for p in PUBLISHED]
    detail = [
        [
            f"{SHAPES[row['shape']].title}, {row['head']} head, {row['board'].upper()}",
            " / ".join(f"{row['cycles'][f'{entry}_{at}']:,}" for entry, at in WHERE),
            " / ".join(f"{100 * row['resources'][kind]['used'] / max(1, row['resources'][kind]['available']):.0f}" for kind in KINDS),
            f"{row['weight_bytes'] / 1e6:.1f}",
            "equal" if row["bit_exact"] else "DIFFERENT",
        ]
        for row in rows
    ]
    binds = [
        [
            f"{SHAPES[row['shape']].title}, {row['head']} head, {row['board'].upper()}",
            *(_spent(row["spent"][kind], row["cycles"][f"decode_{BLOCK}"]) for kind in SPENT),
        ]
        for row in rows
        if "spent" in row
    ]
    whole = [
        [
            f"{SHAPES[row['shape']].title}, {row['head']} head, {row['board'].upper()}",
            str(row["layers"]),
            number(row["whole"]["seconds"]),
            number(row["whole"]["peak_gib"], 1),
            "yes" if row["whole"]["fits"] else "NO",
            number(row["whole"]["simulation_seconds"]),
            " / ".join(f"{cycles:,}" for cycles in row["whole"]["cycles"].values()),
            " / ".join(f"{cycles / row['cycles'][run]:.4f}" for run, cycles in row["whole"]["cycles"].items()),
            "equal" if row["whole"]["bit_exact"] else "DIFFERENT",
        ]
        for row in rows
        if "whole" in row
    ]
    third = ["row", "layers", "compiled in s", "GiB at most", "fits", "simulated in s", "cycles of a block / a token", "over those above"]
    third += ["C++ and golden"]
    second = ["row", "cycles: block at 0 / token at 64 / 256 / 511", "LUT / FF / DSP / BRAM / URAM, %", "weights, MB", "C++ and golden"]
    return f"""# Language models on boards

Written by `python bench/llm.py` (or `make bench-llm`); not edited by hand.

attnc's rows are **simulated** (`attnc cosim`, the style of pipelines that takes longer, default latency of the memory), for models with
random weights in their published formats: a layer at full width and the whole head are simulated to the bit, and a layer's cycles count as
often as the model has layers. Resources are **estimates**. The column beside the speeds is how many tokens per second the DDR
({DDR_EFFICIENCY:.0%} of its rate) could bring the weights for, and nothing else. Rows of others are **measurements** by them.

{table(header, ours + theirs)}

{table(second, detail)}

Where the cycles of a token at {BLOCK} go, simulated: to the products of the layers, the head, attention, and all else; in brackets how much
of the rate that the DDR can give passes meanwhile, and what binds most of those cycles, as the estimates name it: the memory, or a process
of a kernel.

{table(["row", "products of layers", "head", "attention", "all else"], binds)}

Models with all of their layers, compiled by `attnc compile --no-check` and simulated by `attnc cosim`: seconds and most memory on a machine
of two cores (weights mapped from their file count), cycles, and these over those above, which follow from single layers.

{table(third, whole) if whole else "None so far (`--whole`)."}
"""


def main() -> int:
    """Compile, simulate, print, store, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", metavar="SHAPE:HEAD:BOARD", help="only these; others stay as they are")
    parser.add_argument("--whole", action="store_true", help="compile these with all of their layers, too")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the page")
    args = parser.parse_args()
    gc.set_threshold(COLLECT_AFTER)
    chosen, facts = [Row.parse(text) for text in args.rows] if args.rows else list(ROWS), machine()
    kept = {Row(one["shape"], one["head"], one["board"]): one for one in last("llm").get("rows", [])} if args.rows else {}
    try:
        with tempfile.TemporaryDirectory(prefix="attnc-bench-") as temporary, Progress(delay=0.0) as progress:
            rows = []
            for row in chosen:
                rows.append(measured(row, Path(temporary), progress))
                if args.whole:
                    progress.stage(f"{row.name}: all layers")
                    rows[-1]["whole"] = compiled_whole(row, Path(temporary))
    except AttncError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    facts["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    kept |= dict(zip(chosen, rows, strict=True))
    known = [kept[row] for row in dict.fromkeys((*ROWS, *chosen)) if row in kept]
    store("llm", facts, {"rows": known})
    PAGE.write_text(page(known))
    if args.json:
        print(json.dumps({"machine": facts, "rows": rows, "published": [asdict(p) for p in PUBLISHED]}, indent=1))
    else:
        print(page(rows))
    return 0 if all(row["bit_exact"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
