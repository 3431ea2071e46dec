"""Checkpoints of decoders after Llama to ONNX: Llama, Mistral, Qwen2, Qwen3 and BitNet. Weights go to a file of their own, one after the
other, so that a model never has to fit into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from models.hub_checkpoint import Checkpoint, CheckpointError
from onnx import TensorProto, helper

KINDS = ("llama", "mistral", "qwen2", "qwen3", "bitnet")
OPSET = 23


class _Writer:
    """`w("Add", x, y)` writes a node and returns the name of its output; `constant` writes a tensor to the file of weights."""

    def __init__(self, data: Path) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self._data, self._file = data, open(data, "wb")  # noqa: SIM115

    def constant(self, name: str, array: np.ndarray) -> str:
        array = np.ascontiguousarray(array)
        tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self._data.name), ("offset", self._file.tell()), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        array.tofile(self._file)
        self.constants.append(tensor)
        return name

    def __call__(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = name or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}:0"], name=name, **attributes))
        return f"{name}:0"

    def close(self) -> None:
        self._file.close()


class _Model:
    """Nodes of a checkpoint."""

    def __init__(self, checkpoint: Checkpoint, w: _Writer, length: int) -> None:
        config = self.config = checkpoint.config
        self.checkpoint, self.w = checkpoint, w
        self.heads: int = config["num_attention_heads"]
        self.kv_heads: int = config.get("num_key_value_heads") or self.heads
        self.head: int = config.get("head_dim") or config["hidden_size"] // self.heads
        per_position, factor = rates(config, self.head)
        angles = np.arange(length)[:, None] * per_position
        self.tables = [w.constant(name, (factor * f(angles)).astype(np.float32)) for name, f in (("cos", np.cos), ("sin", np.sin))]

    def linear(self, x: str, name: str, weight: str | None = None) -> str:
        """A product, and its bias where there is one."""
        y = self.w("MatMul", x, self.w.constant(f"{name}.weight", self.checkpoint.matrix(weight or name).T), name=name)
        if f"{name}.bias" in self.checkpoint:
            y = self.w("Add", y, self.w.constant(f"{name}.bias", self.checkpoint.tensor(f"{name}.bias")))
        return y

    def norm(self, x: str, name: str) -> str:
        """Over the last axis; nothing where the checkpoint has none of that name."""
        if f"{name}.weight" not in self.checkpoint:
            return x
        gain = self.w.constant(f"{name}.weight", self.checkpoint.tensor(f"{name}.weight"))
        return self.w("RMSNormalization", x, gain, name=name, axis=-1, epsilon=float(self.config["rms_norm_eps"]))

    def heads_of(self, x: str, count: int, norm: str) -> str:
        """Queries or keys [batch, tokens, count * head], every head normalised where the model does, and turned by its position."""
        if f"{norm}.weight" in self.checkpoint:
            split = self.w("Reshape", x, self._shape(0, 0, count, self.head))
            x = self.w("Reshape", self.norm(split, norm), self._shape(0, 0, count * self.head))
        return self.w("RotaryEmbedding", x, *self.tables, "position_ids", num_heads=count)

    def _shape(self, *dims: int) -> str:
        return self.w("Constant", value_ints=list(dims))

    def layer(self, x: str, at: str) -> str:
        """Attention, then the gated product."""
        w, own = self.w, f"{at}.self_attn"
        normal = self.norm(x, f"{at}.input_layernorm")
        q, k, v = (self.linear(normal, f"{own}.{part}_proj") for part in "qkv")
        q, k = self.heads_of(q, self.heads, f"{own}.q_norm"), self.heads_of(k, self.kv_heads, f"{own}.k_norm")
        mixed = w("Attention", q, k, v, name=own, is_causal=1, q_num_heads=self.heads, kv_num_heads=self.kv_heads)
        x = w("Add", x, self.linear(self.norm(mixed, f"{own}.attn_sub_norm"), f"{own}.o_proj"))
        normal = self.norm(x, f"{at}.post_attention_layernorm")
        gate, up = (self.linear(normal, f"{at}.mlp.{part}_proj") for part in ("gate", "up"))
        hidden = w("Mul", self.activation(gate), up)
        return w("Add", x, self.linear(self.norm(hidden, f"{at}.mlp.ffn_sub_norm"), f"{at}.mlp.down_proj"))

    def activation(self, x: str) -> str:
        """SiLU, or ReLU squared."""
        kind = self.config.get("hidden_act", "silu")
        if kind == "silu":
            return self.w("Mul", x, self.w("Sigmoid", x))
        if kind == "relu2":
            positive = self.w("Relu", x)
            return self.w("Mul", positive, positive)
        raise CheckpointError(f"{self.checkpoint.folder}: hidden_act: needed silu or relu2, found {kind!r}")


def rates(config: dict[str, Any], head: int) -> tuple[np.ndarray, float]:
    """Angles per position of the pairs of a head, with the scaling of the configuration, and what cosine and sine are multiplied by."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = given.get("rope_theta") or config.get("rope_theta") or 10000.0
    found: np.ndarray = base ** (-np.arange(0, head, 2) / head)
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind == "linear":
        return found / given["factor"], 1.0
    if kind == "llama3":
        low, high, before = (given[name] for name in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings"))
        smooth = np.clip((before * found / (2 * np.pi) - low) / (high - low), 0, 1)
        return (1 - smooth) * found / given["factor"] + smooth * found, 1.0
    if kind == "yarn":
        return _yarn(found, given, base, given.get("original_max_position_embeddings") or config["max_position_embeddings"])
    if kind != "default":
        raise CheckpointError(
            f"config.json: rope scaling: needed default, linear, llama3 or yarn, found {kind!r}; export this model with torch.onnx"
        )
    return found, 1.0


def _yarn(plain: np.ndarray, given: dict[str, Any], base: float, before: int) -> tuple[np.ndarray, float]:
    """YaRN (arXiv 2309.00071): pairs that turn more than `beta_fast` times in `before` tokens keep their angles, those that turn less than
    `beta_slow` times have them divided by `factor`, and between there is a ramp; with `mscale` as checkpoints of DeepSeek have it."""
    count, factor, between = len(plain), given["factor"], (given.get("beta_fast") or 32, given.get("beta_slow") or 1)
    ends = (2 * count * np.log(before / (2 * np.pi * turns)) / (2 * np.log(base)) for turns in between)
    low, high = (round_(end) if given.get("truncate", True) else end for round_, end in zip((np.floor, np.ceil), ends, strict=True))
    low, high = max(low, 0), min(high, 2 * count - 1)
    ramp = np.clip((np.arange(count) - low) / (high - low or 0.001), 0, 1)

    def temperature(scale: float) -> float:
        return 0.1 * scale * float(np.log(factor)) + 1.0 if factor > 1 else 1.0

    some, all_ = given.get("mscale"), given.get("mscale_all_dim")
    usual = temperature(some) / temperature(all_) if some and all_ else temperature(1)
    return ramp * plain / factor + (1 - ramp) * plain, given.get("attention_factor") or usual


def export(checkpoint: Checkpoint, path: Path, length: int, layers: int | None = None) -> Path:
    """`path`, and the weights beside it as `path`.data: inputs `input_ids` and `position_ids` [batch, sequence], output `logits`. Positions
    go up to `length`; `layers` are fewer than the checkpoint has, to try what it costs."""
    config = checkpoint.config
    kind, window = config.get("model_type"), config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if kind not in KINDS:
        raise CheckpointError(
            f"{checkpoint.folder}: model_type: needed one of {', '.join(KINDS)}, found {kind!r}; export it with torch.onnx"
        )
    if window is not None and window < length:
        raise CheckpointError(f"{checkpoint.folder}: attention looks at a window of {window} tokens; export this model with torch.onnx")
    method = (config.get("quantization_config") or {}).get("quant_method", "bitnet")
    if method != "bitnet":
        raise CheckpointError(f"{checkpoint.folder}: quantization_config: needed weights as they are, or of bitnet, found {method!r}")
    count = layers or config.get("num_hidden_layers")
    if type(count) is not int or count < 1:
        raise CheckpointError(f"{checkpoint.folder}: layers: needed a whole number above 0, found {count!r}")
    checkpoint.check(count)
    w = _Writer(path.with_name(f"{path.name}.data"))
    try:
        model = _Model(checkpoint, w, length)
        embedding = checkpoint.tensor("model.embed_tokens.weight")
        x = w("Gather", w.constant("model.embed_tokens.weight", embedding), "input_ids", name="model.embed_tokens")
        for layer in range(count):
            x = model.layer(x, f"model.layers.{layer}")
        tied = config.get("tie_word_embeddings", "lm_head.weight" not in checkpoint)
        logits = model.linear(model.norm(x, "model.norm"), "lm_head", "model.embed_tokens" if tied else None)
    except KeyError as error:
        raise CheckpointError(f"{checkpoint.folder}: config.json: needed {error}, found none") from error
    finally:
        w.close()
    w.nodes[-1].output[0] = "logits"
    assert logits == "lm_head:0"
    ids = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in ("input_ids", "position_ids")]
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", len(embedding)])
    graph = helper.make_graph(w.nodes, checkpoint.folder.resolve().name, ids, [out], w.constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10, producer_name="hub_llm"), path)
    return path
