"""Checkpoints with the shapes of published models and random weights, where the real ones are not at hand: as files in the same formats, or
drawn as they are asked for."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from models.hub_checkpoint import PACKED, Checkpoint, needed_tensors

LLAMA: dict[str, Any] = {"model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0}
CONFIGS: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": {
        **LLAMA, "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "rope_theta": 100000.0, "tie_word_embeddings": True,
    },
    "TinyLlama-1.1B": {
        **LLAMA, "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
        "num_key_value_heads": 4, "tie_word_embeddings": False,
    },
    "Qwen3-0.6B": {
        **LLAMA, "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "rope_theta": 1e6, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    },
    "BitNet-0.73B": {
        **LLAMA, "vocab_size": 32002, "hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "num_key_value_heads": 16, "tie_word_embeddings": False,
        "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"},
    },
    "BitNet-b1.58-2B-4T": {
        **LLAMA, "model_type": "bitnet", "hidden_act": "relu2", "vocab_size": 128256, "hidden_size": 2560, "intermediate_size": 6912,
        "num_hidden_layers": 30, "num_attention_heads": 20, "num_key_value_heads": 5, "rope_theta": 500000.0, "tie_word_embeddings": True,
        "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"},
    },
}  # fmt: skip
"""What config.json of the published models says, as far as it matters; BitNet 0.73B is the one that TeLLMe v2 runs (arXiv 2510.15926)."""


class RandomCheckpoint(Checkpoint):
    """A checkpoint whose tensors are drawn when they are asked for: a model of any size, never all in memory. The same name gives the same
    numbers."""

    def __init__(self, name: str, config: dict[str, Any], seed: int = 0) -> None:
        self.folder, self.config, self.seed = Path(name), config, seed
        self.shapes = _shapes(config)

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, unpacked."""
        shape, dtype = self.shapes[name]
        return (PACKED * shape[0], *shape[1:]) if dtype == np.uint8 else shape

    @property
    def parameters(self) -> int:
        """Numbers in all matrices and vectors, those that are packed one by one."""
        return sum(int(np.prod(shape)) * (PACKED if dtype == np.uint8 else 1) for shape, dtype in self.shapes.values())

    def drawn(self, name: str) -> np.ndarray:
        """As a file has it: float16, or packed bytes."""
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        return _random(rng, name, *self.shapes[name])

    def tensor(self, name: str) -> np.ndarray:
        """As float32, or the bytes of what is packed."""
        found = self.drawn(name)
        return found if found.dtype == np.uint8 else found.astype(np.float32)


def write_checkpoint(folder: Path, config: dict[str, Any], seed: int = 0, layers: int | None = None) -> Path:
    """A folder with config.json, model.safetensors (float16, ternary ones packed) and a tokenizer.json of bytes; of a model of fewer
    `layers`, if given."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**config, "num_hidden_layers": layers or config["num_hidden_layers"]}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    checkpoint = RandomCheckpoint(folder.name, config, seed)
    header, offset = {}, 0
    for name, (shape, dtype) in checkpoint.shapes.items():
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        kind = "U8" if dtype == np.uint8 else "F16"
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in checkpoint.shapes:
            checkpoint.drawn(name).tofile(file)
    _write_tokenizer(folder / "tokenizer.json")
    return folder


def _shapes(config: dict[str, Any]) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and type of every tensor of a checkpoint by name."""
    found: dict[str, tuple[tuple[int, ...], Any]] = {}
    for name, shape in needed_tensors(config, config["num_hidden_layers"]).items():
        packed = "quantization_config" in config and "_proj." in name
        found[name] = ((shape[0] // PACKED, *shape[1:]), np.uint8) if packed else (shape, np.float16)
        if packed:
            found[f"{name}_scale"] = (1,), np.float16
    return found


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Norms near one, matrices of standard deviation 1 / sqrt(inputs), as many -1 and 1 as 0 and half of it in packed ternary ones."""
    if dtype == np.uint8:
        values = rng.choice(3, (PACKED, *shape), p=(0.25, 0.5, 0.25)).astype(np.uint8)
        return np.bitwise_or.reduce([values[i] << 2 * i for i in range(PACKED)]).astype(np.uint8)
    if name.endswith("weight_scale"):
        return np.full(shape, 0.03, dtype)
    if len(shape) == 1:
        return np.exp(0.2 * rng.standard_normal(shape, np.float32)).astype(dtype)
    return (rng.standard_normal(shape, np.float32) * np.float32(shape[1] ** -0.5)).astype(dtype)


def _write_tokenizer(path: Path) -> None:
    """A token for each byte; real ones have merges too."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.save(str(path))
