"""The shipped language model: its size, what quantization costs it, and the tokens that its C++ gives against golden's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from models.tiny_lm.evaluate import HERE, bits, held_out, of_float, of_golden
from onnx import numpy_helper

from attnc.cli import main
from attnc_host import Accelerator
from attnc_host.decoder import Sampling

PROMPT = "def "
SCHEDULE = """schema: 1
target: kv260
design: {lanes: 8, rows: 32, beat: 2, engines: {linear: {pe: 16, rows_at_once: 3, weight_ports: 2}, attention: {queries: 16}}}
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the guide compiles it, but for the simulation, and with a design that is given: a search takes its time."""
    folder = tmp_path_factory.mktemp("tiny")
    schedule, build, model = folder / "schedule.yaml", folder / "build", str(HERE / "tiny_lm.onnx")
    schedule.write_text(SCHEDULE)
    options = ["--target", "kv260", "--max-length", "512", "--schedule", str(schedule), "-o", str(build)]
    assert main(["compile", model, *options, "--no-check", "--quiet"]) == 0
    return build


def test_it_is_small_and_ternary() -> None:
    assert (HERE / "tiny_lm.onnx").stat().st_size < 6_000_000
    arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load(HERE / "tiny_lm.onnx").graph.initializer]
    matrices = [array for array in arrays if array.ndim == 2 and array.shape != (256, 160)]
    assert sum(array.size for array in matrices) > 1_000_000
    assert all(len(np.unique(np.abs(array))) == 2 for array in matrices)


def test_integers_cost_it_little() -> None:
    ids = held_out(rows=2)
    real, golden = bits(of_float(ids), ids), bits(of_golden(ids), ids)
    assert real < 3 and golden / real < 1.02


def test_calibration_is_not_held_out() -> None:
    text = np.load(HERE / "calib.npz")["input_ids"].astype(np.uint8).tobytes()
    assert not any(row.astype(np.uint8).tobytes()[:64] in text for row in np.load(HERE / "heldout.npz")["input_ids"])


def test_the_build_keeps_the_weights(tiny: Path) -> None:
    report = json.loads((tiny / "report.json").read_text())
    assert report["calibration"]["source"] == "calib.npz"
    weights = [layer["weights"] for layer in report["layers"] if layer.get("weights")]
    assert all(one["activations"] == "dynamic" for one in weights)
    ternary = sum(one["count"] for one in weights if one["format"] == "ternary")
    assert ternary > 0.9 * sum(one["count"] for one in weights)


def test_it_generates_in_cpp_what_golden_does(tiny: Path) -> None:
    """200 tokens; and text that is made of words."""
    made = {}
    for backend in ("golden", "csim"):
        with Accelerator.open(tiny, backend) as accelerator:
            made[backend] = list(accelerator.generate(list(PROMPT.encode()), 200, sampling=Sampling(0.8, top_p=0.9), seed=1))
    assert made["golden"] == made["csim"] and len(made["csim"]) == 200
    text = bytes(made["csim"]).decode("ascii")
    assert text.isascii() and 3 < len(text) / len(text.split()) < 12
