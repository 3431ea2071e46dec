"""`make sweep-decoders`: random decoders, whole sequences against blocks and steps, golden against emitted C++.

A decoder is known by its number, and every few of them become C++: `--only 17` goes through one with all of its checks.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
import traceback
from collections import Counter
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1])]

from attnc.errors import AttncError
from random_decoders.check import Case, check_cpp, check_float, check_golden, planned
from random_graphs.sweep import kind_of

EVERY = 8
"""Of so many decoders one becomes C++."""
FLOAT = 4
"""And of so many one is compared with onnxruntime, in floats."""


def outcome(number: int, every: int = EVERY, case: Case | None = None) -> tuple[int, str, str, float]:
    """The number of a decoder, whether it is "equal", "refused" or "failed", why, and the seconds that it took."""
    started, case = time.monotonic(), case or Case.drawn(number)
    with tempfile.TemporaryDirectory(prefix="attnc-sweep-") as folder:
        try:
            state = planned(case, Path(folder))
            assert state.decoder is not None
            check_golden(case, state.decoder)
            if number % FLOAT == 0:
                check_float(case, Path(folder) / "decoder.onnx")
            if every and number % every == 0:
                check_cpp(case, state)
            kind, why = "equal", ""
        except AttncError as error:
            kind, why = kind_of(error), f"{type(error).__name__}: {error}"
        except Exception:
            kind, why = "failed", traceback.format_exc()
    return number, kind, why, time.monotonic() - started


def sweep(seed: int, count: int, every: int, workers: int) -> int:
    """The decoders from number `seed` on. Returns 1 where one fails."""
    kinds, refused = Counter[str](), Counter[str]()
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for number, kind, why, seconds in pool.imap_unordered(partial(outcome, every=every), range(seed, seed + count)):
            kinds[kind] += 1
            if kind == "failed":
                print(f"failed: --only {number} ({seconds:.1f} s)\n{why}", flush=True)
            elif kind == "refused":
                refused[why.partition("): ")[2][:100]] += 1
                print(f"refused: --only {number}: {why}", flush=True)
    for message, times in refused.most_common():
        print(f"refused {times}: {message}")
    print(f"{count} decoders: " + ", ".join(f"{kinds[kind]} {kind}" for kind in ("equal", "refused", "failed")))
    return int(kinds["failed"] > 0)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Random decoders: blocks and steps against whole sequences, emitted C++ against golden.")
    parser.add_argument("--decoders", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="number of the first")
    parser.add_argument("--every", type=int, default=EVERY, help="one of so many becomes C++; 0: none")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one decoder, in C++ too")
    args = parser.parse_args()
    if args.only is None:
        return sweep(args.seed, args.decoders, args.every, args.workers)
    print(Case.drawn(args.only))
    _, kind, why, seconds = outcome(args.only, every=1)
    print(f"{kind} ({seconds:.1f} s)\n{why}")
    return int(kind == "failed")


if __name__ == "__main__":
    sys.exit(main())
