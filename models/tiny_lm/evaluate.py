"""Bits per character on held-out text: of the float model through onnxruntime, and of golden, the integers of a build, at the same places.

python models/tiny_lm/evaluate.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from attnc.compiler import quantize_model
from attnc.config import CompileOptions
from attnc.golden import run_golden
from attnc.pipeline.quantize import device_integers
from attnc.quant.samples import Edge

HERE = Path(__file__).resolve().parent
LENGTH = 512


def bits(logits: npt.NDArray[np.floating], ids: npt.NDArray[np.int64]) -> float:
    """Mean of the negative logarithm to base 2 of the probability of each character but the first: logits [rows, tokens, 256], ids
    [rows, tokens]."""
    scores = logits[:, :-1].astype(np.float64)
    scores -= scores.max(-1, keepdims=True)
    log = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    return float(-np.take_along_axis(log, ids[:, 1:, None], -1).mean() / np.log(2))


def held_out(rows: int | None = None) -> npt.NDArray[np.int64]:
    """Held-out text in rows of `LENGTH`."""
    ids = np.load(HERE / "heldout.npz")["input_ids"].reshape(-1)
    return ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH)[:rows]


def of_float(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Logits of the shipped file."""
    session = onnxruntime.InferenceSession(str(HERE / "tiny_lm.onnx"), providers=["CPUExecutionProvider"])
    found: npt.NDArray[np.float32] = session.run(["logits"], {"input_ids": ids})[0]
    return found


def of_golden(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Logits in integers, quantized as `attnc compile --max-length 512` does, times their scale."""
    model = quantize_model(HERE / "tiny_lm.onnx", CompileOptions(calib=HERE / "calib.npz", max_length=LENGTH)).model
    edge, graph, (spec,), (fetch,) = Edge(model), model.graph, model.inputs, model.fetches
    rows = []
    for row in ids:
        sample = {spec.name: row.reshape(spec.shape).astype(spec.dtype)}
        found = run_golden(graph, device_integers(graph, edge.feed(sample), model))
        rows.append(edge.finish(sample, {fetch.value: graph.type(fetch.value).dequantize(found[fetch.value])})["logits"][0])
    return np.stack(rows)


def main() -> None:
    """Both, and what integers cost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, help=f"rows of {LENGTH} characters; by default all")
    ids = held_out(parser.parse_args().rows)
    real, golden = bits(of_float(ids), ids), bits(of_golden(ids), ids)
    print(f"{ids.size:,} characters: float {real:.4f} bits per character, golden {golden:.4f} ({golden / real - 1:+.2%})")


if __name__ == "__main__":
    main()
