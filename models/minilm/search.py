"""Sentence similarity search: for each of 200 sentences, does golden find the same nearest neighbour as the float model?

    python models/minilm/search.py
    python models/minilm/search.py --csim 32 --set target=zcu104   # and the emitted C++ against golden, bit for bit
    python models/minilm/search.py --set weights=int4 --set group_size=32 --json

Compiles the model (int8 weights, a scale per token, for the KV260 unless told otherwise), runs the build's golden and the float model on
sentences that calibration never saw, and compares the nearest neighbours (cosine of the mean-pooled vectors, the sentence itself left
out). Exit code 1 where fewer than 95 % agree, or where C++ and golden differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from attnc.compiler import compile_model
from attnc.errors import AttncError
from attnc.verify.csim import compare_build
from attnc_host import Accelerator
from attnc_host.progress import Progress
from evaluate import MODEL, Array, cosines, float_hidden, pooled, settings
from sentences import select, tokenise

NEEDED = 0.95


def similarities(vectors: Array) -> Array:
    """Cosine of every pair [S, S]; -1 of a sentence with itself."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Array = unit @ unit.T
    np.fill_diagonal(found, -1.0)
    return found


def agreement(found: Array, expected: Array, texts: list[str]) -> dict[str, Any]:
    """Nearest neighbours by the vectors `found` [S, C] and `expected` [S, C]. `float_margins` says for each that differs how far apart the
    float model itself sees its two candidates, as a difference of cosines."""
    ours, theirs = similarities(found), similarities(expected)
    first, wanted = ours.argmax(axis=1), theirs.argmax(axis=1)
    differing = np.flatnonzero(first != wanted)
    cosine = cosines(found, expected)
    return {
        "sentences": len(texts),
        "top1_agreement": float((first == wanted).mean()),
        "float_margins": [float(theirs[i, wanted[i]] - theirs[i, first[i]]) for i in differing],
        "differing": [[texts[i], texts[first[i]], texts[wanted[i]]] for i in differing],
        "cosine_mean": float(cosine.mean()),
        "cosine_min": float(cosine.min()),
    }


def simulate(build: Path, inputs: dict[str, Array], count: int, progress: Progress) -> dict[str, Any]:
    """The emitted C++ against golden on the first `count` sentences, all outputs."""
    result = compare_build(build, {name: array[:count] for name, array in inputs.items()}, "native", progress)
    return {
        "sentences": count,
        "elements": result.elements,
        "mismatches": result.mismatches,
        "sentences_with_padding": int((inputs["attention_mask"][:count].min(axis=1) == 0).sum()),
        "seconds": round(result.seconds, 2),
    }


def search(args: argparse.Namespace, folder: Path, progress: Progress) -> dict[str, Any]:
    """Compile, run, compare."""
    texts = select("evaluation", args.sentences)
    inputs: dict[str, Array] = dict(tokenise(texts))
    options = settings(args, folder)
    build = compile_model(MODEL, options, progress.stage)
    progress.finish()
    start = time.perf_counter()
    with Accelerator.open(build, backend="golden", progress=progress) as accelerator:
        hidden = accelerator.run(inputs)["last_hidden_state"]
    seconds = time.perf_counter() - start
    progress.stage("float model")
    expected = pooled(float_hidden(inputs), inputs["attention_mask"])
    progress.finish()
    facts = {"target": options.target or "kv260", "activations": args.activations, "settings": args.set}
    facts |= agreement(pooled(hidden, inputs["attention_mask"]), expected, texts)
    facts["golden_seconds"] = round(seconds, 2)
    tokens = inputs["attention_mask"].sum(axis=1)
    facts["tokens_used"] = [int(tokens.min()), int(np.median(tokens)), int(tokens.max())]
    if args.csim:
        facts["csim"] = simulate(build, inputs, args.csim, progress)
    return facts


def show(facts: dict[str, Any], examples: int) -> None:
    """As text."""
    count, agreed = facts["sentences"], facts["top1_agreement"]
    print(f"compiled for {facts['target']}, activations {facts['activations']} {' '.join(facts['settings'])}")
    print("tokens per sentence: {} to {}, median {}, padded to 128".format(*(facts["tokens_used"][i] for i in (0, 2, 1))))
    print(f"nearest neighbour of {count} sentences as in float: {agreed:.1%} (needed: {NEEDED:.0%})")
    print(f"cosine of golden and float: mean {facts['cosine_mean']:.4f}, smallest {facts['cosine_min']:.4f}")
    if facts["float_margins"]:
        print(f"where they differ, the float model tells its two candidates apart by at most {max(facts['float_margins']):.4f}")
    for text, ours, theirs in facts["differing"][:examples]:
        print(f"  {text}\n    golden: {ours}\n    float:  {theirs}")
    if "csim" in facts:
        found = facts["csim"]
        print(
            f"C++ against golden: {found['elements']:,} elements of {found['sentences']} sentences "
            f"({found['sentences_with_padding']} of them padded), {found['mismatches']} mismatches"
        )


def main() -> int:
    """Search from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--activations", choices=["static", "dynamic"], default="dynamic")
    parser.add_argument("--calibration-sentences", type=int, default=64)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the compiler, such as target=zcu104")
    parser.add_argument("--csim", type=int, default=0, metavar="N", help="also compare the C++ with golden on the first N sentences")
    parser.add_argument("--examples", type=int, default=3, metavar="N", help="differing neighbours to print")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(weights="int8", budget=None, output=None)  # what evaluate.settings asks for
    args = parser.parse_args()
    if args.sentences < 2 or not 0 <= args.csim <= args.sentences:
        parser.error(f"needed at least 2 sentences and --csim among them, found {args.sentences} and {args.csim}")
    if not MODEL.exists():
        from export import export

        export(MODEL)
    try:
        with tempfile.TemporaryDirectory(prefix="attnc-minilm-") as folder, Progress(delay=0.0) as progress:
            facts = search(args, Path(folder), progress)
    except AttncError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        show(facts, args.examples)
    return 0 if facts["top1_agreement"] >= NEEDED and not facts.get("csim", {}).get("mismatches") else 1


if __name__ == "__main__":
    sys.exit(main())
