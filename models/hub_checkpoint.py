"""A language model as hubs have it: config.json, tokenizer.json, and weights in *.safetensors, read one tensor at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1", "I8": "i1"}
PACKED = 4
"""Ternary weights that lie in a byte, two bits each."""


class CheckpointError(Exception):
    """A file that is missing, or says what is not understood."""


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in a file."""

    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]


class Checkpoint:
    """Of a folder. Nothing but headers is read before a tensor is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, path = folder, folder / "config.json"
        if not path.is_file():
            raise CheckpointError(f"{folder}: needed a folder with config.json, tokenizer.json and *.safetensors, found no config.json")
        self.config = _read_object(path)
        self._places: dict[str, _Place] = {}
        for file in _files(folder):
            self._places.update(_header(file))
        if not self._places:
            raise CheckpointError(f"{folder}: needed weights in *.safetensors, found none; other formats have to be converted")

    def __contains__(self, name: str) -> bool:
        return name in self._places

    @property
    def parameters(self) -> int:
        """Numbers in all matrices and vectors, those that are packed one by one."""
        return sum(int(np.prod(p.shape)) * (PACKED if p.dtype == "U8" else 1) for p in self._places.values())

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, unpacked."""
        place = self._place(name)
        return (PACKED * place.shape[0], *place.shape[1:]) if place.dtype == "U8" else place.shape

    def check(self, layers: int) -> None:
        """Raise `CheckpointError` unless all tensors of so many layers are there, with the shapes that config.json says."""
        for name, shape in needed_tensors(self.config, layers).items():
            if self.shape(name) != shape:
                raise CheckpointError(
                    f"{self.folder}: tensor {name!r}: needed shape {list(shape)} by config.json, found {list(self.shape(name))}"
                )

    def _place(self, name: str) -> _Place:
        if name not in self._places:
            raise CheckpointError(f"{self.folder}: tensor {name!r} is missing")
        return self._places[name]

    def tensor(self, name: str) -> np.ndarray:
        """As float32, or the bytes of what is packed."""
        place = self._place(name)
        if place.dtype not in DTYPES:
            raise CheckpointError(f"{place.file}: tensor {name!r}: needed a type out of {', '.join(DTYPES)}, found {place.dtype}")
        found = np.memmap(place.file, DTYPES[place.dtype], "r", place.offset, place.shape or (1,))
        if place.dtype == "BF16":  # the upper half of a float32
            return (found.astype(np.uint32) << 16).view(np.float32)
        return np.asarray(found) if place.dtype == "U8" else found.astype(np.float32)

    def matrix(self, name: str) -> np.ndarray:
        """Weights [outputs, inputs] of a product. Ternary ones are unpacked, or rounded where the checkpoint wants that done on use."""
        weight, quantization = self.tensor(f"{name}.weight"), self.config.get("quantization_config") or {}
        if weight.dtype == np.uint8:
            scale = self.tensor(f"{name}.weight_scale").reshape(-1)[0]
            return unpacked(weight) * (scale if quantization.get("linear_class") == "autobitlinear" else 1 / scale)
        if quantization.get("quant_method") == "bitnet" and quantization.get("quantization_mode") == "online" and ".layers." in name:
            scale = max(float(np.abs(weight).mean()), 1e-5)
            return np.clip(np.rint(weight / scale), -1, 1).astype(np.float32) * np.float32(scale)
        return weight


def unpacked(packed: np.ndarray) -> np.ndarray:
    """Bytes [outputs / 4, inputs] as -1, 0 and 1 [outputs, inputs]: the lowest bits are the first quarter of the outputs."""
    return np.concatenate([(packed >> 2 * i) & 3 for i in range(PACKED)]).astype(np.float32) - 1


def needed_tensors(config: dict[str, Any], layers: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint of so many layers by name, but for scales of packed ones; matrices are [outputs, inputs]."""
    width, hidden, heads, words = (
        _size(config, name) for name in ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    )
    head = _size(config, "head_dim", width // heads)
    own, shared = heads * head, _size(config, "num_key_value_heads", heads) * head
    kind = config["model_type"]
    attention = {"q_proj": (own, width), "k_proj": (shared, width), "v_proj": (shared, width), "o_proj": (width, own)}
    parts: dict[str, tuple[int, ...]] = {f"self_attn.{name}.weight": shape for name, shape in attention.items()}
    parts |= {f"mlp.{name}_proj.weight": (hidden, width) for name in ("gate", "up")} | {"mlp.down_proj.weight": (width, hidden)}
    parts |= {f"{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
    parts |= {f"self_attn.{name}_norm.weight": (head,) for name in "qk"} if kind == "qwen3" else {}
    parts |= {"self_attn.attn_sub_norm.weight": (own,), "mlp.ffn_sub_norm.weight": (hidden,)} if kind == "bitnet" else {}
    biased = "qkvo" if config.get("attention_bias") else "qkv" if kind == "qwen2" else ""
    parts |= {f"self_attn.{name}_proj.bias": attention[f"{name}_proj"][:1] for name in biased}
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, width)}
    found |= {f"model.layers.{layer}.{name}": shape for layer in range(layers) for name, shape in parts.items()}
    found["model.norm.weight"] = (width,)
    return found | ({"lm_head.weight": (words, width)} if config.get("tie_word_embeddings") is False else {})


def _size(config: dict[str, Any], name: str, default: int | None = None) -> int:
    found = default if config.get(name) is None else config[name]
    if type(found) is not int or found < 1:
        raise CheckpointError(f"config.json: {name}: needed a whole number above 0, found {found!r}")
    return found


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: needed an object, found {type(found).__name__}")
    return found


def _files(folder: Path) -> list[Path]:
    """Those that an index names, where there are several; none of them may be missing."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    named = _read_object(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) and name == Path(name).name for name in named.values()):
        raise CheckpointError(f"{index}: weight_map: needed files of this folder by tensor")
    files = [folder / name for name in sorted({*named.values()})]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(f"{folder}: needed all files that {index.name} names, found no {', '.join(missing)}")
    return files


def _header(file: Path) -> dict[str, _Place]:
    """Eight bytes say how long the JSON is that says what lies behind it."""
    whole = file.stat().st_size
    try:
        with open(file, "rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            data = json.loads(handle.read(min(size, whole)))
        tensors = {name: one for name, one in data.items() if name != "__metadata__"}
        found = {name: _Place(file, 8 + size + one["data_offsets"][0], one["dtype"], tuple(one["shape"])) for name, one in tensors.items()}
        end = 8 + size + max((one["data_offsets"][1] for one in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: is no file of safetensors ({type(error).__name__})") from error
    if end > whole:
        raise CheckpointError(f"{file}: is cut off: needed {end:,} bytes, found {whole:,}")
    return found
