"""Whole models into build folders: exact, reproducible, of one size, and never half written."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import bert_random
from models.vit_digits import model as vit
from onnx import TensorProto, helper, numpy_helper

from attnc.codegen.listing import LISTING
from attnc.compiler import compile_model
from attnc.config import CompileOptions
from attnc.errors import AttncError, ConfigError, FitError
from attnc.evaluation import evaluate
from attnc.quant.samples import SYNTHETIC_SAMPLES
from attnc.verify.csim import compare_build

DIGITS = Path(__file__).resolve().parents[2] / "models" / "vit_digits"


def compiled(model: Path, output: Path, **options: object) -> Path:
    return compile_model(model, CompileOptions(output=output, check=False, **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(DIGITS / "vit_digits.onnx", tmp_path_factory.mktemp("digits") / "build", calib=DIGITS / "calib.npz")


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("csim_")
    }


def test_the_same_input_gives_the_same_bytes(digits: Path, tmp_path: Path) -> None:
    again = compiled(DIGITS / "vit_digits.onnx", tmp_path / "elsewhere", calib=DIGITS / "calib.npz")
    assert hashes(again) == hashes(digits)


def test_held_out_images_are_exact_and_accurate(digits: Path) -> None:
    from attnc.verify.golden_backend import GoldenBackend
    from attnc_host import Accelerator

    with np.load(DIGITS / "heldout.npz") as file:
        images, labels = file["image"].astype(np.float32), file["label"]
    result = compare_build(digits, {"image": images})
    assert result.bit_exact and result.elements == 10 * len(images)
    with Accelerator.open(digits, backend=GoldenBackend(digits)) as accelerator:
        found = accelerator.run({"image": images})["logits"].argmax(1)
    assert (found == labels).mean() >= 0.9917 - 0.005


@pytest.mark.slow
def test_ap_types_are_exact(digits: Path) -> None:
    assert compare_build(digits, types="ap").bit_exact


def test_hls_is_complete_in_itself(digits: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(digits / "hls", tmp_path / "hls", ignore=shutil.ignore_patterns("csim_*"))
    done = subprocess.run(["make", "-C", str(alone), "csim"], capture_output=True, text=True)
    assert done.returncode == 0 and "PASS" in done.stdout, done.stderr
    # Other expectations: the test bench must fail.
    expected = bytearray((alone / "data" / "expected.bin").read_bytes())
    expected[0] ^= 1
    (alone / "data" / "expected.bin").write_bytes(expected)
    done = subprocess.run(["make", "-C", str(alone), "csim"], capture_output=True, text=True)
    assert done.returncode != 0 and "FAIL" in done.stdout


def test_report_and_manifest_say_what_was_promised(digits: Path) -> None:
    report = json.loads((digits / "report.json").read_text())
    manifest = json.loads((digits / "manifest.json").read_text())
    assert (report["schema"], manifest["schema"]) == (1, 2)
    assert {layer["op"] for layer in report["layers"]} >= {"linear", "attention", "layer_normalization", "unary", "add", "concat_rows"}
    assert all(layer["float_graph_db"] > 20 for layer in report["layers"])
    # The cycles of a chain stand with its main node, the others name it.
    nodes = {layer["node"]: layer for layer in report["layers"]}
    for layer in report["layers"]:
        assert (layer["cycles"] > 0) == (layer["with"] is None) and nodes[layer["with"] or layer["node"]]["with"] is None
    assert sum(layer["cycles"] for layer in report["layers"]) == report["estimate"]["cycles"]
    assert sorted(name for stage in report["estimate"]["stages"] for name in stage["nodes"]) == sorted(nodes)
    assert sum(layer["with"] is not None for layer in report["layers"]) > 10
    values = {value["name"] for value in manifest["values"]}
    assert values < {layer["output"] for layer in report["layers"]} | values and len(values) < len(nodes)
    weights = {layer["node"]: layer["weights"] for layer in report["layers"] if layer["weights"]}
    assert weights.keys() == {layer["node"] for layer in report["layers"] if layer["op"] == "linear"}
    keys = ("format", "quantizer", "quantizer_why", "engine", "why")
    assert {tuple(w[key] for key in keys) for w in weights.values()} == {("int8", "quantease", "calibration data", "dsp", "bytes")}
    assert report["engine_choice"] is None
    assert set(report["estimate"]["resources"]) == {"lut", "ff", "dsp", "bram36", "uram"}
    assert "estimate" in report["estimate"]["note"] and "estimate" in (digits / "report.txt").read_text()
    for name, entry in manifest["files"].items():
        data = (digits / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])


def test_every_engine_has_resources(digits: Path) -> None:
    for engine in json.loads((digits / "report.json").read_text())["engines"]:
        assert engine["resources"]["lut"] > 0 and engine["resources"]["ff"] > 0


def test_code_and_hardware_do_not_grow_with_the_layers(tmp_path: Path) -> None:
    sizes, engines = [], []
    for layers in (2, 7):
        vit.export(vit.random_model(layers=layers), tmp_path / f"{layers}.onnx")
        build = compiled(tmp_path / f"{layers}.onnx", tmp_path / f"build{layers}")
        # what the listing of a program says of its stages is data too
        files = [p for p in sorted((build / "hls").rglob("*")) if p.is_file() and p.parent.name != "data"]
        sources = [p for p in files if p.name != Path(LISTING).name]
        sizes.append({path.relative_to(build).as_posix(): path.stat().st_size for path in sources})
        report = json.loads((build / "report.json").read_text())
        engines.append(([e["kernels"] for e in report["engines"]], report["estimate"]["resources"], report["design"]))
    assert sizes[0] == sizes[1]
    assert engines[0] == engines[1]


@pytest.mark.parametrize("exporter", ["dynamo", pytest.param("torchscript", marks=pytest.mark.slow)])
def test_bert_with_padding_mask(exporter: str, tmp_path: Path) -> None:
    bert_random.export(tmp_path / "bert.onnx", exporter)
    build = compiled(tmp_path / "bert.onnx", tmp_path / "build", shapes={"input_ids": (1, 32), "attention_mask": (1, 32)})
    rng = np.random.default_rng(0)
    mask = (np.arange(32) < rng.integers(1, 33, (6, 1))).astype(np.int64)
    result = compare_build(build, {"input_ids": rng.integers(0, 1000, (6, 32)), "attention_mask": mask})
    assert result.bit_exact and result.elements == 6 * (32 * 64 + 64)
    report = json.loads((build / "report.json").read_text())
    assert min(layer["float_graph_db"] for layer in report["layers"]) > 20


def tiny_model(path: Path, node_name: str = "product", weight: np.ndarray | None = None) -> Path:
    weight = np.eye(8, dtype=np.float32) if weight is None else weight
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name=node_name)],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.mark.parametrize("name", ["file", "allow_pickle", "../x", 'a"b', "a/b.npy"])
def test_any_name_of_an_input(tmp_path: Path, name: str) -> None:
    model = onnx.load(tiny_model(tmp_path / "m.onnx"))
    model.graph.input[0].name = model.graph.node[0].input[0] = name
    onnx.save(model, tmp_path / "m.onnx")
    with np.load(compiled(tmp_path / "m.onnx", tmp_path / "build") / "golden" / "inputs.npz") as file:
        assert file.files == [name.removesuffix(".npy")] or file.files == [name]


@pytest.mark.parametrize("elem_type", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_models_of_other_precisions(tmp_path: Path, elem_type: int) -> None:
    model = onnx.load(tiny_model(tmp_path / "m.onnx", weight=np.eye(8, dtype=helper.tensor_dtype_to_np_dtype(elem_type))))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.elem_type = elem_type
    onnx.save(model, tmp_path / "m.onnx")
    build = compiled(tmp_path / "m.onnx", tmp_path / "build")
    facts = evaluate(build, {"x": np.ones((2, 4, 8))}, None, tmp_path / "m.onnx")["evaluation"]
    assert facts["mismatches"] == 0 and facts["output_sqnr_db"]["y"] > 30


def test_an_output_that_is_listed_twice(tmp_path: Path) -> None:
    model = onnx.load(tiny_model(tmp_path / "m.onnx"))
    model.graph.output.append(model.graph.output[0])
    onnx.save(model, tmp_path / "m.onnx")
    assert compare_build(compiled(tmp_path / "m.onnx", tmp_path / "build")).elements == SYNTHETIC_SAMPLES // 2 * 4 * 8


def test_constant_mask_of_large_values(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Attention", ["x", "x", "x"], ["a"], q_num_heads=2, kv_num_heads=2, is_causal=1),
        helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "causal", ends[:1], ends[1:], [numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]), tmp_path / "m.onnx")
    build = compiled(tmp_path / "m.onnx", tmp_path / "build")
    assert compare_build(build).bit_exact
    assert json.loads((build / "report.json").read_text())["layers"][0]["float_graph_db"] > 20


def test_mask_of_infinities_from_the_host(tmp_path: Path) -> None:
    """What scaled_dot_product_attention with a boolean mask becomes: 0 and minus infinity."""
    nodes = [
        helper.make_node("Where", ["mask", "zero", "low"], ["bias"]),
        helper.make_node("Attention", ["x", "x", "x", "bias"], ["a"], q_num_heads=2, kv_num_heads=2),
        helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8]) for name in "xy")
    mask = helper.make_tensor_value_info("mask", TensorProto.BOOL, [1, 1, 4, 4])
    constants = {"zero": np.float32(0), "low": np.float32(-np.inf), "w": np.eye(8, dtype=np.float32)}
    graph = helper.make_graph(nodes, "masked", [x, mask], [y], [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]), tmp_path / "m.onnx")
    build = compiled(tmp_path / "m.onnx", tmp_path / "build")
    assert compare_build(build).bit_exact
    assert json.loads((build / "report.json").read_text())["layers"][0]["float_graph_db"] > 20


def test_a_model_that_gives_nan(tmp_path: Path) -> None:
    with pytest.raises(AttncError, match="NaN or infinity"):
        compiled(tiny_model(tmp_path / "m.onnx", weight=np.full((8, 8), np.nan, np.float32)), tmp_path / "build")


def test_names_of_a_model_never_reach_the_sources(tmp_path: Path) -> None:
    name = '"; exit 1; // $(touch owned) `x` [bold] ../../etc ${HOME} \\'
    build = compiled(tiny_model(tmp_path / "m.onnx", name), tmp_path / "build")
    for path in (build / "hls").rglob("*"):
        if path.is_file() and path.parent.name != "data" and path.name != Path(LISTING).name:
            assert "owned" not in path.read_text() and "touch" not in path.read_text(), path
    assert name in (build / "report.json").read_text().encode().decode("unicode_escape") or "owned" in (build / "report.json").read_text()
    assert compare_build(build).bit_exact


def test_a_failure_leaves_the_old_build_and_nothing_else(tmp_path: Path) -> None:
    build = compiled(tiny_model(tmp_path / "m.onnx"), tmp_path / "build")
    before = hashes(build)
    tiny_board = tmp_path / "tiny.yaml"
    tiny_board.write_text("name: tiny\npart: xc7z010\nlut: 100\nff: 100\ndsp: 1\nbram36: 1\nddr_gb_s: 1\n")
    with pytest.raises(FitError, match="tiny"):
        compiled(tmp_path / "m.onnx", build, target=str(tiny_board))
    assert hashes(build) == before
    bad = np.eye(8, dtype=np.float32)
    bad[0, 0] = np.nan
    with pytest.raises(AttncError):
        compiled(tiny_model(tmp_path / "nan.onnx", weight=bad), build)
    assert hashes(build) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["build", "m.onnx", "nan.onnx", "tiny.yaml"]


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="attnc did not make it"):
        compiled(tiny_model(tmp_path / "m.onnx"), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    compiled(tmp_path / "m.onnx", tmp_path / "mine", force=True)
    assert (tmp_path / "mine" / "manifest.json").is_file()


def test_report_says_which_engine_serves_which_layer_and_why(tmp_path: Path) -> None:
    config = tmp_path / "attnc.yaml"
    config.write_text(
        "weights: int4\nlayers:\n"
        "  - {match: node_matmul_1, weights: int8}\n"
        "  - {match: node_linear_2, weights: ternary, engine: lookup, group_size: 32}\n"
        "  - {match: node_matmul_3, weights: binary3}\n"
        "  - {match: node_linear_6, weights: int8, activation_bits: 16}\n"
        "  - {match: node_linear_7, quantizer: gptq, activations: dynamic}\n"
    )
    build = compiled(DIGITS / "vit_digits.onnx", tmp_path / "build", calib=DIGITS / "calib.npz", config=config, sqnr_target=1)
    report, text = json.loads((build / "report.json").read_text()), (build / "report.txt").read_text()
    found = {layer["node"]: layer["weights"] for layer in report["layers"]}
    chosen, tried = report["engine_choice"]["chosen"], report["engine_choice"]["tried"]

    def row(name: str) -> tuple[object, ...]:
        return tuple(found[name][key] for key in ("format", "group_size", "quantizer", "input", "activations", "engine", "why"))

    assert row("node_matmul_1") == ("int8", 0, "quantease", "s8", "static", "dsp", "bytes")
    assert row("node_linear_2") == ("ternary", 32, "quantease", "s8", "static", "lookup", "asked for")
    assert row("node_matmul_3") == ("binary3", 0, found["node_matmul_3"]["quantizer"], "s8", "static", "lookup", "the only one")
    assert row("node_linear_6") == ("int8", 0, "quantease", "s16", "static", "dsp", "the only one")
    assert row("node_linear_7") == ("int4", 0, "gptq", "s8", "dynamic", chosen, "cost")
    assert tried.keys() == {"dsp", "lookup"} and tried[chosen]["cycles"] == report["estimate"]["cycles"]
    assert all(cost["cycles"] >= tried[chosen]["cycles"] for cost in tried.values())
    assert all(f"{name}: {cost['cycles']:,} cycles" in text for name, cost in tried.items())
    # With a schedule nothing is searched.
    options = {"calib": DIGITS / "calib.npz", "config": config, "schedule": build / "schedule.yaml", "sqnr_target": 1}
    again = json.loads((compiled(DIGITS / "vit_digits.onnx", tmp_path / "again", **options) / "report.json").read_text())
    assert again["engine_choice"] is None and {layer["weights"]["why"] for layer in again["layers"] if layer["weights"]} >= {"by format"}
