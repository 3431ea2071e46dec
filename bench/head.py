"""The head of a decoder on the host: milliseconds of a token, by format of its weights.

    python bench/head.py
    python bench/head.py --rows 151936 --channels 1024 --json

The product of random weights, 32,002 x 1,536 unless told otherwise (BitNet 0.73B), with a row of bytes, as `attnc_host.head` computes it
on a board, here on this machine: the least of some repetitions, on one thread (time of the processor) and on as many as it takes (time of
the clock). `cycles` are those of one thread for a multiply-add at the clock of the machine (MHz in /proc/cpuinfo); `look_up` how many
multiply-adds of int8 a byte of several weights takes.
A run without options is stored in bench/results/head.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.boards import table
from bench.common import machine, store

import attnc_host.head as host
from attnc_host.head import Digits, Head, Layer

ROWS, CHANNELS, REPEATS = 32_002, 1_536, 15
CASES = (("int8", 0), ("int4", 0), ("int4", 32), ("ternary", 0))


def layer(rows: int, channels: int, format_: str, group: int) -> Layer:
    """Without a scale per token, which takes nothing to speak of."""
    ends = -(1 << 15), (1 << 15) - 1
    return Layer(Path("head.bin"), rows, channels, format_, group, group > 0, "x", None, ends, 0, 0, *ends, np.asarray(1.0), None)


def weights(found: Layer, rng: np.random.Generator) -> Head:
    """Random ones, and factors that make something of the sums."""
    head = Head(found, rng.integers(0, Digits.of(found.format).base ** Digits.of(found.format).count, found.bytes, np.uint8))
    head.parts["multiplier"][...], head.parts["shift"][...] = 1 << 16, 24
    return head


def milliseconds(head: Head, threads: int, clock: Callable[[], float]) -> float:
    """Of a token, at best."""
    x, best = np.random.default_rng(1).integers(-127, 128, (1, head.layer.channels)), float("inf")
    host.MAX_THREADS = threads
    for _ in range(REPEATS):
        begin = clock()
        head.integers(x, None)
        best = min(best, clock() - begin)
    return 1000 * best


def clock_mhz() -> float:
    """Of this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return max((float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")), default=0.0)


def measured(rows: int, channels: int) -> list[dict[str, Any]]:
    """A row for each format."""
    found, most = [], host.MAX_THREADS
    for format_, group in CASES:
        head = weights(layer(rows, channels, format_, group), np.random.default_rng(0))
        one, several = milliseconds(head, 1, time.thread_time), milliseconds(head, most, time.perf_counter)
        bytes_looked_up = 0 if head.layer.plain else head.parts["weight"].size
        found.append(
            {"format": f"{format_}/{group}" if group else format_, "mb": round(head.layer.bytes / 1e6, 1), "one_thread_ms": round(one, 2)}
        )
        found[-1] |= {"ms": round(several, 2), "cycles": round(one * clock_mhz() * 1000 / (rows * channels), 2)}
        mac = found[0]["one_thread_ms"] / (rows * channels)
        found[-1]["look_up"] = round(one / bytes_looked_up / mac, 1) if bytes_looked_up else None
    return found


def main() -> int:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--channels", type=int, default=CHANNELS)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    facts, rows = machine(), measured(args.rows, args.channels)
    if (args.rows, args.channels) == (ROWS, CHANNELS):
        store("head", facts, {"rows": rows})
    if args.json:
        print(json.dumps({"machine": facts, "rows": rows}, indent=1))
    else:
        print(table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
