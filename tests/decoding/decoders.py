"""Small decoders as ONNX files: random weights, tokens of any number in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VOCABULARY, WIDTH, HEADS, KV_HEADS, LAYERS = 48, 32, 4, 2, 2
HEAD = WIDTH // HEADS


def write_decoder(
    path: Path,
    past: bool = False,
    mask: bool = False,
    positions: bool = False,
    vocabulary: int = VOCABULARY,
    windows: Sequence[int] = (),
    slopes: Sequence[float] = (),
    rotary: bool = False,
    **attention: float,
) -> Path:
    """A decoder with grouped queries. With `past`, keys and values come in and go out; with `mask` there is an input for it, which the
    model does not need; with `positions` every position adds a row of its own. `windows`: how many tokens the first layers look at;
    `slopes`: of each head, by which scores fall with the distance of a key; `rotary`: queries and keys are turned by their positions.
    `attention` are attributes of its operator."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {}

    def weight(name: str, *shape: int, scale: float | None = None) -> str:
        weights[name] = (rng.standard_normal(shape) * (scale or shape[0] ** -0.5)).astype(np.float32)
        return name

    def node(op: str, inputs: list[str], *outputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, list(outputs), name=outputs[0], **attributes))
        return outputs[0]

    def product(x: str, name: str, rows: int, columns: int) -> str:
        return node("MatMul", [x, weight(f"{name}.weight", rows, columns)], name)

    x = node("Gather", [weight("tokens", vocabulary, WIDTH, scale=1.0), "input_ids"], "embedded")
    if positions:
        weights["table"] = rng.standard_normal((64, WIDTH)).astype(np.float32)
        x = node("Add", [x, node("Gather", ["table", "position_ids"], "places")], "placed")
    if windows or slopes or rotary:
        weights |= {"zero": np.array(0), "one": np.array(1), "row": np.array([0]), "column": np.array([1])}
        count = node("Gather", [node("Shape", ["input_ids"], "shape"), "one"], "count", axis=0)
        places = node("Range", ["zero", count, "one"], "range")
        queries, keys = (node("Unsqueeze", [places, axis], f"{axis}s") for axis in ("column", "row"))
        back = node("Sub", [queries, keys], "back")
    if rotary:
        angles = np.arange(128)[:, None] * 100.0 ** (-np.arange(HEAD // 2) / HEAD)
        weights |= {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}
    if slopes:
        weights |= {"slopes": -np.array(slopes, np.float32)[:, None, None], "never": np.array(-np.inf, np.float32)}
        falling = node("Mul", ["slopes", node("Cast", [back], "distance", to=TensorProto.FLOAT)], "falling")
    ends, starts = [], []
    for layer in range(LAYERS):
        at = f"layer{layer}"
        weights[f"{at}.gain"] = np.ones(WIDTH, np.float32)
        normal = node("RMSNormalization", [x, f"{at}.gain"], f"{at}.norm", axis=-1, epsilon=1e-5)
        q, k, v = (
            product(normal, f"{at}.{name}", WIDTH, columns)
            for name, columns in (("q", WIDTH), ("k", KV_HEADS * HEAD), ("v", KV_HEADS * HEAD))
        )
        if rotary:
            q, k = (
                node("RotaryEmbedding", [x, "cos", "sin", keys], f"{x}.turned", num_heads=heads, interleaved=1)
                for x, heads in ((q, HEADS), (k, KV_HEADS))
            )
        names = [f"past_key_values.{layer}.{kind}" for kind in ("key", "value")] if past else []
        outputs = [f"present.{layer}.{kind}" for kind in ("key", "value")] if past else []
        starts, ends = [*starts, *names], [*ends, *outputs]
        limit = falling if slopes else ""
        if layer < len(windows):
            weights[f"{at}.window"] = np.array(windows[layer])
            near = node("Less", [back, f"{at}.window"], f"{at}.near")
            limit = node("Where", [near, falling, "never"], f"{at}.limited") if slopes else near
        given = [q, k, v, *([limit, *names] if past or limit else [])]
        options = {"is_causal": 1, "q_num_heads": HEADS, "kv_num_heads": KV_HEADS, **attention}
        mixed = node("Attention", given, f"{at}.attention", *outputs, **options)
        x = node("Add", [x, product(mixed, f"{at}.out", WIDTH, WIDTH)], f"{at}.sum")
        hidden = node("Relu", [product(x, f"{at}.up", WIDTH, 2 * WIDTH)], f"{at}.relu")
        x = node("Add", [x, product(hidden, f"{at}.down", 2 * WIDTH, WIDTH)], f"{at}.y")
    product(x, "logits", WIDTH, vocabulary)
    cache = ["batch", KV_HEADS, "past", HEAD]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])]
    if mask:
        inputs.append(helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "sequence"]))
    if positions:
        inputs.append(helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["batch", "sequence"]))
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, cache) for name in starts]
    outputs_ = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", vocabulary])]
    outputs_ += [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", KV_HEADS, "total", HEAD]) for name in ends]
    graph = helper.make_graph(nodes, "decoder", inputs, outputs_, [numpy_helper.from_array(a, n) for n, a in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), path)
    return path
