"""onnxruntime's own operators, one at a time: what is understood, in float, against onnxruntime running the operator itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import Builder, C, T
from onnx import TensorProto
from onnxruntime.quantization import quantize_dynamic
from running import check

from attnc.errors import UnsupportedError
from attnc.frontend import import_model, inspect_model

H, D, E = 2, 4, 16
MICROSOFT = {"domain": "com.microsoft"}
INT = TensorProto.INT32


def tokens(b: Builder, width: int = C) -> str:
    """A projection of the input."""
    return b.linear(b.input("x", [1, T, C]), C, width)


def out(b: Builder, y: str, width: int = C, *more: str) -> list[str]:
    """A projection, and others as they are; all as matrices, since ONNX infers no shape behind a fused operator."""
    return [b("Reshape", b.linear(y, width, 3), np.array([-1, 3])), *(b("Reshape", name, np.array([-1, D])) for name in more)]


def save(b: Builder, path: Path, outputs: list[str]) -> Path:
    model = b.model(*outputs)
    for value in model.graph.output:
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [None, None]))
    onnx.save(model, path)
    return path


def pointwise(op: str, *widths: int, **attributes: Any) -> Callable[[Builder], list[str]]:
    """A function of a projection, and constants of these widths."""
    return lambda b: out(b, b(op, tokens(b), *(b.random(width) for width in widths), **MICROSOFT, **attributes))


def matmul(op: str, turned: bool, **attributes: Any) -> Callable[[Builder], list[str]]:
    def build(b: Builder) -> list[str]:
        x = tokens(b)
        weight = b.random(7, C) if turned else b.random(C, 7)
        return out(b, b(op, x, weight, **MICROSOFT, **attributes), 7)

    return build


def gemm(activation: str, **attributes: Any) -> Callable[[Builder], list[str]]:
    def build(b: Builder) -> list[str]:
        x = b("Reshape", tokens(b), np.array([T, C]))
        return out(b, b("FusedGemm", x, b.random(C, C), b.random(C), activation=activation, **MICROSOFT, **attributes))

    return build


def conv(b: Builder) -> list[str]:
    x = b.input("x", [1, 3, 8, 8])
    made = b("FusedConv", x, b.random(C, 3, 4, 4), b.random(C), strides=[4, 4], activation="Relu", **MICROSOFT)
    return out(b, b("Transpose", b("Reshape", made, np.array([1, C, 4])), perm=[0, 2, 1]))


def normalization(
    op: str, skip: bool, beta: bool, bias: bool, total: int = 0, domain: str = "com.microsoft"
) -> Callable[[Builder], list[str]]:
    def build(b: Builder) -> list[str]:
        x = tokens(b)
        operands: list[Any] = [x, *([b.linear(x, C, C)] if skip else []), b.random(C)]
        operands += [b.random(C)] if beta else [""] if "Simplified" not in op and bias else []
        operands += [b.random(C)] if bias else []
        made = b(op, *operands, outputs=1 + total, epsilon=1e-5, domain=domain)
        return out(b, b("Add", b.linear(made[0], C, C), made[3]) if total else made)

    return build


def embeddings(*, segments: bool, mask: bool, positions: bool) -> Callable[[Builder], list[str]]:
    def build(b: Builder) -> list[str]:
        ids = b.input("ids", [1, T], INT)
        operands: list[Any] = [ids, b.input("type", [1, T], INT) if segments else "", b.random(30, C), b.random(9, C)]
        operands += [b.random(2, C) if segments else "", b.random(C), b.random(C), b.input("mask", [1, T], INT) if mask else ""]
        operands += [b.constant(np.arange(T, dtype=np.int32)[None] + 2)] if positions else []
        made, ends = b("EmbedLayerNormalization", *operands, outputs=2, epsilon=1e-12, **MICROSOFT)
        weight, bias = b.random(C, 3 * C), b.random(3 * C)
        return out(b, b("Attention", made, weight, bias, ends if mask else "", num_heads=H, **MICROSOFT))

    return build


def rotary(*, flat: bool, first: bool, host: bool = False, pairs: int = D // 2, **attributes: Any) -> Callable[[Builder], list[str]]:
    def build(b: Builder) -> list[str]:
        angle = np.arange(32)[:, None] * 0.3 / np.arange(1, pairs + 1)
        x = tokens(b)
        split = x if flat else b("Transpose", b("Reshape", x, np.array([1, T, H, D])), perm=[0, 2, 1, 3])
        where = b.constant(np.array([3])) if first else b.constant(np.array([[0, 2, 1, 5, 4]]))
        where = b.input("positions", [1, T], TensorProto.INT64) if host else where
        made = b("RotaryEmbedding", split, where, np.cos(angle), np.sin(angle), **MICROSOFT, **attributes)
        return out(b, made if flat else b("Reshape", b("Transpose", made, perm=[0, 2, 1, 3]), np.array([1, T, C])))

    return build


def mask_of(b: Builder, form: str) -> str:
    """A mask of keys: ends of samples, starts behind them, by key, or by query and key."""
    if form == "ends":
        return b("ReduceSum", b.input("mask", [1, T], INT), np.array([1]), keepdims=0)
    if form == "starts":
        return str(b.constant(np.array([4, 1], np.int32)))
    shape = {"keys": [1, T], "queries": [1, T, T]}.get(form)
    return b.input("mask", shape, INT) if shape else ""


def attention(
    mask: str = "", added: bool = False, present: bool = False, sizes: tuple[int, ...] = (), **attributes: Any
) -> Callable[[Builder], list[str]]:
    def build(b: Builder) -> list[str]:
        x = tokens(b)
        width = sum(sizes) if sizes else 3 * C
        past = b.input("past", [2, 1, H, "past", D]) if present else ""
        operands = [x, b.random(C, width), b.random(width), mask_of(b, mask), past, b.random(1, H, T, T) if added else ""]
        more = {"qkv_hidden_sizes": list(sizes)} if sizes else {}
        made = b("Attention", *operands, outputs=1 + present, num_heads=H, **more, **MICROSOFT, **attributes)
        return out(b, made[0], C, made[1]) if present else out(b, made, sizes[2] if sizes else C)

    return build


def multi_head(
    mask: str = "", bias: bool = True, added: bool = False, cross: str = "", past: int = -1, **attributes: Any
) -> Callable[[Builder], list[str]]:
    def build(b: Builder) -> list[str]:
        x = tokens(b)
        q, (k, v) = b.linear(x, C, C), (b.linear(x, C, C) for _ in range(2))
        if cross == "heads":
            k, v = (b("Transpose", b("Reshape", y, np.array([1, T, H, D])), perm=[0, 2, 1, 3]) for y in (k, v))
        before = [b.input(name, [1, H, "past", D]) for name in ("past_key", "past_value")] if past >= 0 else []
        operands = [
            q,
            k,
            v,
            b.random(3 * C) if bias else "",
            mask_of(b, mask),
            b.random(1, 1, T, T + max(past, 0)) if added else "",
            *before,
        ]
        made = b("MultiHeadAttention", *operands, outputs=3 if before else 1, num_heads=H, **MICROSOFT, **attributes)
        return out(b, made[0], C, *made[1:]) if before else out(b, made)

    return build


def grouped(
    *, padded: bool = False, packed: bool = False, rotate: bool = False, added: bool = False, past: int = -1, **attributes: Any
) -> Callable[[Builder], list[str]]:
    def build(b: Builder) -> list[str]:
        x = tokens(b)
        keys = T + max(past, 0)
        apart = [b.linear(x, C, width) for width in (4 * E, 2 * E, 2 * E)]
        operands = [b.linear(x, C, 8 * E), "", ""] if packed else apart
        operands += [b.input(name, [1, 2, "past", E]) if past >= 0 else "" for name in ("past_key", "past_value")]
        last = b("Sub", mask_of(b, "ends"), np.array([1], np.int32)) if padded else b.constant(np.array([keys - 1], np.int32))
        operands += [last, b.constant(np.array(keys, np.int32))]
        angle = np.arange(32)[:, None] * 0.3 / np.arange(1, E // 2 + 1)
        operands += [np.cos(angle), np.sin(angle)] if rotate else ["", ""]
        operands += ["", b.random(1, 1, T, T)] if added else []
        more = {"num_heads": 4, "kv_num_heads": 2, "do_rotary": int(rotate)}
        made = b("GroupQueryAttention", *operands, outputs=3, **more, **MICROSOFT, **attributes)
        return out(b, made[0], 4 * E, *(made[1:] if past >= 0 else []))

    return build


CASES: dict[str, Callable[[Builder], list[str]]] = {
    "Gelu": pointwise("Gelu"), "BiasGelu": pointwise("BiasGelu", C), "FastGelu": pointwise("FastGelu"),
    "FastGelu_bias": pointwise("FastGelu", C), "QuickGelu": pointwise("QuickGelu"), "QuickGelu_silu": pointwise("QuickGelu", alpha=1.0),
    "FusedMatMul": matmul("FusedMatMul", True, transB=1, alpha=0.25), "FusedMatMul_plain": matmul("FusedMatMul", False),
    "TransposeMatMul": matmul("TransposeMatMul", True, transB=1),
    **{f"FusedGemm_{name}": gemm(name) for name in ("Relu", "Tanh", "Sigmoid")},
    "FusedGemm_LeakyRelu": gemm("LeakyRelu", activation_alpha=0.2, transB=1, alpha=0.5), "FusedConv": conv,
    "SkipLayerNormalization": normalization("SkipLayerNormalization", True, True, False),
    "SkipLayerNormalization_bias": normalization("SkipLayerNormalization", True, True, True),
    "SkipLayerNormalization_no_beta": normalization("SkipLayerNormalization", True, False, True),
    "SkipLayerNormalization_sum": normalization("SkipLayerNormalization", True, True, True, total=3),
    "SkipSimplified": normalization("SkipSimplifiedLayerNormalization", True, False, False),
    "SkipSimplified_sum": normalization("SkipSimplifiedLayerNormalization", True, False, True, total=3),
    "Simplified": normalization("SimplifiedLayerNormalization", False, False, False, domain=""),
    "LayerNormalization_early": normalization("LayerNormalization", False, True, False, domain=""),
    "Embed": embeddings(segments=True, mask=True, positions=False), "Embed_plain": embeddings(segments=False, mask=False, positions=False),
    "Embed_positions": embeddings(segments=True, mask=True, positions=True),
    "Rotary": rotary(flat=True, first=False), "Rotary_heads": rotary(flat=False, first=True),
    "Rotary_interleaved": rotary(flat=True, first=False, interleaved=1), "Rotary_host": rotary(flat=True, first=False, host=True),
    "Rotary_part": rotary(flat=False, first=False, pairs=1, num_heads=H, rotary_embedding_dim=2),
    **{f"Attention_{form}": attention(form) for form in ("", "ends", "starts", "keys", "queries")},
    "Attention_causal": attention("keys", unidirectional=1), "Attention_added": attention(added=True, scale=0.3),
    "Attention_filter": attention("keys", mask_filter_value=-1e30), "Attention_sizes": attention(sizes=(8, 8, 12)),
    "Attention_present": attention(present=True, unidirectional=1),
    **{f"MultiHead_{form}": multi_head(form) for form in ("", "ends", "keys", "queries")},
    "MultiHead_causal": multi_head(bias=False, unidirectional=1), "MultiHead_added": multi_head("keys", added=True, scale=0.4),
    "MultiHead_heads": multi_head(bias=False, cross="heads"), "MultiHead_empty_past": multi_head(past=0, bias=False),
    "GroupQuery": grouped(), "GroupQuery_packed": grouped(packed=True), "GroupQuery_rotary": grouped(rotate=True),
    "GroupQuery_interleaved": grouped(rotate=True, packed=True, rotary_interleaved=1), "GroupQuery_cap": grouped(softcap=2.0, scale=0.7),
    "GroupQuery_window": grouped(local_window_size=2), "GroupQuery_added": grouped(added=True),
    "GroupQuery_padded": grouped(padded=True), "GroupQuery_past": grouped(past=0),
    "Attention_past_3": attention(present=True, unidirectional=1), "MultiHead_past_3": multi_head(past=3, bias=False, unidirectional=1),
    "GroupQuery_past_3": grouped(past=3, rotate=True),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operator(tmp_path: Path, name: str) -> None:
    b = Builder(16 if "Simplified" in name or "early" in name else 17)
    path = save(b, tmp_path / "model.onnx", CASES[name](b))
    given = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in b.inputs}
    inputs = {"mask": np.array([[1, 1, 1, 1, 0]], np.int32)} if given.get("mask") == [1, T] else {}
    past = 3 if name.endswith("past_3") else 0
    pasts = {key: tuple(size or past for size in shape) for key, shape in given.items() if "past" in key}
    assert check(
        path, pasts, **inputs, **{key: b.rng.standard_normal(shape).astype(np.float32) for key, shape in pasts.items()}
    ).graph.nodes


def test_one_message_names_all_operators_that_are_refused(tmp_path: Path) -> None:
    """Two reasons of three nodes, as `inspect` has them."""
    b = Builder(17)
    x = tokens(b)
    sinks = {"num_heads": H, "kv_num_heads": H, "smooth_softmax": 1, **MICROSOFT}
    for name in "gh":
        x = b(
            "GroupQueryAttention",
            x,
            x,
            x,
            "",
            "",
            b.constant(np.array([T - 1], np.int32)),
            b.constant(np.array(T, np.int32)),
            name=name,
            **sinks,
        )
    path = save(b, tmp_path / "m.onnx", out(b, b("MurmurHash3", x, name="m", **MICROSOFT)))
    with pytest.raises(UnsupportedError) as caught:
        import_model(path)
    lines = str(caught.value).splitlines()
    refused, advice = lines[0].split("; ")
    assert refused == "nodes 'g', 'h' (com.microsoft.GroupQueryAttention): smooth_softmax is not supported" and "before" in advice
    assert lines[1].startswith("node 'm' (com.microsoft.MurmurHash3): this operator of onnxruntime is not read") and len(lines) == 2
    assert {place.node for place in inspect_model(path) if place.where == "unsupported"} == {"g", "h", "m"}


def optimize(plain: Path, path: Path, level: str) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    ort.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])


def test_convolutions_in_blocks(tmp_path: Path) -> None:
    """The first reads channels that are in no blocks; the last has channels that do not fill one."""
    b = Builder(17)
    x = b("Relu", b("Conv", b.input("x", [1, 3, 8, 8]), b.random(32, 3, 2, 2), b.random(32), strides=[2, 2]))
    x = b("Relu", b("Conv", x, b.random(32, 32, 1, 1), b.random(32)))
    x = b("Conv", x, b.random(12, 32, 2, 2), b.random(12), strides=[2, 2])
    y = out(b, b("Transpose", b("Reshape", x, np.array([1, 12, 4])), perm=[0, 2, 1]), 12)
    optimize(save(b, tmp_path / "plain.onnx", y), tmp_path / "m.onnx", "ORT_ENABLE_ALL")
    check(tmp_path / "m.onnx")


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_what_a_session_writes(tmp_path: Path, opset: int) -> None:
    """A block of a transformer after extended optimization: normalisations that its opset does not have, under ONNX's own domain."""
    b = Builder(opset)
    x = tokens(b)
    centred = b("Sub", x, b("ReduceMean", x, axes=[-1]))
    deviation = b("Sqrt", b("Add", b("ReduceMean", b("Pow", centred, 2.0), axes=[-1]), 1e-5))
    y = b("Add", b("Mul", b("Div", centred, deviation), b.random(C)), b.random(C))
    q, k, v = (b("Transpose", b("Reshape", b.linear(y, C, C), np.array([1, T, H, D])), perm=[0, 2, 1, 3]) for _ in range(3))
    scores = b("Mul", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), 0.5)
    made = b("Transpose", b("MatMul", b("Softmax", scores, axis=3), v), perm=[0, 2, 1, 3])
    z = b.linear(b("Reshape", made, np.array([1, T, C])), C, C)
    plain, path = save(b, tmp_path / "plain.onnx", out(b, b("Mul", z, b("Sigmoid", b("Mul", z, 1.702))))), tmp_path / "m.onnx"
    optimize(plain, path, "ORT_ENABLE_EXTENDED")
    assert {node.op_type for node in onnx.load(path).graph.node} >= {"LayerNormalization", "FusedMatMul", "QuickGelu"}
    found = [node.op for node in check(path).graph.nodes]
    assert found == ["linear", "layer_normalization", *["linear"] * 3, "attention", "linear", "unary", "linear"]


def test_fused_operators_on_integers(tmp_path: Path) -> None:
    """QEmbedLayerNormalization and QAttention of dynamic quantization: the file's numbers, but for how activations are rounded."""
    b = Builder(17)
    plain = save(b, tmp_path / "plain.onnx", CASES["Embed"](b))
    logging.disable(logging.WARNING)
    quantize_dynamic(plain, tmp_path / "m.onnx", extra_options={"DefaultTensorType": TensorProto.FLOAT})
    logging.disable(logging.NOTSET)
    assert {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node} >= {"QAttention", "QEmbedLayerNormalization"}
    check(tmp_path / "m.onnx", tolerance=0.03, mask=np.array([[1, 1, 1, 1, 0]], np.int32))
