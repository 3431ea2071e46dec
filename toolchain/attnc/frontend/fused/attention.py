"""Attention with its projections, masks, caches and rotations in one operator: Attention, MultiHeadAttention, GroupQueryAttention."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from attnc.frontend.fused.rotary import rotate
from attnc.frontend.fused.spelling import Spelling


@dataclass
class Scores:
    """What happens to the products of queries and keys besides their scale; a bias broadcasts to [B, heads, T, Tk]."""

    biases: tuple[str, ...] = ()
    seen: np.ndarray | None = None
    """[T, Tk]: which keys a query may see by position; None: all."""
    cap: float = 0.0


def attention(s: Spelling) -> None:
    """Attention: projections of one input side by side, masks by key, a past of keys and values in one tensor."""
    s.without((6, "length of a past that shares its memory"))
    if s.attribute("do_rotary", 0):
        s.refuse("do_rotary is not supported in Attention, but RotaryEmbedding before it is")
    x, weight, bias, mask, past, added = (s.given(index) for index in range(6))
    heads, width = int(s.attribute("num_heads", 0)), s.shape(weight)[-1]
    sizes = [int(size) for size in s.attribute("qkv_hidden_sizes", [])] or [width // 3] * 3
    product = s.sum(s("MatMul", x, weight), bias)
    ends = np.cumsum([0, *sizes]).tolist()
    q, k, v = (split_heads(s, s.slice(product, a, b, 2), heads) for a, b in itertools.pairwise(ends))
    before = s.shape(past)[3] if past else 0
    if before:
        halves = [s("Squeeze", s.slice(past, index, index + 1, 0), np.array([0])) for index in (0, 1)]
        k, v = s("Concat", halves[0], k, axis=2), s("Concat", halves[1], v, axis=2)
    tokens = s.shape(x)[1]
    keys = before + tokens
    causal = _seen(tokens, keys) if s.attribute("unidirectional", 0) else None
    scores = Scores(tuple(filter(None, (key_mask(s, mask, keys), added))), causal)
    s.result(0, merge_heads(s, attend(s, q, k, v, sizes[0] // heads, scores), sizes[2]))
    if s.wanted(1):
        s.result(1, s("Concat", *(s("Unsqueeze", part, np.array([0])) for part in (k, v)), axis=0))


def multi_head_attention(s: Spelling) -> None:
    """MultiHeadAttention: queries, keys and values apart, with biases, masks by key and a past."""
    s.without((8, "length of a past that shares its memory"), (9, "cache of a beam search"))
    query, key, value, bias, mask, added, past_key, past_value = (s.given(index) for index in range(8))
    heads = int(s.attribute("num_heads", 0))
    q, k, v = _operands(s, (query, key, value), bias, heads)
    tokens, keys = s.shape(query)[1], s.shape(key)[-2]
    values = s.shape(value)[-1] * (heads if len(s.shape(value)) == 4 else 1)
    if past_key and s.shape(past_key)[2]:
        keys += s.shape(past_key)[2]
        k, v = s("Concat", past_key, k, axis=2), s("Concat", past_value, v, axis=2)
    causal = _seen(tokens, keys) if s.attribute("unidirectional", 0) else None
    scores = Scores(tuple(filter(None, (key_mask(s, mask, keys), added))), causal)
    s.result(0, merge_heads(s, attend(s, q, k, v, s.shape(query)[2] // heads, scores), values))
    s.result(1, k)
    s.result(2, v)


def _operands(s: Spelling, given: tuple[str, str, str], bias: str, heads: int) -> list[str]:
    """Queries, keys and values as [B, heads, T, D]; each is [B, T, C], with its part of the bias, or has heads in front already."""
    if not all(given) or any(len(s.shape(name)) == 5 for name in given):
        s.refuse("packed projections are for GPUs alone, onnxruntime on a CPU has nothing to measure against; optimize without use_gpu")
    parts, start = [], 0
    for name in given:
        if len(s.shape(name)) == 4:
            parts.append(name)
            continue
        width = s.shape(name)[2]
        own = s.sum(name, s.slice(bias, start, start + width, 0)) if bias else name
        start += width
        parts.append(split_heads(s, own, heads))
    return parts


def group_query_attention(s: Spelling) -> None:
    """GroupQueryAttention: causal, several heads of queries for one of keys, rotated in the operator if it says so. `seqlens_k` is the
    last key that is no padding; a past is as long as what it holds, so that the new keys begin behind it."""
    s.without((11, "sinks of attention"), (12, "scale of a quantized cache"), (13, "scale of a quantized cache"))
    if s.attribute("smooth_softmax", 0):
        s.refuse("smooth_softmax is not supported")
    heads, groups = int(s.attribute("num_heads", 0)), int(s.attribute("kv_num_heads", 0))
    q, k, v, size = _grouped(s, heads, groups)
    tokens = s.shape(s.given(0))[1]
    past = s.shape(s.given(3))[2] if s.given(3) else 0
    if s.attribute("do_rotary", 0):
        positions = s.given(9) or s.constant(np.arange(past, past + tokens)[None])
        angles = s("Gather", s.given(7), positions), s("Gather", s.given(8), positions)
        dims, interleaved = 2 * s.shape(s.given(7))[-1], bool(s.attribute("rotary_interleaved", 0))
        q, k = (rotate(s, x, size, angles, dims, interleaved) for x in (q, k))
    if past:
        k, v = s("Concat", s.given(3), k, axis=2), s("Concat", s.given(4), v, axis=2)
    seen = _seen(tokens, past + tokens)
    window = int(s.attribute("local_window_size", -1))
    if window > 0:
        seen &= np.arange(past + tokens) > np.arange(past, past + tokens)[:, None] - window
    last = s("Reshape", s("Cast", s.given(5), to=TensorProto.INT64), np.array([-1, 1, 1, 1]))
    padded = s("Where", s("LessOrEqual", np.arange(past + tokens).reshape(1, 1, 1, -1), last), 0.0, -np.inf)
    biases = (padded, s.given(10)) if s.given(10) else (padded,)
    shared = heads // groups
    wide_k, wide_v = (_repeated(s, x, (groups, shared, past + tokens, size)) if shared > 1 else x for x in (k, v))
    made = attend(s, q, wide_k, wide_v, size, Scores(biases, seen, float(s.attribute("softcap", 0.0))))
    s.result(0, merge_heads(s, made, heads * size))
    s.result(1, k)
    s.result(2, v)


def _grouped(s: Spelling, heads: int, groups: int) -> tuple[str, str, str, int]:
    """Queries [B, heads, T, D], keys and values [B, groups, T, D], and D."""
    query, key, value = (s.given(index) for index in range(3))
    width = s.shape(query)[2]
    if key:
        size = width // heads
        parts = [query, key, value]
    else:
        size = width // (heads + 2 * groups)
        ends = np.cumsum([0, heads * size, groups * size, groups * size]).tolist()
        parts = [s.slice(query, a, b, 2) for a, b in itertools.pairwise(ends)]
    q, k, v = (split_heads(s, part, count) for part, count in zip(parts, (heads, groups, groups), strict=True))
    return q, k, v, size


def _repeated(s: Spelling, x: str, shape: tuple[int, int, int, int]) -> str:
    """Each head for those that share it."""
    groups, shared, tokens, size = shape
    wide = s("Expand", s("Unsqueeze", x, np.array([2])), np.array([1, groups, shared, tokens, size]))
    return s("Reshape", wide, np.array([0, groups * shared, tokens, size]))


# ---- what they share ----


def split_heads(s: Spelling, x: str, heads: int) -> str:
    """[B, T, C] as [B, heads, T, D]."""
    return s("Transpose", s("Reshape", x, np.array([0, 0, heads, -1])), perm=[0, 2, 1, 3])


def merge_heads(s: Spelling, x: str, width: int) -> str:
    """[B, heads, T, D] as [B, T, C]."""
    return s("Reshape", s("Transpose", x, perm=[0, 2, 1, 3]), np.array([0, 0, width]))


def _seen(tokens: int, keys: int) -> np.ndarray:
    """Up to itself, where the last query is beside the last key."""
    return np.arange(keys) <= np.arange(keys - tokens, keys)[:, None]


def attend(s: Spelling, q: str, k: str, v: str, size: int, scores: Scores) -> str:
    """Softmax of the scaled and biased products, times the values."""
    scale = float(s.attribute("scale", 0.0)) or 1 / math.sqrt(size)
    made = s("Mul", s("MatMul", q, s("Transpose", k, perm=[0, 1, 3, 2])), scale)
    if scores.cap:
        made = s("Mul", s("Tanh", s("Mul", made, 1 / scores.cap)), scores.cap)
    for bias in scores.biases:
        made = s("Add", made, bias)
    if scores.seen is not None and not scores.seen.all():
        made = s("Add", made, np.where(scores.seen, 0, -np.inf).astype(np.float32))
    return s("MatMul", s("Softmax", made, axis=-1), v)


def key_mask(s: Spelling, mask: str, keys: int) -> str:
    """A mask as a bias: 1 where a key counts ([B, Tk], [B, T, Tk], or with heads), or where keys end ([B], [2 B] with starts behind)."""
    if not mask:
        return ""
    shape = s.shape(mask)
    if len(shape) == 1:
        kept = _kept(s, mask, keys)
    else:
        whole = s("Cast", mask, to=TensorProto.INT32)
        kept = s("Greater", whole, np.array(0, np.int32))
        axes = {2: [1, 2], 3: [1]}.get(len(shape), [])
        kept = s("Unsqueeze", kept, np.array(axes)) if axes else kept
    return s("Where", kept, 0.0, float(s.attribute("mask_filter_value", -10000.0)))


def _kept(s: Spelling, ends: str, keys: int) -> str:
    """[B, 1, 1, Tk]: keys before the end, and from the start on where starts are given too."""
    (count,) = s.shape(ends)
    if count > 2:
        s.refuse(f"a mask of {count} numbers, as for packed samples or batches; needed one end of keys, or an end and a start")
    where = np.arange(keys).reshape(1, 1, 1, keys)
    end, start = (s("Cast", s.slice(ends, index, index + 1, 0), to=TensorProto.INT64) if index < count else "" for index in (0, 1))
    before = s("Less", where, end)
    return s("And", before, s("GreaterOrEqual", where, start)) if start else before
