"""How near the sentence vectors of golden (integers) are to the float model's: cosine over sentences that calibration never saw.

    python models/minilm/evaluate.py
    python models/minilm/evaluate.py --activations static --json
    python models/minilm/evaluate.py --weights auto --budget "cosine>=0.98" --output build/minilm
    python models/minilm/evaluate.py --csim 2          compile, and compare the emitted C++ with golden on 2 sentences

A sentence's vector is the mean of `last_hidden_state` over its tokens. Settings of the compiler that have no option here:
`--set calibration=minmax`. The model is exported on first use. A search (`--budget`) measures on 32 sentences of its own, neither those
that calibrate nor those of the evaluation; it keeps what it knows beside `--output`, and starts from there the next time.
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
import numpy.typing as npt
import onnxruntime

from attnc.compiler import compile_model, quantize_model
from attnc.config import CompileOptions
from attnc.golden import run_golden
from attnc.pipeline.quantize import device_integers
from attnc.pipeline.state import State
from attnc.quant.samples import Edge, check_samples, one_sample
from attnc.search.compile import Search
from attnc_host.progress import Progress
from sentences import LENGTH, select, tokenise

HERE = Path(__file__).resolve().parent
MODEL = HERE / "minilm.onnx"
HELDOUT = 32
"""Sentences that a search measures on."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
Array = npt.NDArray[Any]


def pooled(hidden: Array, mask: Array) -> Array:
    """Mean over the tokens of each sentence: [S, T, C], [S, T] to [S, C]."""
    result: Array = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    return result


def float_hidden(inputs: dict[str, Array]) -> Array:
    """last_hidden_state of the float model, through onnxruntime."""
    session = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
    parts = [session.run(None, {n: a[i : i + 16] for n, a in inputs.items()})[0] for i in range(0, len(inputs["input_ids"]), 16)]
    return np.concatenate(parts)


def golden_hidden(state: State, inputs: dict[str, Array]) -> Array:
    """last_hidden_state of the integer model."""
    edge, model = Edge(state.model), state.model
    found, samples = [], check_samples(inputs, model.inputs, "sentences")
    for index, feeds in enumerate(edge.feeds(samples)):
        outputs = run_golden(state.graph, device_integers(state.graph, feeds, model))
        real = {name: state.graph.type(name).dequantize(q) for name, q in outputs.items()}
        found.append(edge.finish(one_sample(samples, index), real)["last_hidden_state"])
    return np.concatenate(found)


def cosines(a: Array, b: Array) -> Array:
    """Row by row."""
    result: Array = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return result


def measure(state: State, count: int) -> dict[str, Any]:
    """Golden against float on `count` sentences."""
    inputs: dict[str, Array] = dict(tokenise(select("evaluation", count)))
    mask = inputs["attention_mask"]
    start = time.perf_counter()
    golden = pooled(golden_hidden(state, inputs), mask)
    seconds = time.perf_counter() - start
    found = cosines(golden, pooled(float_hidden(inputs), mask))
    return {
        "sentences": count,
        "cosine_mean": float(found.mean()),
        "cosine_min": float(found.min()),
        "cosine_percentile_5": float(np.percentile(found, 5)),
        "seconds_per_sentence": seconds / count,
    }


def simulate(options: CompileOptions, count: int) -> dict[str, Any]:
    """Compile all the way and compare the C++ with golden."""
    from attnc.verify.csim import compare_build

    build = compile_model(MODEL, options)
    start = time.perf_counter()
    result = compare_build(build, dict(tokenise(select("evaluation", count))), "native")
    return {"sentences": count, "elements": result.elements, "mismatches": result.mismatches, "seconds": time.perf_counter() - start}


def settings(args: argparse.Namespace, folder: Path) -> CompileOptions:
    """Options of the compiler, with calibration data written into `folder`."""
    calib = folder / "calib.npz"
    np.savez(calib, **tokenise(select("calibration", args.calibration_sentences)))
    extra = dict(text.split("=", 1) for text in args.set)
    given = {"activations": args.activations, "weights": args.weights, "calib": calib, "output": args.output or folder / "build"}
    given |= {"check": False, **extra}
    if args.budget is not None:
        heldout = folder / "heldout.npz"
        np.savez(heldout, **tokenise(select("calibration", args.calibration_sentences + HELDOUT)[-HELDOUT:]))
        given |= {"budget": args.budget, "heldout": heldout, "pool": "mean:attention_mask"}
    return CompileOptions(shapes=dict.fromkeys(INPUTS, (1, LENGTH)), **given)


def search(options: CompileOptions) -> tuple[CompileOptions, dict[str, Any]]:
    """The formats that hold the budget, as options, and what the search found."""
    start = time.perf_counter()
    with Progress() as progress:
        found = Search(MODEL, options, progress, lambda text: print(text, file=sys.stderr))
        chosen = found.run()
    facts = {"budget": options.budget, "bits_per_weight": 8 * found.chosen.bytes / found.layers.weights}
    return chosen, {**facts, "cosine_of_search": found.chosen.score.value, "search_seconds": time.perf_counter() - start}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--activations", choices=["static", "dynamic"], default="dynamic")
    parser.add_argument("--weights", help="format of weights, or auto with --budget")
    parser.add_argument("--budget", metavar="COSINE", help='what formats chosen by a search must hold, such as "cosine>=0.98"')
    parser.add_argument("--output", type=Path, help="build folder; a search keeps its state beside it. By default a temporary one")
    parser.add_argument("--sentences", type=int, default=128, help="sentences to measure on")
    parser.add_argument("--calibration-sentences", type=int, default=64)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the compiler, such as calibration=minmax"
    )
    parser.add_argument("--csim", type=int, default=0, metavar="N", help="also compile, and compare the C++ with golden on N sentences")
    parser.add_argument("--layers", action="store_true", help="also print how far golden is from the float graph in every layer, in dB")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not MODEL.exists():
        from export import export

        export(MODEL)
    with tempfile.TemporaryDirectory(prefix="attnc-minilm-") as folder:
        options = settings(args, Path(folder))
        facts: dict[str, Any] = {"activations": args.activations, "settings": args.set, "calibration_sentences": args.calibration_sentences}
        if args.budget is not None:
            options, found = search(options)
            facts |= found
        state = quantize_model(MODEL, options)
        facts |= measure(state, args.sentences)
        if args.layers:
            facts["float_graph_db"] = state.layer_db
        if args.csim:
            facts["csim"] = simulate(options, args.csim)
    if args.json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            print(name)
            for key, inner in value.items():
                print(f"    {key:70} {inner if isinstance(inner, int) else format(inner, '.2f')}")
        else:
            print(f"{name:24} {format(value, '.5f') if isinstance(value, float) else value}")


if __name__ == "__main__":
    main()
