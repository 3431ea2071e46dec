"""Mixtures of experts in the spellings of exporters and frameworks: each is read as the router and the experts that it was made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import Builder
from onnx import TensorProto, helper
from running import check, run_model

from attnc.errors import ModelError, UnsupportedError
from attnc.frontend import _prepare as prepare
from attnc.frontend import import_model
from attnc.frontend.mixture import Mixture
from attnc.quant.samples import FloatModel

T, D, H, E, K = 6, 8, 12, 4, 2


@dataclass
class Parts:
    """What a mixture is made of; matrices are [E, outputs, inputs]."""

    up: np.ndarray
    down: np.ndarray
    gate: np.ndarray | None = None
    up_bias: np.ndarray | None = None
    down_bias: np.ndarray | None = None
    activation: str = "silu"


def parts(gated: bool = True, biased: bool = False, activation: str = "silu", e: int = E, seed: int = 0) -> Parts:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    bias = (draw(e, H), draw(e, D)) if biased else (None, None)
    return Parts(draw(e, H, D), draw(e, D, H), draw(e, H, D) if gated else None, *bias, activation)


def act(b: Builder, name: str, x: str) -> str:
    return str(b("Mul", x, b("Sigmoid", x)) if name == "silu" else b({"relu": "Relu"}[name], x))


# ---- routers: weights [T, K] and indices [T, K] of logits [T, E] ----


def softmax(b: Builder, logits: str, k: int = K) -> tuple[str, str]:
    weights, index = b("TopK", b("Softmax", logits, axis=-1), np.array([k]), outputs=2)
    return weights, index


def renormalised(b: Builder, logits: str, k: int = K) -> tuple[str, str]:
    weights, index = softmax(b, logits, k)
    return b("Div", weights, b("ReduceSum", weights, np.array([-1]))), index


def of_the_best(b: Builder, logits: str) -> tuple[str, str]:
    """Mixtral as it was published."""
    values, index = b("TopK", logits, np.array([K]), outputs=2)
    return b("Softmax", values, axis=-1), index


BIAS = np.array([0.3, -0.2, 0.1, 0.0, 0.25, -0.1, 0.0, 0.2], np.float32)


def deepseek_v3(b: Builder, logits: str, bias: np.ndarray = BIAS, left_out: float = -1e9) -> tuple[str, str]:
    scores = b("Sigmoid", logits)
    choice = b("Add", scores, bias)
    best, _ = b("TopK", b("Reshape", choice, np.array([T, 4, 2])), np.array([2]), outputs=2)
    _, groups = b("TopK", b("ReduceSum", best, np.array([-1]), keepdims=0), np.array([2]), outputs=2)
    kept = b("ScatterElements", np.zeros((T, 4), np.float32), groups, np.ones((T, 2), np.float32), axis=1)
    mask = b("Reshape", b("Expand", b("Unsqueeze", kept, np.array([2])), np.array([T, 4, 2])), np.array([T, 8]))
    _, index = b("TopK", b("Where", b("Greater", mask, 0.5), choice, left_out), np.array([K]), outputs=2)
    weights = b("GatherElements", scores, index, axis=1)
    return b("Mul", b("Div", weights, b("Add", b("ReduceSum", weights, np.array([-1])), 1e-20)), 2.5), index


def deepseek_v2(b: Builder, logits: str, kept_groups: int = 1) -> tuple[str, str]:
    scores = b("Softmax", logits, axis=-1)
    grouped = b("Reshape", scores, np.array([T, 4, 2]))
    _, groups = b("TopK", b("ReduceMax", grouped, np.array([-1]), keepdims=0), np.array([kept_groups]), outputs=2)
    kept = b("ScatterElements", np.zeros((T, 4), np.float32), groups, np.ones((T, kept_groups), np.float32), axis=1)
    masked = b("Reshape", b("Mul", grouped, b("Unsqueeze", kept, np.array([2]))), np.array([T, 8]))
    weights, index = b("TopK", masked, np.array([K]), outputs=2)
    return b("Mul", weights, 16.0), index


# ---- experts ----


def picked(b: Builder, x: str, p: Parts, weights: str, index: str) -> str:
    """Weights picked for every token: batched products."""
    e, k = p.up.shape[0], K
    flat = b("Reshape", index, np.array([-1]))
    rows = b("Reshape", b("Expand", b("Unsqueeze", x, np.array([1])), np.array([T, k, D])), np.array([T * k, D, 1]))
    assert p.gate is not None and e
    both = b("MatMul", b("Gather", np.concatenate([p.gate, p.up], 1), flat), rows)
    gate, up = b("Split", b("Squeeze", both, np.array([-1])), np.array([H, H]), axis=-1, outputs=2)
    hidden = b("Mul", act(b, p.activation, gate), up)
    made = b("Squeeze", b("MatMul", b("Gather", p.down, flat), b("Unsqueeze", hidden, np.array([-1]))), np.array([-1]))
    weighed = b("Mul", made, b("Reshape", weights, np.array([-1, 1])))
    return str(b("ReduceSum", b("Reshape", weighed, np.array([T, k, D])), np.array([1]), keepdims=0))


def expert(b: Builder, x: str, p: Parts, e: int) -> str:
    """One expert by matrices of its own, as Gemm or MatMul."""
    up = b("MatMul", x, p.up[e].T)
    up = up if p.up_bias is None else b("Add", up, p.up_bias[e])
    hidden = act(b, p.activation, up) if p.gate is None else b("Mul", act(b, p.activation, b("MatMul", x, p.gate[e].T)), up)
    bias = [] if p.down_bias is None else [p.down_bias[e]]
    return str(b("Gemm", hidden, p.down[e], *bias, transB=1))


def looped(b: Builder, x: str, p: Parts, weights: str, index: str) -> str:
    """A loop over all experts, each for the tokens that chose it."""
    total = b.constant(np.zeros((T, D), np.float32))
    chosen = b("Transpose", b("OneHot", index, np.array(p.up.shape[0]), np.array([0, 1])), perm=[2, 1, 0])
    for e in range(p.up.shape[0]):
        place, token = b("Split", b("NonZero", b("Gather", chosen, np.array(e))), np.array([1, 1]), axis=0, outputs=2)
        token, place = (b("Squeeze", one, np.array([0])) for one in (token, place))
        made = expert(b, b("Gather", x, token), p, e)
        both = b("Transpose", b("Concat", b("Unsqueeze", token, np.array([0])), b("Unsqueeze", place, np.array([0])), axis=0), perm=[1, 0])
        weight = b("Unsqueeze", b("GatherND", weights, both), np.array([1]))
        total = b("ScatterND", total, b("Unsqueeze", token, np.array([1])), b("Mul", made, weight), reduction="add")
    return str(total)


def spread(b: Builder, weights: str, index: str, e: int) -> str:
    """[T, E] with zeros for those that were not taken."""
    return str(b("ScatterElements", np.zeros((T, e), np.float32), index, weights, axis=1))


def dense(b: Builder, x: str, p: Parts, weights: str, index: str) -> str:
    """All experts for all tokens, stacked."""
    up = b("MatMul", x, p.up.swapaxes(1, 2))
    up = up if p.up_bias is None else b("Add", up, p.up_bias[:, None])
    hidden = act(b, p.activation, up) if p.gate is None else b("Mul", act(b, p.activation, b("MatMul", x, p.gate.swapaxes(1, 2))), up)
    made = b("MatMul", hidden, p.down.swapaxes(1, 2))
    made = made if p.down_bias is None else b("Add", made, p.down_bias[:, None])
    weight = b("Unsqueeze", b("Transpose", spread(b, weights, index, p.up.shape[0]), perm=[1, 0]), np.array([2]))
    return str(b("ReduceSum", b("Mul", made, weight), np.array([0]), keepdims=0))


def summed(b: Builder, x: str, p: Parts, weights: str, index: str) -> str:
    """All experts for all tokens, one after the other."""
    every = spread(b, weights, index, p.up.shape[0])
    terms = [b("Mul", expert(b, x, p, e), b("Slice", every, np.array([e]), np.array([e + 1]), np.array([1]))) for e in range(p.up.shape[0])]
    return str(b("Sum", *terms))


def dispatched(b: Builder, x: str, p: Parts, weights: str, index: str) -> str:
    """Products with masks bring tokens to experts and back, as on many chips."""
    every = spread(b, weights, index, p.up.shape[0])
    mask = b("Cast", b("Greater", every, 0.0), to=1)
    sent = b("Einsum", mask, x, equation="te,td->etd")
    assert p.gate is not None
    two = np.stack([p.gate, p.up], 2).reshape(p.up.shape[0], 2 * H, D)  # a row of the gate, a row of the other
    both = b("Einsum", sent, two, equation="etd,ehd->eth")
    gate, up = (b("Slice", both, np.array([i]), np.array([2 * H]), np.array([2]), np.array([2])) for i in range(2))
    made = b("Einsum", b("Mul", act(b, p.activation, gate), up), p.down, equation="eth,edh->etd")
    return str(b("Einsum", every, made, equation="te,etd->td"))


def build(
    path: Path,
    spelling: Callable[..., str],
    p: Parts,
    router: Callable[..., tuple[str, str]] = softmax,
    gate: Callable[[Builder, str], str] | None = None,
) -> Path:
    b = Builder()
    x = b("LayerNormalization", b.linear(b.input("x", [1, T, D]), D, D), np.ones(D), np.zeros(D))
    flat = b("Reshape", x, np.array([T, D]))
    logits = gate(b, flat) if gate else b("MatMul", flat, 2 * b.rng.standard_normal((D, p.up.shape[0])))
    y = spelling(b, flat, p, *router(b, logits))
    shared = b("MatMul", flat, b.rng.standard_normal((D, D)))
    return b.save(path / "m.onnx", b("Add", b("Reshape", b("Add", y, shared), np.array([1, T, D])), x))


def read(path: Path) -> Mixture:
    simplified, *_ = prepare(path, {})
    assert not simplified.refused
    (found,) = simplified.mixtures.values()
    return found


def same(found: Mixture, p: Parts) -> None:
    """The matrices are those of the file, but for a factor that the router may have in place of them."""
    for name in ("up", "down", "gate", "up_bias", "down_bias"):
        mine, theirs = getattr(p, name), getattr(found.experts, name)
        assert (mine is None) == (theirs is None), name
        assert mine is None or np.array_equal(mine, theirs), name
    assert found.experts.activation == p.activation


SPELLINGS: dict[str, tuple[Callable[..., str], Parts, bool]] = {
    "picked": (picked, parts(), False),
    "loop": (looped, parts(), False),
    "loop-biased": (looped, parts(gated=False, biased=True, activation="relu"), False),
    "dense": (dense, parts(), True),
    "dense-biased": (dense, parts(gated=False, biased=True), True),
    "summed": (summed, parts(gated=False, activation="relu"), True),
    "dispatched": (dispatched, parts(), False),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spelling(tmp_path: Path, name: str) -> None:
    spelling, p, all_computed = SPELLINGS[name]
    path = build(tmp_path, spelling, p)
    found = read(path)
    same(found, p)
    model = check(path, strict=True)
    one = sum(matrix[0].size for matrix in (p.up, p.down, p.gate) if matrix is not None)
    assert [(made.taken, made.whole) for made in model.made_sparse] == ([(T * K * one, T * E * one)] if all_computed else [])
    assert {place.where for place in model.placements} <= {"device", "folded"}
    assert all(place.where == "device" for place in model.placements if place.operator in ("TopK", "Softmax"))
    router = found.router
    assert (router.k, router.score, router.renormalise, router.scale) == (K, "softmax", False, 1.0)
    assert found.dense == all_computed


V3 = {"score": "sigmoid", "renormalise": True, "scale": 2.5, "groups": 4, "kept_groups": 2, "group_best": 2}
ROUTERS: dict[str, tuple[Callable[..., tuple[str, str]], dict[str, Any]]] = {
    "softmax": (softmax, {}),
    "switch": (lambda b, logits: softmax(b, logits, 1), {"k": 1}),
    "renormalised": (renormalised, {"renormalise": True}),
    "of-the-best": (of_the_best, {"renormalise": True}),
    "deepseek-v2": (deepseek_v2, {"scale": 16.0, "groups": 4, "kept_groups": 1, "group_best": 1}),
    "groups-that-leave-nothing-out": (lambda b, logits: deepseek_v2(b, logits, 2), {"scale": 16.0}),
    "deepseek-v3": (deepseek_v3, V3 | {"selection_bias": BIAS, "left_out": -math.inf}),
    "deepseek-v3-of-old": (  # zeros are more than what is not left out
        lambda b, logits: deepseek_v3(b, logits, BIAS - 1, 0.0),
        V3 | {"selection_bias": BIAS - 1, "left_out": 0.0},
    ),
}


@pytest.mark.parametrize("name", ROUTERS)
def test_router(tmp_path: Path, name: str) -> None:
    router, wanted = ROUTERS[name]
    p = parts(e=8 if "deepseek" in name or "groups" in name else E)
    found = read(build(tmp_path, dense, p, router)).router
    expected = {"k": K, "score": "softmax", "renormalise": False, "scale": 1.0, "groups": 1, "selection_bias": None, **wanted}
    for key, value in expected.items():
        assert np.array_equal(getattr(found, key), value) if key == "selection_bias" else getattr(found, key) == value, key


def test_a_threshold_chooses_as_well(tmp_path: Path) -> None:
    """A softmax of what is not below the second largest: no index is used."""

    def router(b: Builder, logits: str) -> tuple[str, str]:
        values, _ = b("TopK", logits, np.array([K]), outputs=2)
        least = b("Slice", values, np.array([K - 1]), np.array([K]), np.array([1]))
        return b("Softmax", b("Where", b("GreaterOrEqual", logits, least), logits, -np.inf), axis=-1), ""

    def weighed(b: Builder, x: str, p: Parts, weights: str, index: str) -> str:
        terms = [b("Mul", expert(b, x, p, e), b("Gather", weights, np.array([e]), axis=1)) for e in range(E)]
        return str(b("Sum", *terms))

    p = parts()
    found = read(build(tmp_path, weighed, p, router))
    same(found, p)
    assert found.router.renormalise and found.router.k == K and found.dense


def weights_by_task(b: Builder, x: str, task: str) -> str:
    return str(b("MatMul", x, b("Squeeze", b("Gather", b.random(3, D, E), task), np.array([0]))))


def weights_by_task_of_each_sample(b: Builder, x: str, task: str) -> str:
    return str(b("MatMul", x, b("Squeeze", b("GatherND", b.random(3, D, E), b("Unsqueeze", task, np.array([1]))), np.array([0]))))


def transposed_weights_by_task(b: Builder, x: str, task: str) -> str:
    return str(b("Gemm", x, b("Transpose", b("Gather", b.random(3, E, D), b("Squeeze", task)), perm=[1, 0]), b.random(E)))


def logits_by_task(b: Builder, x: str, task: str) -> str:
    gates = [b("Unsqueeze", b.linear(x, D, E), np.array([0])) for _ in range(3)]
    return str(b("Squeeze", b("Gather", b("Concat", *gates, axis=0), task), np.array([0])))


def where_by_task(b: Builder, x: str, task: str) -> str:
    return str(b("Where", b("Equal", task, np.array([0])), b.linear(x, D, E), b.linear(x, D, E)))


@pytest.mark.parametrize(
    "choose", [weights_by_task, weights_by_task_of_each_sample, transposed_weights_by_task, logits_by_task, where_by_task]
)
def test_a_gate_for_each_task(tmp_path: Path, choose: Callable[[Builder, str, str], str]) -> None:
    """An input chooses one of the gates: that is before the logits, and no matter of the mixture."""
    path = build(tmp_path, dense, parts(), softmax, lambda b, x: choose(b, x, b.input("task", [1], TensorProto.INT64)))
    same(read(path), parts())
    for task in (0, 1, -1):
        model = check(path, task=np.array([task]))
    assert [node.op for node in model.graph.nodes].count("top_experts") == 1 and model.trailing is None


# ---- what cannot be read ----


def reason(path: Path) -> str:
    simplified, *_ = prepare(path, {})
    assert not simplified.mixtures
    (found,) = simplified.refused.values()
    return found


def test_a_router_that_is_not_known(tmp_path: Path) -> None:
    def squared(b: Builder, logits: str) -> tuple[str, str]:
        weights, index = softmax(b, logits)
        return b("Mul", weights, weights), index

    for spelling in (dense, looped, picked):
        path = build(tmp_path, spelling, parts(), squared)
        assert "this router is not read: needed the largest of softmax or sigmoid" in reason(path)
        with pytest.raises(UnsupportedError, match="this router is not read") as caught:
            import_model(path)
        assert caught.value.operator == "TopK" and not caught.value.others  # one error for all of it


def test_experts_that_are_not_known(tmp_path: Path) -> None:
    def odd(b: Builder, x: str, p: Parts, weights: str, index: str) -> str:
        return dense(b, b("Sin", x), p, weights, index)

    assert "4 experts behind it are not read: needed down(f(up(x)))" in reason(build(tmp_path, odd, parts()))


def test_a_loop_over_fewer_experts_than_there_are(tmp_path: Path) -> None:
    def fewer(b: Builder, x: str, p: Parts, weights: str, index: str) -> str:
        return looped(b, x, Parts(p.up[:3], p.down[:3], p.gate), weights, index)

    assert "chooses among 4 experts, of which 3 are computed" in reason(build(tmp_path, fewer, parts()))


def test_nan_in_a_weight(tmp_path: Path) -> None:
    p = parts()
    p.down[1, 2, 3] = np.nan
    with pytest.raises(ModelError, match=r"holds NaN, the first at \[1, 3, 2\]"):
        prepare(build(tmp_path, dense, p), {})


def test_more_experts_for_a_token_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="needed a fixed number of 1 to 4 experts for each token, found 5"):
        import_model(build(tmp_path, dense, parts(), lambda b, logits: softmax(b, logits, E + 1)))


# ---- onnxruntime's own operators ----


def operator(path: Path, op: str, operands: list[Any], own_weights: bool = False, alone: bool = False, **attributes: Any) -> Path:
    """A model of one; the operands behind x and logits."""
    b = Builder()
    d = 32 if op == "QMoE" else D
    x = b("LayerNormalization", b.linear(b.input("x", [1, T, D]), D, d), np.ones(d), np.zeros(d))
    logits = b("MatMul", b("Reshape", x, np.array([T, d])), 2 * b.rng.standard_normal((d, E)) / np.sqrt(d))
    if own_weights:  # as DeepSeek V3 chooses
        scores = b("Sigmoid", logits)
        operands = [*operands, *[""] * (12 - len(operands)), scores]
        logits = b("Add", scores, BIAS[:E])
    y = b(op, x, logits, *operands, domain="com.microsoft", k=K, **attributes)
    y = y if alone else b("Add", x, y)
    model = b.model(b("Reshape", b.linear(y, d, 3), np.array([-1, 3])))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(model.graph.output[0].name, TensorProto.FLOAT, [None, None]))
    onnx.save(model, path / "m.onnx")
    return path / "m.onnx"


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_operator(tmp_path: Path, activation: str) -> None:
    p = parts(gated=False, biased=True, activation=activation)
    path = operator(tmp_path, "MoE", [p.up, p.up_bias, p.down, p.down_bias], activation_type=activation)
    found = read(path)
    same(found, p)
    check(path, strict=True)
    assert not found.router.renormalise and not found.dense


def test_operator_with_alternating_gates(tmp_path: Path) -> None:
    p = parts()
    assert p.gate is not None
    both = np.stack([p.gate, p.up], 2).reshape(E, 2 * H, D)
    attributes = {"activation_type": "swiglu", "swiglu_fusion": 1, "normalize_routing_weights": 1}
    found = read(operator(tmp_path, "MoE", [both, "", p.down], **attributes))
    same(found, p)
    assert found.router.renormalise


def test_swiglu_with_numbers_of_its_own_is_refused(tmp_path: Path) -> None:
    p = parts()
    path = operator(tmp_path, "MoE", [p.up, "", p.down], activation_type="swiglu", swiglu_fusion=1, activation_alpha=1.702)
    with pytest.raises(UnsupportedError, match=r"activation_alpha 1\.702"):
        import_model(path)


def test_operator_that_overwrites_what_it_reads(tmp_path: Path) -> None:
    """onnxruntime does so where nobody else reads the tokens; what everything is measured against must not."""
    p = parts(gated=False, biased=True)
    path = operator(tmp_path, "MoE", [p.up, p.up_bias, p.down, p.down_bias], alone=True, activation_type="silu")
    sample = {"x": np.random.default_rng(1).standard_normal((1, T, D)).astype(np.float32)}
    ((name, found),) = run_model(import_model(path), sample).items()
    original = FloatModel(onnx.load(path))(sample)
    assert list(original) == [name] and np.abs(original[name] - found).max() < 1e-5


def packed(rng: np.random.Generator, n: int, k: int, bits: int, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bytes, scales and what they mean."""
    q = rng.integers(0, 1 << bits, (E, n, k))
    scale = rng.uniform(0.5, 1, (E, n, k // block) if block else (E, n)).astype(np.float32) * np.float32(2.0 / (1 << bits))
    flat = (q[..., None] >> np.arange(bits) & 1).reshape(E, n, -1).astype(np.uint8)
    real = (q - (1 << (bits - 1))) * (np.repeat(scale, block, 2) if block else scale[..., None])
    return np.packbits(flat, axis=-1, bitorder="little"), scale, real.astype(np.float32)


@pytest.mark.parametrize(("bits", "block", "own"), [(4, 0, False), (8, 0, True), (4, 16, False)])
def test_operator_on_integers(tmp_path: Path, bits: int, block: int, own: bool) -> None:
    """Weights are those of the file to the bit, and its integers are known."""
    rng, d, h = np.random.default_rng(0), 32, 16
    (up, up_scale, real_up), (down, down_scale, real_down) = (packed(rng, *shape, bits, block) for shape in ((2 * h, d), (d, h)))
    bias = rng.standard_normal((E, 2 * h)).astype(np.float32)
    attributes = {"activation_type": "swiglu", "swiglu_fusion": 1, "expert_weight_bits": bits, **({"block_size": block} if block else {})}
    path = operator(tmp_path, "QMoE", [up, up_scale, bias, down, down_scale], own, **attributes)
    simplified, _, _, quantized = prepare(path, {})
    (found,) = simplified.mixtures.values()
    assert np.array_equal(found.experts.gate, real_up[:, ::2]) and np.array_equal(found.experts.up, real_up[:, 1::2])
    assert np.array_equal(found.experts.down, real_down) and np.array_equal(found.experts.gate_bias, bias[:, ::2])
    assert quantized is not None and [c.bits for c in quantized.constants.values()] == [bits] * 3
    assert found.router.renormalise != own and (found.router.score == "sigmoid") == own and (found.router.selection_bias is not None) == own
    model = check(path, strict=True)
    assert model.quantized is not None
    experts = [node for node in model.graph.nodes if node.op == "experts"]
    assert not model.quantized.changed
    sizes = [block if node.params["weight"].shape[2] > block else 0 for node in experts]  # a row of the last product is one block
    for node, size in zip(experts, sizes, strict=True):
        steps = node.params["weight_unit"][..., None] * node.params["weight_multiplier"]
        again = node.params["weight_q"] * (np.repeat(steps, size, axis=-1) if size else steps)
        assert node.attrs["lossless"] and node.attrs["group_size"] == size and node.attrs["weights"] == f"int{bits}"
        assert np.abs(again - node.params["weight"]).max() < (2.0**-8 * np.abs(node.params["weight"]).max() if size else 1e-6)


def test_experts_that_arrive_quantized(tmp_path: Path) -> None:
    """Weights in QDQ form keep their integers; pairs between the products of an expert are left out, and the report says so."""
    rng = np.random.default_rng(0)
    q = {name: rng.integers(-127, 128, shape).astype(np.int8) for name, shape in (("up", (E, D, H)), ("down", (E, H, D)))}
    scale = np.float32(1 / 256)

    def pair(b: Builder, x: str, step: float) -> str:
        operands = (np.float32(step), np.array(0, np.int8))
        return str(b("DequantizeLinear", b("QuantizeLinear", x, *operands), *operands))

    def quantized(b: Builder, x: str, p: Parts, weights: str, index: str) -> str:
        up, down = (b("DequantizeLinear", q[name], scale, np.array(0, np.int8)) for name in ("up", "down"))
        hidden = pair(b, b("Relu", b("MatMul", pair(b, x, 0.05), up)), 0.05)
        weight = b("Unsqueeze", b("Transpose", spread(b, weights, index, E), perm=[1, 0]), np.array([2]))
        return str(b("ReduceSum", b("Mul", b("MatMul", hidden, down), weight), np.array([0]), keepdims=0))

    model = import_model(build(tmp_path, quantized, parts()))
    experts = [node for node in model.graph.nodes if node.op == "experts"]
    for node, name in zip(experts, ("up", "down"), strict=True):
        assert np.array_equal(node.params["weight_q"], q[name].swapaxes(1, 2)) and np.allclose(node.params["weight_unit"], scale)
    assert model.quantized is not None and list(model.quantized.passed.values()) == 2 * [
        "inside a mixture of experts: the device keeps it in its own type"
    ]
