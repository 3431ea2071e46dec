"""make fuzz: thousands of broken, hostile and odd inputs, each of which must end in success or in one clear error.

A finding is an exit code other than 0 (1 of `inspect` and `csim`) and 2, a hang, a crash, memory beyond bounds, a file left behind, or
anything on stdout or stderr that is no message. It names the mutant, whose files are kept; --only runs it again and shows all it says.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from fuzz.mutants import MAKERS, Mutants
from fuzz.workers import results, run_one

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--only", type=int, metavar="N", help="run mutant N alone and show what it says")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=ROOT / "build" / "fuzz", help="folder for the files of findings")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--kind", choices=[maker.__name__ for maker, _ in MAKERS], help="mutants of this kind alone")
    options = parser.parse_args()
    root = options.keep.resolve()
    mutants = Mutants(options.seed, root / "builds", options.kind)
    if not (root / "builds").is_dir():
        mutants.prepare()
    return replay(mutants, options.only, root) if options.only is not None else search(mutants, options, root)


def replay(mutants: Mutants, number: int, root: Path) -> int:
    """One mutant, with everything it says; its files stay."""
    os.environ.update(CXX="false", OMP_NUM_THREADS="1")
    _, verdict = run_one(mutants, number, root, verbose=True)
    print(verdict.out + verdict.err, end="")
    found, verdict = run_one(mutants, number, root)
    print(verdict.out + verdict.err, end="")
    print(f"mutant {number} of seed {mutants.seed}: exit code {verdict.code}, {verdict.seconds:.1f} s, {verdict.peak >> 20} MiB")
    print(found or "nothing wrong")
    return 1 if found else 0


def search(mutants: Mutants, options: argparse.Namespace, root: Path) -> int:
    """All mutants, progress on stderr."""
    numbers, start, codes, findings = range(options.first, options.first + options.count), time.monotonic(), dict[int, int](), []
    slowest, largest = 0.0, 0
    for done, (_, found, code, seconds, peak) in enumerate(results(mutants, numbers, options.workers, root), 1):
        codes[code] = codes.get(code, 0) + 1
        slowest, largest = max(slowest, seconds), max(largest, peak)
        if found:
            findings.append(found)
            print(f"seed {options.seed} mutant {found.number} ({found.what}): {'; '.join(found.wrong)}", file=sys.stderr)
        if done % 100 == 0:
            print(f"{done} of {len(numbers)}, {time.monotonic() - start:.0f} s, {len(findings)} findings", file=sys.stderr)
    facts = {"seed": options.seed, "mutants": len(numbers), "seconds": round(time.monotonic() - start), "exit_codes": codes,
             "slowest_seconds": round(slowest, 1), "largest_mib": largest >> 20}  # fmt: skip
    if options.json:
        print(json.dumps({**facts, "findings": [asdict(found) for found in findings]}, indent=2))
    else:
        print(", ".join(f"{name} {value}" for name, value in facts.items()))
        print(f"{len(findings)} findings" + (f", files in {root}" if findings else ""))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
