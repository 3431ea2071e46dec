"""A decoder as the builder of onnxruntime-genai writes it: attention with cache, rotation and padding in one operator, packed projections.

Written from the weights of the `llama` family, since that tool is no dependency of this project; the past has a length of its own, which
is 0 in a prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from models.file_kinds import Kind, Source
from models.small import HEAD, HEADS, LAYERS, TOKENS
from onnx import ModelProto, TensorProto, helper, numpy_helper

GROUPS = 2
PAST = (1, GROUPS, 0, HEAD)
MICROSOFT = {"domain": "com.microsoft"}
PASTS = [f"past_key_values.{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]


class _Writer:
    """`w("Add", x, y)` writes a node and returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, array: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def __call__(self, op: str, *inputs: str, outputs: list[str] | None = None, **attributes: Any) -> str:
        outputs = outputs or [f"{op}_{len(self.nodes)}_out"]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=f"{op}_{len(self.nodes)}", **attributes))
        return outputs[0]


def builder(source: Source, path: Path) -> None:
    """The whole model."""
    import torch
    from models.families import FAMILIES
    from models.family import randomize

    torch.manual_seed(0)
    model: Any = FAMILIES[source.model].model().eval()
    randomize(model)
    weights = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    w, config = _Writer(), model.config
    last, total = _lengths(w)
    angles = np.arange(config.max_position_embeddings)[:, None] / 10000.0 ** (np.arange(0, HEAD, 2) / HEAD)
    caches = w.constant("cos_cache", np.cos(angles).astype(np.float32)), w.constant("sin_cache", np.sin(angles).astype(np.float32))
    epsilon = {"epsilon": config.rms_norm_eps}
    stream = w("Gather", w.constant("embedding", weights["model.embed_tokens.weight"]), "input_ids")
    x = ""
    for layer in range(LAYERS):
        own = {key.removeprefix(f"model.layers.{layer}."): value for key, value in weights.items() if f".layers.{layer}." in key}
        gains = [w.constant(f"gain_{layer}_{key}", own[f"{key}_layernorm.weight"]) for key in ("input", "post_attention")]
        if not layer:
            x = w("SimplifiedLayerNormalization", stream, gains[0], axis=-1, **epsilon)
        packed = np.concatenate([own[f"self_attn.{part}_proj.weight"] for part in "qkv"]).T
        qkv = w("MatMul", x, w.constant(f"qkv_{layer}", packed))
        operands = [qkv, "", "", *PASTS[2 * layer : 2 * layer + 2], last, total, *caches]
        outputs = [f"attention_{layer}", *(f"present.{layer}.{part}" for part in ("key", "value"))]
        heads = {"num_heads": HEADS, "kv_num_heads": GROUPS, "do_rotary": 1, "scale": HEAD**-0.5}
        attended = w("GroupQueryAttention", *operands, outputs=outputs, **heads, **MICROSOFT)
        projected = w("MatMul", attended, w.constant(f"o_{layer}", own["self_attn.o_proj.weight"].T))
        x, stream = _skip(w, stream, projected, gains[1], epsilon)
        gate, up = (w("MatMul", x, w.constant(f"{part}_{layer}", own[f"mlp.{part}_proj.weight"].T)) for part in ("gate", "up"))
        product = w("Mul", w("Mul", gate, w("Sigmoid", gate)), up)
        down = w("MatMul", product, w.constant(f"down_{layer}", own["mlp.down_proj.weight"].T))
        following = f"model.layers.{layer + 1}.input_layernorm.weight" if layer + 1 < LAYERS else "model.norm.weight"
        x, stream = _skip(w, stream, down, w.constant(f"gain_{layer}_next", weights[following]), epsilon)
    w("MatMul", x, w.constant("lm_head", weights["lm_head.weight"].T), outputs=["logits"])
    path.write_bytes(_model(w, config.vocab_size).SerializeToString())
    source.write_samples(path, **dict.fromkeys(PASTS, np.zeros(PAST, np.float32)))


def _lengths(w: _Writer) -> tuple[str, str]:
    """The last key that is no padding [B], and how many keys there are."""
    one = w.constant("one", np.array([1]))
    last = w("Cast", w("Sub", w("ReduceSum", "attention_mask", one, keepdims=0), one), to=TensorProto.INT32)
    count = w("Gather", w("Shape", "attention_mask"), w.constant("axis", np.array(1)), axis=0)
    return last, w("Cast", count, to=TensorProto.INT32)


def _skip(w: _Writer, stream: str, added: str, gain: str, epsilon: dict[str, float]) -> tuple[str, str]:
    """The normalised sum, and the sum."""
    outputs = [f"{added}_normal", "", "", f"{added}_sum"]
    return w("SkipSimplifiedLayerNormalization", stream, added, gain, outputs=outputs, **epsilon, **MICROSOFT), outputs[3]


def _model(w: _Writer, vocabulary: int) -> ModelProto:
    ints = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"])]
    ints += [helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"])]
    past, present = (["batch_size", GROUPS, f"{word}_sequence_length", HEAD] for word in ("past", "total"))
    inputs = [*ints, *(helper.make_tensor_value_info(name, TensorProto.FLOAT, past) for name in PASTS)]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch_size", "sequence_length", vocabulary])]
    presents = [name.replace("past_key_values", "present") for name in PASTS]
    outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, present) for name in presents]
    graph = helper.make_graph(w.nodes, "main_graph", inputs, outputs, w.constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="onnxruntime-genai")


SHAPES = {"input_ids": (1, TOKENS), "attention_mask": (1, TOKENS), **dict.fromkeys(PASTS, PAST)}
KINDS = [Kind("genai", builder, ("llama",), "torchscript", options={"shapes": SHAPES})]
