"""Checkpoints in the formats of hubs: exported as `transformers` computes them, compiled, generated from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import transformers as hf
from models import hub_llm
from models.hub_checkpoint import Checkpoint, CheckpointError, unpacked
from models.hub_export import export
from models.hub_random import CONFIGS, write_checkpoint

from attnc.cli import main
from attnc_host import Accelerator
from attnc_host.text import open_tokenizer

SMALL = {
    "vocab_size": 256, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 4}
TOKENS = 20


def small(name: str, **fields: Any) -> dict[str, Any]:
    return {**CONFIGS[name], **SMALL, **fields}


def logits(checkpoint: Checkpoint, folder: Path, ids: np.ndarray) -> np.ndarray:
    path = export(checkpoint, folder / "model.onnx", 64)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input_ids": ids, "position_ids": np.arange(ids.shape[1])[None]})[0]


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (small("SmolLM2-135M"), hf.LlamaForCausalLM),
        (small("TinyLlama-1.1B", rope_scaling=LLAMA3), hf.LlamaForCausalLM),
        (small("Qwen3-0.6B", head_dim=16), hf.Qwen3ForCausalLM),
        (small("Qwen3-0.6B", head_dim=16, rope_scaling=YARN), hf.Qwen3ForCausalLM),
        (small("TinyLlama-1.1B", rope_scaling={**YARN, "mscale": 0.7, "mscale_all_dim": 1.2, "beta_slow": 2}), hf.LlamaForCausalLM),
    ],
    ids=["tied", "llama3", "qwen3", "yarn", "yarn of two scales"],
)
def test_what_transformers_saves_is_read_as_it_computes(config: dict[str, Any], kind: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = kind(kind.config_class(**{key: value for key, value in config.items() if key != "model_type"}))
    made.to(torch.bfloat16).save_pretrained(tmp_path / "model")
    model = kind.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    ids = np.random.default_rng(0).integers(0, 256, (1, TOKENS))
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(logits(Checkpoint(tmp_path / "model"), tmp_path, ids), expected, atol=1e-5)


def test_packed_ternary_weights(tmp_path: Path) -> None:
    config = small("BitNet-b1.58-2B-4T")
    checkpoint = Checkpoint(write_checkpoint(tmp_path / "bitnet", config))
    plain = {key: value for key, value in config.items() if key not in ("model_type", "quantization_config")}
    model = hf.BitNetForCausalLM(hf.BitNetConfig(**plain)).eval()
    named = dict(model.named_parameters())
    assert checkpoint.parameters == pytest.approx(sum(p.numel() for p in named.values()), rel=0.01)
    with torch.no_grad():
        for name, parameter in named.items():
            found = checkpoint.matrix(name.removesuffix(".weight")) if "_proj" in name else checkpoint.tensor(name)
            assert "_proj" not in name or set(np.unique(np.rint(found / np.abs(found).max()))) == {-1, 0, 1}
            parameter.copy_(torch.from_numpy(np.array(found)))
        ids = np.random.default_rng(0).integers(0, 256, (1, TOKENS))
        expected = model(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(logits(checkpoint, tmp_path, ids), expected, atol=1e-5)
    np.testing.assert_array_equal(unpacked(np.array([[0b10100001]], np.uint8)), [[0], [-1], [1], [1]])


def test_a_checkpoint_is_compiled_and_speaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_checkpoint(tmp_path / "bitnet", small("BitNet-b1.58-2B-4T", num_hidden_layers=1))
    settings = ["--max-length", "32", "--no-check", "--boards", "kv260", "-o", str(tmp_path / "build")]
    (folder / "tokenizer_config.json").write_text('{"chat_template": "<{{ messages[0].content }}>"}')
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert hub_llm.main([str(folder), *settings]) == 0
    said = capsys.readouterr().out
    assert "kv260, estimated:" in said and "GiB" in said and "behind 31 tokens" in said
    with Accelerator.open(tmp_path / "build", "golden") as accelerator:
        assert len(list(accelerator.generate(list(b"a"), 4))) == 4
        decoder = accelerator.manifest.decoder
        assert decoder is not None and decoder.tokenizer is not None and decoder.ends == (2, 7)
    capsys.readouterr()
    assert main(["generate", str(tmp_path / "build"), "--chat", "--prompt", "Hi", "--tokens", "2", "--json", "--backend", "golden"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt_ids"] == open_tokenizer(decoder.tokenizer, 256).encode("<Hi>", begins=False)


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"model_type": "gemma3"}, "model_type: needed one of llama"),
        ({"sliding_window": 8}, "a window of 8 tokens"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, "found 'dynamic'"),
        ({"hidden_act": "gelu"}, "needed silu or relu2"),
    ],
)
def test_what_is_not_understood_is_said(config: dict[str, Any], error: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint(write_checkpoint(tmp_path / "model", small("SmolLM2-135M")))
    checkpoint.config.update(config)
    with pytest.raises(CheckpointError, match=error):
        export(checkpoint, tmp_path / "model.onnx", 64)


def test_weights_in_several_files(tmp_path: Path) -> None:
    """As large checkpoints have them; a file that is none of the index's is left alone."""
    torch.manual_seed(0)
    config = {key: value for key, value in small("TinyLlama-1.1B").items() if key != "model_type"}
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**config)).eval()
    model.save_pretrained(tmp_path / "model", max_shard_size="40KB")
    assert len([*(tmp_path / "model").glob("*.safetensors")]) > 2
    (tmp_path / "model" / "consolidated.safetensors").write_bytes(b"another form of the same")
    ids = np.random.default_rng(0).integers(0, 256, (1, TOKENS))
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(logits(Checkpoint(tmp_path / "model"), tmp_path, ids), expected, atol=1e-5)
    last = max((tmp_path / "model").glob("model-*.safetensors"))
    last.unlink()
    with pytest.raises(CheckpointError, match=f"needed all files that model.safetensors.index.json names, found no {last.name}"):
        Checkpoint(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "damage", "error"),
    [
        ("model.safetensors", lambda content: content[: len(content) // 2], "is cut off: needed"),
        ("model.safetensors", lambda content: b"version https://git-lfs", "is no file of safetensors"),
        (
            "model.safetensors",
            lambda content: content.replace(b"model.norm.weight", b"model.nerm.weight"),
            "'model.norm.weight' is missing",
        ),
        ("model.safetensors", lambda content: content.replace(b"lm_head", b"lm_hood"), "'lm_head.weight' is missing"),
        ("config.json", lambda content: b"{", "config.json: is no JSON"),
        ("config.json", lambda content: b"[]", "config.json: needed an object, found list"),
        ("config.json", lambda content: content.replace(b"vocab_size", b"words"), "vocab_size: needed a whole number above 0, found None"),
        ("config.json", lambda content: content.replace(b"rms_norm_eps", b"epsilon"), "needed 'rms_norm_eps', found none"),
        ("config.json", lambda content: content.replace(b'"vocab_size": 256', b'"vocab_size": 300'), r"shape \[300, 32\] by config.json"),
        ("config.json", lambda content: content[:-2] + b',"quantization_config": {"quant_method": "gptq"}}', "or of bitnet, found 'gptq'"),
        ("tokenizer.json", lambda content: b"x", "tokenizer.json: is no tokenizer"),
        ("tokenizer.json", None, "needed a tokenizer.json"),
    ],
)
def test_damaged_checkpoints(name: str, damage: Any, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One error each, before anything is compiled."""
    folder = write_checkpoint(tmp_path / "model", small("TinyLlama-1.1B", num_hidden_layers=1))
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage is not None:
        (folder / name).write_bytes(damage(content))
    assert hub_llm.main([str(folder), "--max-length", "32", "-o", str(tmp_path / "build")]) == 2
    assert re.search(f"error: .*{error}", capsys.readouterr().err)


def test_folders_that_are_no_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hub_llm.main([str(tmp_path), "-o", str(tmp_path / "build")]) == 2
    assert "found no config.json" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="found none"):
        Checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(CheckpointError, match="no file of safetensors"):
        Checkpoint(tmp_path)
