"""Models of torch, exported with both exporters, against onnxruntime."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
import torch_models as models  # noqa: E402
from running import check  # noqa: E402

from attnc.cli import main  # noqa: E402
from attnc.errors import UnsupportedError  # noqa: E402
from attnc.frontend import import_model  # noqa: E402
from attnc.verify.csim import compare_build  # noqa: E402
from harness import slowly  # noqa: E402

D, T = models.D, models.TOKENS


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("torch")


def ops(model: object) -> list[str]:
    return [node.op for node in model.graph.nodes]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("dynamo", "opset"), [(False, 13), (True, 20), *slowly((False, 17), (False, 20), (True, 18))])
def test_vit(folder: Path, dynamo: bool, opset: int) -> None:
    model = models.Vit()
    if opset < 14:
        model.blocks[0].attention.style = "timm_manual"
    path = models.export(model, (torch.randn(2, 1, 8, 8),), folder / f"vit{dynamo}{opset}.onnx", dynamo, opset, {"x": {0: "batch"}})
    found = check(path, strict=True)
    assert found.inputs[0].batched and found.outputs[0].batched and found.outputs[0].shape == (1, 10)
    assert ops(found).count("attention") == 2 and ops(found).count("layer_normalization") == 5 and ops(found).count("unary") == 2
    assert ops(found).count("linear") == 1 + 2 * 6 + 1 and not found.leading and not found.trailing


@pytest.mark.parametrize(("dynamo", "opset"), [(False, 13), (True, 23), *slowly((False, 18), (True, 18))])
def test_bert(folder: Path, dynamo: bool, opset: int) -> None:
    inputs = tuple(torch.ones(2, 6, dtype=torch.int64) for _ in range(3))
    axes = {0: "batch", 1: "seq"}
    names = ["ids", "attention_mask", "token_type"]
    path = models.export(models.Bert(), inputs, folder / f"bert{dynamo}{opset}.onnx", dynamo, opset, dict.fromkeys(names, axes), names)
    found = check(path, {"ids": (1, 7)})
    assert ops(found).count("attention") == 2 and ops(found).count("layer_normalization") == 5
    assert found.leading is not None and not found.trailing
    assert len(found.outputs) == 2


@pytest.mark.parametrize("style", models.STYLES)
@pytest.mark.parametrize("dynamo", [False, True])
def test_attention_spellings(folder: Path, style: str, dynamo: bool) -> None:
    if dynamo and style in ("timm", "separate", "single"):
        pytest.skip("covered by the other models")
    path = models.export(
        models.SelfAttention(style), (torch.randn(1, T, D),), folder / f"{style}{dynamo}.onnx", dynamo, 18, {"x": {0: "batch"}}
    )
    found = check(path, strict=True)
    assert ops(found).count("attention") == 1
    assert set(ops(found)) == {"attention", "linear"}
    attention = next(node for node in found.graph.nodes if node.op == "attention")
    assert attention.attrs["num_kv_heads"] == {"grouped": 2, "grouped_expand": 1, "single": 1}.get(style, 4)


@pytest.mark.parametrize("boolean", [True, False])
@pytest.mark.parametrize("dynamo", [True, False])
def test_mask_input(folder: Path, dynamo: bool, boolean: bool) -> None:
    mask = torch.ones(2, T, dtype=torch.bool if boolean else torch.float32)
    dynamic = {"x": {0: "batch"}, "mask": {0: "batch"}}
    path = models.export(
        models.MaskedAttention(), (torch.randn(2, T, D), mask), folder / f"mask{dynamo}{boolean}.onnx", dynamo, 18, dynamic
    )
    found = check(path)
    assert len(next(node for node in found.graph.nodes if node.op == "attention").inputs) == 4


@pytest.mark.parametrize(("dynamo", "weights"), [(True, True), (True, False), (False, True)])
def test_multihead_attention(folder: Path, dynamo: bool, weights: bool) -> None:
    path = models.export(
        models.TorchMha(weights), (torch.randn(1, T, D),), folder / f"mha{dynamo}{weights}.onnx", dynamo, 18, {"x": {0: "batch"}}
    )
    assert ops(check(path, strict=True)) == ["linear"] * 3 + ["attention", "linear"]


@pytest.mark.parametrize("dynamo", [True])  # torch itself fails to trace this layer for the other exporter
@pytest.mark.parametrize("norm_first", [True, False])
def test_encoder_layer(folder: Path, dynamo: bool, norm_first: bool) -> None:
    layer = torch.nn.TransformerEncoderLayer(D, 4, 32, batch_first=not norm_first, norm_first=norm_first, activation="gelu")
    x = torch.randn(1, T, D) if not norm_first else torch.randn(T, 1, D)
    path = models.export(layer, (x,), folder / f"encoder{dynamo}{norm_first}.onnx", dynamo, 17 if not dynamo else 18)
    assert ops(check(path, strict=True)).count("layer_normalization") == 2


def rotary(folder: Path, style: str, dynamo: bool, kv_heads: int = 2, sign: int = 1) -> Path:
    torch.manual_seed(3)
    model, path = models.RotaryAttention(style, kv_heads, sign=sign), folder / f"rotary_{style}{dynamo}{kv_heads}{sign}.onnx"
    return models.export(model, (torch.randn(1, T, D),), path, dynamo, 18 if dynamo else 17, {"x": {0: "batch"}})


@pytest.mark.parametrize("kv_heads", [2, *slowly((1,))])
@pytest.mark.parametrize("style", models.ROTARY)
@pytest.mark.parametrize("dynamo", [False, True])
def test_rotations_of_pairs_made_one_by_one(folder: Path, dynamo: bool, style: str, kv_heads: int) -> None:
    found = check(rotary(folder, style, dynamo, kv_heads), strict=True)
    nodes = {op: [node.attrs for node in found.graph.nodes if node.op == op] for op in ("rotary", "attention")}
    assert sorted(ops(found)) == ["attention", *["linear"] * 4, *["rotary"] * 2]
    assert sorted(attrs["num_heads"] for attrs in nodes["rotary"]) == [kv_heads, 2]
    assert {attrs["interleaved"] for attrs in nodes["rotary"]} == {not style.startswith("halves")}
    assert {attrs["rotary_dims"] for attrs in nodes["rotary"]} == {4 if style == "partial" else 8}
    assert nodes["attention"][0]["softcap"] == 2.0


def test_pairs_that_are_not_turned_are_no_rotation(folder: Path) -> None:
    with pytest.raises(UnsupportedError):
        import_model(rotary(folder, "slices", False, sign=-1))
    found = ops(check(rotary(folder, "halves", False, sign=-1), strict=True))
    assert "rotary" not in found and "gather_channels" in found


@pytest.mark.parametrize("style", ["slices", "partial"])
def test_rotations_in_cpp_equal_golden(folder: Path, style: str) -> None:
    build = folder / f"build_{style}"
    assert main(["compile", str(rotary(folder, style, True, 1)), "-o", str(build), "--no-check", "--quiet"]) == 0
    comparison = compare_build(build)
    assert comparison.elements > 0 and comparison.mismatches == 0


HUGGING_FACE = {
    "bert": ("BertConfig", "BertModel", {"vocab_size": 30, "max_position_embeddings": 16, "type_vocab_size": 2}),
    "roberta": ("RobertaConfig", "RobertaModel", {"vocab_size": 30, "max_position_embeddings": 16, "type_vocab_size": 1}),
    "distilbert": ("DistilBertConfig", "DistilBertForSequenceClassification", {
        "vocab_size": 30, "max_position_embeddings": 16, "dim": D, "hidden_dim": 32, "n_layers": 2, "n_heads": 4,
    }),
    "vit": ("ViTConfig", "ViTForImageClassification", {"image_size": 8, "patch_size": 4, "num_channels": 1}),
    "deit": ("DeiTConfig", "DeiTForImageClassificationWithTeacher", {"image_size": 8, "patch_size": 4, "num_channels": 1}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "dynamo"), [(name, dynamo) for name in HUGGING_FACE for dynamo in (True, False) if dynamo or name in ("bert", "vit")]
)
def test_hugging_face(folder: Path, name: str, dynamo: bool) -> None:
    transformers = pytest.importorskip("transformers")
    config, cls, options = HUGGING_FACE[name]
    sizes = {"hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32} if name != "distilbert" else {}
    torch.manual_seed(1)
    made = getattr(transformers, cls)(
        getattr(transformers, config)(**sizes, **options, attn_implementation="sdpa" if name != "vit" else "eager")
    ).eval()
    images = name in ("vit", "deit")
    names = ["pixel_values"] if images else ["input_ids", "attention_mask"]

    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = made

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            result = self.model(**dict(zip(names, inputs, strict=True)))
            return result[0]

    inputs = (torch.randn(2, 1, 8, 8),) if images else (torch.ones(2, 6, dtype=torch.int64), torch.ones(2, 6, dtype=torch.int64))
    axes = {0: "batch"} if images else {0: "batch", 1: "seq"}
    dynamic = (tuple(axes for _ in names),) if dynamo else dict.fromkeys(names, axes)
    path = models.export(Wrapper(), inputs, folder / f"hf_{name}{dynamo}.onnx", dynamo, 18, dynamic, names)
    found = check(path, {} if images else {"input_ids": (1, 6)})
    assert ops(found).count("attention") == 2 and not found.trailing
    assert (found.leading is None) == images
