"""Random ONNX graphs: each grows by throws of dice, a few operators at a time, out of the spellings that exporters use.

The dice say what a graph is made of, a seed what its arrays hold. Dice that hypothesis throws make graphs that it can shrink; seeded ones
make the same graph again, which is a prefix of what they would give with more steps, so that one that fails shrinks by taking fewer. All
tensors are [1, rows, channels]; sizes are small, and seldom multiples of what the hardware works on at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

OPSET = 23
ROWS = (1, 2, 3, 5, 7, 8, 11, 16, 19, 26)
MOST_ROWS, MOST_CHANNELS = 30, 64
CHANNELS = (1, 3, 4, 5, 8, 12, 16, 16, 20, 24, 31, 40)
HEADS = ((1, 1), (2, 2), (2, 1), (3, 3), (4, 2), (3, 1))
"""Heads of queries, heads of keys and values."""
HEAD_SIZES = (2, 3, 4, 5, 7, 8, 8, 10, 12, 16)
FUNCTIONS: dict[str, dict[str, Any]] = {
    "Relu": {}, "Sigmoid": {}, "Tanh": {}, "Gelu": {}, "HardSwish": {}, "HardSigmoid": {"alpha": 0.3}, "Elu": {"alpha": 0.7}, "Mish": {},
    "LeakyRelu": {"alpha": 0.2}, "Softplus": {}, "Selu": {}, "Erf": {}, "Softsign": {}, "Celu": {}, "Exp": {}, "Neg": {}, "Abs": {},
}  # fmt: skip


@dataclass(frozen=True)
class Input:
    """An input of the model: `kind` is "real" (normal numbers), "mask" (1: a key that counts, int64) or "bias" (0 or -10000)."""

    name: str
    shape: tuple[int, ...]
    kind: str = "real"

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """An array for one sample."""
        if self.kind == "real":
            return (rng.normal(size=self.shape) * rng.choice([0.3, 1.0, 1.0, 3.0])).astype(np.float32)
        mask = rng.random(self.shape) < 0.7
        mask[..., 0] = True
        return mask.astype(np.int64) if self.kind == "mask" else np.where(mask, 0, -10000).astype(np.float32)

    @property
    def info(self) -> ValueInfoProto:
        """As ONNX declares it."""
        return helper.make_tensor_value_info(self.name, TensorProto.INT64 if self.kind == "mask" else TensorProto.FLOAT, self.shape)


@dataclass(frozen=True)
class Style:
    """What graphs of one build have in common: tiles of more channels need heads that have them, and weights that share a scale in groups
    need inputs that the groups divide."""

    channels: tuple[int, ...] = CHANNELS
    head_sizes: tuple[int, ...] = HEAD_SIZES
    turned: tuple[int, ...] = tuple(size for size in HEAD_SIZES if size % 2 == 0)
    """Sizes of heads with rotary embeddings."""
    narrow: bool = True
    """Whether channels may be joined and cut, or convolved."""

    @classmethod
    def of(cls, lanes: int, group_size: int) -> Style:
        """For a number of lanes, or fewer, and groups of weights."""
        heads = {2: HEAD_SIZES, 4: HEAD_SIZES, 8: (3, 5, 7, 8, 8, 16, 24), 16: (9, 15, 16, 16, 32)}[lanes]
        turned = tuple(size for size in heads if size % (2 * lanes) == 0) or (2 * lanes,)
        channels = (1, 3, 5, 8, 16, 20, 31, 32, 64) if group_size else CHANNELS
        return cls(channels, heads, turned, not group_size and lanes <= 4)


@dataclass
class Tensor:
    """A tensor [1, rows, channels]."""

    name: str
    rows: int
    channels: int


@dataclass
class Growth:
    """A graph that grows. Names of all its tensors and nodes start with `prefix`. Without dice they are those of the seed."""

    seed: int
    style: Style = Style()
    prefix: str = ""
    dice: Random | None = None
    nodes: list[NodeProto] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.dice = self.dice or Random(self.seed)

    # ---- nodes ----

    def constant(self, array: Any) -> str:
        """An initializer; float64 becomes float32."""
        array = np.asarray(array)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        self.initializers.append(numpy_helper.from_array(array, f"{self.prefix}c{len(self.initializers)}"))
        return self.initializers[-1].name

    def __call__(self, op: str, *inputs: Any, **attributes: Any) -> str:
        """A node with one output; arrays become initializers."""
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        name = f"{self.prefix}t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [name], name=f"{name}_{op}_", **attributes))  # onnxruntime's own end in _ReduceMax
        return name

    def input(self, shape: tuple[int, ...], kind: str = "real") -> str:
        """A new input of the model."""
        self.inputs.append(Input(f"{self.prefix}x{len(self.inputs)}", shape, kind))
        return self.inputs[-1].name

    def keep(self, name: str, rows: int, channels: int) -> Tensor:
        """A tensor that later steps may read."""
        self.values.append(Tensor(name, rows, channels))
        return self.values[-1]

    # ---- choices ----

    def chance(self, share: float) -> bool:
        return self.throw(100) < 100 * share

    def choose(self, *options: Any) -> Any:
        return options[self.throw(len(options))]

    def throw(self, count: int) -> int:
        """A number below `count`."""
        assert self.dice is not None
        return self.dice.randrange(count)

    def pick(self, rows: int | None = None, channels: int | None = None) -> Tensor:
        """A tensor, mostly a recent one."""
        fits = [v for v in self.values if rows in (None, v.rows) and channels in (None, v.channels)]
        back = self.choose(*[0] * 15, *[1] * 6, *[2] * 3, 3)
        return fits[-1 - min(back, len(fits) - 1)]

    def weight(self, k: int, n: int) -> np.ndarray:
        """[k, n]: plain, with an outlying row or column, ternary, of one sign (sums saturate), or with a column of zeros."""
        plain = self.rng.normal(size=(k, n)) / np.sqrt(k)
        kind = self.choose("plain", "plain", "plain", "row", "column", "ternary", "sign", "zeros")
        if kind == "row":
            plain[self.rng.integers(k)] *= 30
        elif kind == "column":
            plain[:, self.rng.integers(n)] *= 30
        elif kind == "ternary":
            plain = self.rng.integers(-1, 2, (k, n)) * 0.37
        elif kind == "sign":
            plain = np.abs(plain)
        elif kind == "zeros":
            plain[:, self.rng.integers(n)] = 0
        return plain

    def linear(self, x: Tensor, n: int) -> Tensor:
        """A product with a constant matrix, mostly with a bias."""
        y = self("MatMul", x.name, self.weight(x.channels, n))
        if self.chance(0.8):
            bias = self.rng.normal(size=n) * self.choose(0.1, 1.0)
            y = self("Add", y, bias) if self.chance(0.7) else self("Add", bias, y)
        return Tensor(y, x.rows, n)

    # ---- steps ----

    def grow(self, kinds: Sequence[str]) -> None:
        """One step of one of these kinds."""
        kind = self.choose(*(kind for kind in kinds if self.style.narrow or kind not in NARROW))
        self.steps.append(kind)
        getattr(self, f"grow_{kind}")()

    def grow_linear(self) -> None:
        x = self.pick()
        y = self.linear(x, self.choose(*self.style.channels))
        self.keep(y.name, y.rows, y.channels)

    def grow_function(self) -> None:
        x = self.pick()
        kind = self.choose(*FUNCTIONS, "SiLU", "Gelu erf", "Clip", "square")
        if kind == "SiLU":
            y = self("Mul", x.name, self("Sigmoid", x.name))
        elif kind == "Gelu erf":
            inner = self("Add", self("Erf", self("Div", x.name, np.array(2**0.5))), np.array(1.0))
            y = self("Mul", self("Mul", x.name, inner), np.array(0.5))
        elif kind == "Clip":
            y = self("Clip", x.name, np.array(-0.8), np.array(1.3))
        elif kind in ("square"):
            y = self("Pow", x.name, np.array(2.0 if kind == "square" else 3.0))
        else:
            y = self(kind, x.name, **FUNCTIONS[kind])
        self.keep(y, x.rows, x.channels)

    def grow_normalization(self) -> None:
        x = self.pick()
        gamma, beta = self.rng.normal(1, 0.5, x.channels), self.rng.normal(size=x.channels)
        kind = self.choose("layer", "layer", "bare", "rms", "rms spelled", "length")
        if kind in ("layer", "bare"):
            y = self("LayerNormalization", x.name, gamma, *([beta] if kind == "layer" else []), axis=-1, epsilon=1e-5)
        elif kind == "rms":
            y = self("RMSNormalization", x.name, gamma, axis=-1, epsilon=1e-5)
        elif kind == "rms spelled":
            mean = self("ReduceMean", self("Mul", x.name, x.name), np.array([-1]))
            y = self("Mul", self("Div", x.name, self("Sqrt", self("Add", mean, np.array(1e-5)))), gamma)
        else:
            length = self("Max", self("ReduceL2", x.name, np.array([-1])), np.array(1e-6))
            y = self("Div", x.name, length)
        self.keep(y, x.rows, x.channels)

    def grow_elementwise(self) -> None:
        a = self.pick()
        b = self.pick(a.rows, a.channels)
        y = self(self.choose("Add", "Add", "Mul", *(["Add", "Sub"] if a is not b else [])), a.name, b.name)
        self.keep(y, a.rows, a.channels)

    def grow_constant(self) -> None:
        """An operand that is a constant: for every element, or a row for all."""
        a = self.pick()
        shape = self.choose((1, a.rows, a.channels), (a.channels,), (1, 1, a.channels), (1,))
        operands = [a.name, self.constant(self.rng.normal(size=shape))]
        op = self.choose("Add", "Mul")
        y = self(op, *(operands if self.chance(0.7) else operands[::-1]))
        self.keep(y, a.rows, a.channels)

    def grow_gate(self) -> None:
        """A gated MLP."""
        x, n = self.pick(), self.choose(*self.style.channels)
        gate, up = self.linear(x, n), self.linear(x, n)
        opened = self("Mul", gate.name, self("Sigmoid", gate.name)) if self.chance(0.6) else self("Gelu", gate.name)
        y = self.linear(Tensor(self("Mul", opened, up.name), x.rows, n), x.channels)
        self.keep(self("Add", y.name, x.name) if self.chance(0.6) else y.name, x.rows, x.channels)

    def grow_block(self) -> None:
        """Norm, two products, residual sum: the MLP of a transformer, so that chains close on a value that is used twice."""
        x, n = self.pick(), self.choose(*self.style.channels)
        gamma, beta = self.rng.normal(1, 0.3, x.channels), self.rng.normal(size=x.channels)
        normal = Tensor(self("LayerNormalization", x.name, gamma, beta, axis=-1), x.rows, x.channels)
        hidden = self.linear(normal, n)
        y = self.linear(Tensor(self(self.choose("Gelu", "Relu", "Tanh"), hidden.name), x.rows, n), x.channels)
        self.keep(self("Add", x.name, y.name), x.rows, x.channels)

    def grow_softmax(self) -> None:
        x = self.pick()
        self.keep(self("Softmax", x.name, axis=-1), x.rows, x.channels)

    def grow_attention(self) -> None:
        """Self or cross attention, spelled out or as the operator, with masks and rotary embeddings; then a projection."""
        x, (heads, shared) = self.pick(), self.choose(*HEADS)
        turn = self.choose("", "", "half", "operator half", "operator interleaved")
        size = self.choose(*(self.style.turned if turn else self.style.head_sizes))
        source = self.pick() if self.chance(0.3) else x
        value = size if self.chance(0.8) else self.choose(*self.style.head_sizes)
        q = self.heads(x, heads, size)
        k, v = self.heads(source, shared, size), self.heads(source, shared, value)
        if turn:
            q, k = self.rotary(turn, q, x.rows, size), self.rotary(turn, k, source.rows, size)
        operands = (q, k, v, x.rows, source.rows, heads // shared)
        y = self.attention_operator(*operands) if self.chance(0.4) else self.attention_spelled(*operands, shared, (size, value))
        merged = self("Reshape", self("Transpose", y, perm=[0, 2, 1, 3]), np.array([1, x.rows, heads * value]))
        made = Tensor(merged, x.rows, heads * value)
        if self.chance(0.7):
            made = self.linear(made, x.channels)
            made = Tensor(self("Add", made.name, x.name), x.rows, x.channels) if self.chance(0.6) else made
        self.keep(made.name, made.rows, made.channels)

    def grow_windows(self) -> None:
        """Attention inside groups of rows."""
        x, size, heads = self.pick(), self.choose(*self.style.head_sizes), self.choose(1, 2, 3)
        groups = self.choose(*(n for n in (1, 2, 3, 4, 5, 8) if x.rows % n == 0))
        q, k, v = (self.heads(x, heads, size, groups) for _ in range(3))
        scores = self("Mul", self("MatMul", q, self("Transpose", k, perm=[0, 1, 3, 2])), np.array(size**-0.5))
        mask = self.constant(self.rng.normal(size=(heads, x.rows // groups, x.rows // groups))) if self.chance(0.4) else None
        y = self("MatMul", self("Softmax", self("Add", scores, mask) if mask else scores, axis=-1), v)
        merged = self("Reshape", self("Transpose", y, perm=[0, 2, 1, 3]), np.array([1, x.rows, heads * size]))
        self.keep(merged, x.rows, heads * size)

    def heads(self, x: Tensor, count: int, size: int, groups: int = 1) -> str:
        """[groups, count, rows, size] of a projection, or of the tensor itself where it has the channels."""
        flat = x.name if x.channels == count * size and self.chance(0.5) else self.linear(x, count * size).name
        split = self("Reshape", flat, np.array([groups, x.rows // groups, count, size]))
        if self.chance(0.15):
            norm = self.choose("LayerNormalization", "RMSNormalization")
            split = self(norm, split, self.rng.normal(1, 0.3, size), axis=-1, epsilon=1e-4)
        return self("Transpose", split, perm=[0, 2, 1, 3])

    def rotary(self, kind: str, x: str, rows: int, size: int) -> str:
        """Half-split or interleaved, as ONNX's operator or spelled out."""
        angles = (np.arange(rows)[:, None] + 1) * 0.7 ** np.arange(size // 2)
        if kind != "half":
            cos, sin = np.cos(angles)[None], np.sin(angles)[None]
            return self("RotaryEmbedding", x, cos, sin, interleaved=int(kind == "operator interleaved"))
        whole = np.concatenate([angles, angles], axis=-1)
        halves = [self("Slice", x, np.array([at]), np.array([at + size // 2]), np.array([3])) for at in (0, size // 2)]
        turned = self("Concat", self("Neg", halves[1]), halves[0], axis=-1)
        return self("Add", self("Mul", x, np.cos(whole)), self("Mul", turned, np.sin(whole)))

    def mask(self, queries: int, keys: int) -> str | None:
        """An additive mask: causal, banded, random biases, fed keys that count; or none."""
        kind = self.choose("none", "none", "causal", "window", "bias", "fed bias", "fed mask")
        distance = np.arange(keys)[None] - np.arange(queries)[:, None] - (keys - queries)
        if kind == "causal" and queries <= keys:
            return self.constant(np.where(distance <= 0, 0.0, -np.inf))
        if kind == "window":
            return self.constant(np.where(np.abs(distance) <= 2, 0.0, -1e9)) if queries <= keys else None
        if kind == "bias":
            return self.constant(self.rng.normal(size=self.choose((queries, keys), (1, keys))) * self.choose(1.0, 30.0))
        if kind == "fed bias":
            return self.input((1, 1, 1, keys), "bias")
        if kind == "fed mask":
            counts = self("Cast", self("Unsqueeze", self.input((1, keys), "mask"), np.array([1, 2])), to=TensorProto.FLOAT)
            return self("Mul", self("Sub", np.array(1.0), counts), np.array(-10000.0))
        return None

    def attention_operator(self, q: str, k: str, v: str, queries: int, keys: int, sharing: int) -> str:
        """ONNX's operator."""
        causal = queries == keys and self.chance(0.3)
        mask = None if causal else self.mask(queries, keys)
        if mask is not None:  # onnxruntime repeats no rows here
            mask = self("Expand", mask, np.array([1, 1, queries, keys]))
        extra = {"softcap": 2.0} if self.chance(0.2) else {}
        return self("Attention", q, k, v, *([mask] if mask else []), is_causal=int(causal), **extra)

    def attention_spelled(self, q: str, k: str, v: str, queries: int, keys: int, sharing: int, shared: int, sizes: tuple[int, int]) -> str:
        """Products and a softmax; keys and values are repeated for the heads that share them."""
        if sharing > 1:
            k, v = (self.repeated(part, shared, sharing, keys, size) for part, size in zip((k, v), sizes, strict=True))
        scores = self("MatMul", q, self("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self("Mul", scores, np.array(sizes[0] ** -0.5 * self.choose(1.0, 1.0, 4.0)))
        scores = self("Add", scores, self.positions(q, shared * sharing, queries, keys, sizes[0])) if self.chance(0.2) else scores
        mask = self.mask(queries, keys)
        return self("MatMul", self("Softmax", self("Add", scores, mask) if mask else scores, axis=-1), v)

    def positions(self, q: str, heads: int, queries: int, keys: int, size: int) -> str:
        """Of queries and a table, for each key what its distance or a throw of dice says; or a number of the query times a constant."""
        if self.chance(0.3):
            gate = self("Sigmoid", self("MatMul", q, self.rng.normal(size=(size, 1))))
            return self("Mul", gate, self.rng.normal(size=(heads, queries, keys)))
        count = self.choose(1, 3, 8, 17)
        table = self("MatMul", q, self.rng.normal(size=(1, heads, size, count)) * size**-0.5)
        distance = np.arange(keys)[None] - np.arange(queries)[:, None] + count // 2
        which = np.clip(distance, 0, count - 1) if self.chance(0.7) else self.rng.integers(0, count, (queries, keys))
        return self("GatherElements", table, np.broadcast_to(which, (1, heads, queries, keys)).copy(), axis=3)

    def repeated(self, x: str, heads: int, times: int, rows: int, size: int) -> str:
        wide = self("Expand", self("Unsqueeze", x, np.array([2])), np.array([1, heads, times, rows, size]))
        return self("Reshape", wide, np.array([1, heads * times, rows, size]))

    def grow_rows(self) -> None:
        """Rows joined, cut out or averaged."""
        x = self.pick()
        kind = self.choose("token", "join", "cut", "first", "mean", "reverse")
        if kind == "token":
            y, rows = self("Concat", self.constant(self.rng.normal(size=(1, 1, x.channels))), x.name, axis=1), x.rows + 1
        elif kind == "join":
            other = self.pick(channels=x.channels)
            y, rows = self("Concat", x.name, other.name, axis=1), x.rows + other.rows
        elif kind == "cut":
            rows = 1 + self.throw(x.rows)
            first = self.throw(x.rows - rows + 1)
            y = self("Slice", x.name, np.array([first]), np.array([first + rows]), np.array([1]))
        elif kind == "first":
            y, rows = self("Slice", x.name, np.array([0]), np.array([1]), np.array([1])), 1
        elif kind == "reverse":
            y, rows = self("Gather", x.name, np.arange(x.rows)[::-1].copy(), axis=1), x.rows
        else:
            y, rows = self("ReduceMean", x.name, np.array([1]), keepdims=1), 1
        if rows <= MOST_ROWS:
            self.keep(y, rows, x.channels)

    def grow_tokens(self) -> None:
        """What mixes, normalises, weighs or compares over tokens."""
        x = self.pick()
        groups = self.choose(*(n for n in (1, 2, 3, 4, 5, 8) if x.rows % n == 0))
        turned = self("Transpose", x.name, perm=[0, 2, 1])
        kind = self.choose("mix", "instance", "group", "weigh", "softmax", "largest", "pool")
        y, rows = "", x.rows
        if kind == "mix":
            rows = self.choose(*ROWS)
            y = self("Transpose", self("MatMul", turned, self.weight(x.rows, rows)), perm=[0, 2, 1])
        elif kind in ("instance", "group"):
            parts = x.channels if kind == "instance" else self.choose(*(n for n in (1, 2, 3, 4, 5) if x.channels % n == 0))
            flat = self("Reshape", turned, np.array([1, parts, x.channels // parts * x.rows]))
            normal = self("InstanceNormalization", flat, np.ones(parts), np.zeros(parts), epsilon=1e-3)
            y = self("Transpose", self("Reshape", normal, np.array([1, x.channels, x.rows])), perm=[0, 2, 1])
        elif kind == "weigh":
            y, rows = self("MatMul", self("Transpose", self("Softmax", self.linear(x, 1).name, axis=1), perm=[0, 2, 1]), x.name), 1
        elif kind == "softmax":
            y = self("Softmax", x.name, axis=1)
        elif kind == "largest":
            split, axis = self("Reshape", x.name, np.array([1, groups, x.rows // groups, x.channels])), self.choose(1, 2)
            y, rows = self("ReduceMax", split, np.array([axis]), keepdims=0), x.rows // groups if axis == 1 else groups
        else:
            size, stride, pad = self.choose(2, 3), self.choose(1, 2), self.choose(0, 1)
            rows = (x.rows + 2 * pad - size) // stride + 1
            if rows < 1:
                return
            y = self("MaxPool", turned, kernel_shape=[size], strides=[stride], pads=[pad, pad])
            y = self("Transpose", y, perm=[0, 2, 1])
        self.keep(y, rows, x.channels)

    def grow_picked(self) -> None:
        """Channels in any order."""
        x, count = self.pick(), self.choose(*self.style.channels)
        self.keep(self("Gather", x.name, self.rng.integers(0, x.channels, count), axis=2), x.rows, count)

    def grow_columns(self) -> None:
        """Channels joined or cut out."""
        x = self.pick()
        if self.chance(0.5) and x.channels > 1:
            count = 1 + self.throw(x.channels - 1)
            first = self.throw(x.channels - count + 1)
            self.keep(self("Slice", x.name, np.array([first]), np.array([first + count]), np.array([2])), x.rows, count)
            return
        other = self.pick(rows=x.rows)
        if x.channels + other.channels <= MOST_CHANNELS:
            self.keep(self("Concat", x.name, other.name, axis=2), x.rows, x.channels + other.channels)

    def grow_convolution(self) -> None:
        """A padded convolution along the rows, of all channels or of each alone; or one over a picture that the rows form."""
        x = self.pick()
        width = self.choose(*(n for n in (1, 2, 3, 4, 5) if x.rows % n == 0))
        picture = self("Reshape", self("Transpose", x.name, perm=[0, 2, 1]), np.array([1, x.channels, x.rows // width, width]))
        deep, size = self.chance(0.5), self.choose(1, 3, 3, 5)
        n = x.channels if deep else self.choose(*self.style.channels)
        shape = (n, 1 if deep else x.channels, size, size)
        operands = [self.rng.normal(size=shape) / np.sqrt(np.prod(shape[1:])), *([self.rng.normal(size=n)] if self.chance(0.7) else [])]
        attributes = {"group": n if deep else 1, "pads": [size // 2] * 4, "kernel_shape": [size, size]}
        y = self("Conv", picture, *operands, **attributes)
        self.keep(self("Transpose", self("Reshape", y, np.array([1, n, x.rows])), perm=[0, 2, 1]), x.rows, n)

    def start(self) -> None:
        """The first value: an input [1, rows, channels], or the patches of a picture."""
        rows, channels = self.choose(*ROWS), self.choose(*self.style.channels)
        if self.chance(0.8):
            self.keep(self.input((1, rows, channels)), rows, channels)
            return
        colours, size, stride = self.choose(1, 3), self.choose(1, 2, 3), self.choose(1, 2, 3)
        pad = self.choose(0, 1) if size > 1 else 0
        height, width = self.choose(5, 6, 8), self.choose(4, 7, 9)
        out = [(n + 2 * pad - size) // stride + 1 for n in (height, width)]
        weight = self.rng.normal(size=(channels, colours, size, size)) / size
        y = self(
            "Conv", self.input((1, colours, height, width)), weight, self.rng.normal(size=channels),
            pads=[pad] * 4, strides=[stride] * 2, kernel_shape=[size] * 2,
        )  # fmt: skip
        rows = out[0] * out[1]
        self.keep(self("Transpose", self("Reshape", y, np.array([1, channels, rows])), perm=[0, 2, 1]), rows, channels)

    @property
    def outputs(self) -> list[str]:
        """What nobody reads, and one value from the middle."""
        read = {name for node in self.nodes for name in node.input}
        made = {name for node in self.nodes for name in node.output}
        kept = [v.name for v in self.values if v.name in made]
        middle = kept[len(kept) // 2] if kept else None
        return [name for name in dict.fromkeys(kept) if name not in read or name == middle]


KINDS = (
    *["linear"] * 4, *["function"] * 3, *["normalization"] * 3, *["elementwise"] * 3, "constant", "constant", "gate", "block", "block",
    *["attention"] * 4, "windows", "softmax", "rows", "rows", "columns", "convolution", "tokens", "tokens", "picked",
)  # fmt: skip
NARROW = ("columns", "convolution")
HEAVY = ("linear", "normalization", "block", "gate", "attention", "windows")


def grown(seed: int, style: Style, prefix: str = "", steps: int | None = None, dice: Random | None = None) -> Growth:
    """The graph of a seed, or of dice, with all of its steps or the first few. The first is one that is worth a device."""
    growth = Growth(seed, style, prefix, dice)
    count = growth.choose(*range(1, 7))
    growth.start()
    for step in range(count if steps is None else min(steps, count)):
        growth.grow(KINDS if step else HEAVY)
    return growth
