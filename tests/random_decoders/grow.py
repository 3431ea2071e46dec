"""Random decoders as ONNX files: what a seed draws of them, and each in one of the spellings that exporters use."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from random_graphs.grow import OPSET, Growth

VOCABULARIES = (7, 16, 23, 48)
HEADS = ((1, 1), (2, 2), (2, 1), (4, 2), (3, 3), (3, 1), (4, 1), (6, 2))
"""Heads of queries, heads of keys and values."""
SIZES = (2, 3, 4, 5, 6, 7, 8, 8, 10, 12, 16, 16)
MLPS = ("SiLU gated", "SiLU gated", "Gelu gated", "Relu2 gated", "Gelu", "tanh Gelu", "Relu", "Relu2", "none")
LENGTHY = ("dynamic", "longrope")
"""Ways to scale rotary embeddings that go by how long a sequence is."""
SCALINGS = ("default", "default", "linear", "ntk", "yarn", "llama3", *LENGTHY)
TRAINED = (8, 12, 16, 16, 40)
BASE, FACTOR = 100.0, 4.0
NEVER = (-np.inf, float(np.finfo(np.float32).min), -1e9)
MOST_TOKENS = 64


@dataclass(frozen=True)
class Recipe:
    """What a decoder is like."""

    vocabulary: int
    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    size: int
    norm: str
    """"rms", "layer", "rms spelled"."""
    norms: frozenset[str]
    """Where they are: before a part ("pre"), behind it ("post"), before its last product ("sub"), of queries and keys ("heads")."""
    parallel: bool
    """Whether attention and the rest of a layer read the same."""
    turn: str
    """Rotary embeddings: none, "half" and "interleaved" spelled out, "operator half", "operator interleaved"."""
    turned: int
    """Channels of a head that are turned."""
    scaling: str
    trained: int
    """Tokens of a sequence that scaling begins behind."""
    slopes: str
    """Biases of ALiBi: none, "distance" or "key", as MPT and BLOOM have them."""
    learned: bool
    """Whether positions have rows of a table."""
    windows: tuple[int, ...]
    """Of each layer, in tokens; 0: none."""
    softcap: float
    final_softcap: float
    mlp: str
    tied: bool
    biases: bool
    packed: bool
    """Whether one product makes queries, keys and values."""
    ternary: bool
    """Whether weights lie on a ternary grid."""
    operator: bool
    """Whether attention is ONNX's operator, else products and a softmax."""
    past: bool
    mask: str
    """An input: none, "unused", or "used"."""
    positions: bool
    """Whether positions are an input, else they are counted."""
    integers: int
    """The type of tokens."""
    order: int
    """By which the inputs are shuffled."""
    seed: int

    @classmethod
    def drawn(cls, dice: Random, group_size: int) -> Recipe:
        """A random one; weights that share a scale in groups need inputs that the groups divide."""

        def choose(*options: Any) -> Any:
            return options[dice.randrange(len(options))]

        heads, kv_heads = choose(*HEADS) if not group_size else choose((4, 2), (4, 4), (2, 1), (2, 2), (4, 1))
        size = choose(*SIZES) if not group_size else choose(*(n for n in (8, 16, 32) if heads * n % group_size == 0))
        turn = choose("", "half", "half", "interleaved", "operator half", "operator interleaved") if size % 2 == 0 else ""
        layers = choose(1, 2, 2, 3)
        windows = choose((), (), (0, choose(3, 5)), (choose(1, 2, 3), 0), (choose(4, 6), choose(7, 9)))
        norms = {choose("pre", "pre", "pre", "post", "both")} | {one for one in ("sub", "heads") if choose(0, 0, 1)}
        return cls(
            vocabulary=choose(*VOCABULARIES),
            width=choose(8, 12, 16, 20, 24, 31, 32, 40) if not group_size else choose(32, 64),
            hidden=choose(8, 15, 16, 33, 40, 64) if not group_size else choose(32, 64, 96),
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            size=size,
            norm=choose("rms", "rms", "rms spelled", "layer"),
            norms=frozenset({"pre", "post"} | norms - {"both"} if "both" in norms else norms),
            parallel=choose(0, 0, 0, 1) == 1,
            turn=turn,
            turned=size if choose(0, 0, 1) == 0 or not turn else choose(*range(2, size + 1, 2)),
            scaling=choose(*SCALINGS),
            trained=choose(*TRAINED),
            slopes=choose("", "", "distance", "key") if not turn else "",
            learned=choose(0, 0, 1) == 1,
            windows=tuple(windows[layer % len(windows)] for layer in range(layers)) if windows else (0,) * layers,
            softcap=choose(0.0, 0.0, 0.0, 2.0, 8.0),
            final_softcap=choose(0.0, 0.0, 0.0, 3.0),
            mlp=choose(*MLPS),
            tied=choose(0, 0, 1) == 1,
            biases=choose(0, 1) == 1,
            packed=choose(0, 0, 1) == 1,
            ternary=choose(0, 0, 0, 1) == 1,
            operator=choose(0, 1) == 1,
            past=choose(0, 1) == 1,
            mask=choose("", "unused", "used"),
            positions=choose(0, 1) == 1,
            integers=choose(TensorProto.INT64, TensorProto.INT64, TensorProto.INT32),
            order=dice.randrange(1 << 16),
            seed=dice.randrange(1 << 16),
        )

    @property
    def lengthy(self) -> bool:
        """Whether what a token is like depends on how long its sequence is."""
        return bool(self.turn) and (self.scaling == "longrope" or (self.scaling == "dynamic" and self.turned > 2))

    @property
    def branches(self) -> bool:
        """Whether a decoder of its kind goes on with several sequences together."""
        return not self.slopes and not any(self.windows)


def frequencies(scaling: str, turned: int, trained: int, tokens: int) -> tuple[np.ndarray, float]:
    """Angle of each pair of channels per token in a sequence of so many, and what cosine and sine are multiplied by: as `transformers` has
    them ("ntk", which it has not, is "dynamic" of four times the length for every sequence)."""
    count = turned // 2
    exponents = np.arange(count) / count
    plain = BASE**-exponents
    if scaling in ("ntk", "dynamic"):
        tokens = FACTOR * trained if scaling == "ntk" else max(tokens, trained)
        base = BASE * (FACTOR * tokens / trained - (FACTOR - 1)) ** (turned / max(turned - 2, 1))
        return base**-exponents, 1.0
    if scaling == "linear":
        return plain / FACTOR, 1.0
    if scaling == "longrope":
        return plain / long_and_short(count)[int(tokens <= trained)], (1 + np.log(FACTOR) / np.log(trained)) ** 0.5
    if scaling == "yarn":
        low, high = (turned * np.log(trained / (turns * 2 * np.pi)) / (2 * np.log(BASE)) for turns in (2.0, 0.5))
        low, high = max(np.floor(low), 0), min(np.ceil(high), turned - 1)
        ramp = np.clip((np.arange(count) - low) / (high - low or 0.001), 0, 1)
        return plain / FACTOR * ramp + plain * (1 - ramp), 0.1 * np.log(FACTOR) + 1.0
    if scaling == "llama3":
        smooth = np.clip((trained * plain / (2 * np.pi) - 1.0) / (4.0 - 1.0), 0, 1)
        return (1 - smooth) * plain / FACTOR + smooth * plain, 1.0
    return plain, 1.0


def long_and_short(count: int) -> tuple[np.ndarray, np.ndarray]:
    """What LongRoPE divides frequencies by in long sequences, and in others."""
    return np.linspace(1.5, FACTOR, count), np.linspace(1.0, 1.3, count)


class Writer(Growth):
    """A decoder that is being written."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe.seed)
        self.recipe = recipe
        self.starts: list[str] = []
        self.ends: list[str] = []

    def write(self) -> onnx.ModelProto:
        """The whole model."""
        recipe = self.recipe
        self.embedding = self.constant(self.rng.normal(size=(recipe.vocabulary, recipe.width)))
        if recipe.past:
            self.starts = [f"past_key_values.{layer}.{part}" for layer in range(recipe.layers) for part in ("key", "value")]
        self.count_tokens()
        x = self("Gather", self.embedding, "input_ids")
        x = self("Mul", x, np.array(recipe.width**0.5)) if self.chance(0.2) else x
        if recipe.learned:
            x = self("Add", x, self("Gather", self.rng.normal(size=(MOST_TOKENS, recipe.width)), self.places))
        if recipe.turn:
            self.angles()
        for layer in range(recipe.layers):
            x = self.layer(x, layer)
        x = self.normal(x, recipe.width)
        logits = self.head(x)
        if recipe.final_softcap:
            cap = np.array(recipe.final_softcap)
            logits = self("Mul", self("Tanh", self("Div", logits, cap)), cap)
        self("Identity", logits)
        self.nodes[-1].output[0] = "logits"
        return self.model()

    def model(self) -> onnx.ModelProto:
        """As ONNX has it, its inputs in any order."""
        recipe, info = self.recipe, helper.make_tensor_value_info
        inputs = [info("input_ids", recipe.integers, ["batch", "sequence"])]
        if recipe.mask:
            inputs.append(info("attention_mask", TensorProto.INT64, ["batch", "total" if recipe.past else "sequence"]))
        if recipe.positions:
            inputs.append(info("position_ids", TensorProto.INT64, ["batch", "sequence"]))
        cache = ["batch", recipe.kv_heads, "past", recipe.size]
        inputs += [info(name, TensorProto.FLOAT, cache) for name in self.starts]
        outputs = [info("logits", TensorProto.FLOAT, ["batch", "sequence", recipe.vocabulary])]
        outputs += [info(name, TensorProto.FLOAT, [*cache[:2], "total", recipe.size]) for name in self.ends]
        for values in (inputs, outputs):
            Random(recipe.order).shuffle(values)
        graph = helper.make_graph(self.nodes, "decoder", inputs, outputs, self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)

    # ---- positions ----

    def count_tokens(self) -> None:
        """How many tokens there are, and positions [tokens], [keys] and `places` [batch, tokens]."""
        recipe, one = self.recipe, np.array(1)
        count = self("Gather", self("Shape", "input_ids"), one, axis=0)
        past = self("Gather", self("Shape", self.starts[0]), np.array(2), axis=0) if recipe.past else self.constant(np.array(0))
        self.total = total = self("Add", past, count)
        self.queries, self.keys = self("Range", past, total, one), self("Range", np.array(0), total, one)
        self.places = "position_ids" if recipe.positions else self("Unsqueeze", self.queries, np.array([0]))
        self.back = self("Sub", self("Unsqueeze", self.queries, np.array([1])), self("Unsqueeze", self.keys, np.array([0])))

    def angles(self) -> None:
        """Cosines and sines [batch, tokens, turned / 2], computed or from a table."""
        recipe = self.recipe
        found, scale = frequencies(recipe.scaling, recipe.turned, recipe.trained, 1)
        if self.chance(0.5) and recipe.scaling != "dynamic":
            self.cos, self.sin = (self("Gather", table, self.places) for table in self.tables())
            return
        frequency = self.of_length() if recipe.scaling in LENGTHY else self.constant(found)
        places = self("Cast", self("Unsqueeze", self.places, np.array([2])), to=TensorProto.FLOAT)
        angles = self("MatMul", places, self("Unsqueeze", frequency, np.array([0]))) if self.chance(0.5) else self("Mul", places, frequency)
        self.cos, self.sin = self("Cos", angles), self("Sin", angles)
        if scale != 1:
            self.cos, self.sin = self("Mul", self.cos, np.array(scale)), self("Mul", self.sin, np.array(scale))

    def tables(self) -> list[str]:
        """Cosines and sines [positions, turned / 2]; of LongRoPE one of two pairs, as onnxruntime-genai writes it."""
        recipe, made = self.recipe, []
        for tokens in (recipe.trained, recipe.trained + 1):
            found, scale = frequencies(recipe.scaling, recipe.turned, recipe.trained, tokens)
            angles = np.arange(MOST_TOKENS)[:, None] * found
            made.append([(f(angles) * scale).astype(np.float32) for f in (np.cos, np.sin)])
        if recipe.scaling != "longrope":
            return [self.constant(table) for table in made[0]]
        names, branches = ["cos_table", "sin_table"], {}
        for branch, tables in zip(("else_branch", "then_branch"), made, strict=True):
            outputs = [f"{branch}.{name}" for name in names]
            nodes = [
                helper.make_node(
                    "Constant", [], [name], value=numpy_helper.from_array(table[: recipe.trained if branch[0] == "e" else None])
                )
                for name, table in zip(outputs, tables, strict=True)
            ]
            values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
            branches[branch] = helper.make_graph(nodes, branch, [], values)
        self.nodes.append(helper.make_node("If", [self("Greater", self.total, np.array(recipe.trained))], names, name="tables", **branches))
        return names

    def of_length(self) -> str:
        """Angles of a token by how long the sequence is, as `transformers` finds them."""
        recipe, trained = self.recipe, np.array(self.recipe.trained)
        total = self.total if self.chance(0.5) else self("Add", self("ReduceMax", self.places, keepdims=0), np.array(1))
        if recipe.scaling == "longrope":
            found = (frequencies("longrope", recipe.turned, recipe.trained, tokens)[0] for tokens in (recipe.trained + 1, 1))
            return self("Where", self("Greater", total, trained), *found)
        tokens = self("Cast", self("Max", total, trained), to=TensorProto.FLOAT)
        grown = self("Sub", self("Mul", tokens, np.array(FACTOR / recipe.trained)), np.array(FACTOR - 1))
        base = self("Mul", self("Pow", grown, np.array(recipe.turned / max(recipe.turned - 2, 1))), np.array(BASE))
        return self("Pow", base, -np.arange(recipe.turned // 2) / (recipe.turned // 2))

    # ---- parts ----

    def product(self, x: str, k: int, n: int, biased: bool) -> str:
        """A product with a constant matrix."""
        matrix = self.weight(k, n)
        if self.recipe.ternary:
            matrix = np.sign(matrix) * (np.abs(matrix) > 0.4 * np.abs(matrix).mean()) * k**-0.5
        y = self("MatMul", x, matrix)
        return self("Add", y, self.rng.normal(size=n) * 0.3) if biased else y

    def normal(self, x: str, channels: int) -> str:
        """Over the last dimension."""
        gamma = self.rng.normal(1, 0.3, channels)
        if self.recipe.norm == "layer":
            return self("LayerNormalization", x, gamma, *([self.rng.normal(size=channels) * 0.3] if self.recipe.biases else []), axis=-1)
        if self.recipe.norm == "rms":
            return self("RMSNormalization", x, gamma, axis=-1, epsilon=1e-5)
        mean = self("ReduceMean", self("Pow", x, np.array(2.0)), np.array([-1]))
        return self("Mul", gamma, self("Mul", x, self("Reciprocal", self("Sqrt", self("Add", mean, np.array(1e-5))))))

    def layer(self, x: str, layer: int) -> str:
        """Attention and a feed-forward block around a stream."""
        width, norms = self.recipe.width, self.recipe.norms

        def before(y: str) -> str:
            return self.normal(y, width) if "pre" in norms else y

        def behind(y: str) -> str:
            return self.normal(y, width) if "post" in norms else y

        normal = before(x)
        attended = behind(self.attention(normal, layer))
        if self.recipe.mlp == "none":
            return self("Add", x, attended)
        if self.recipe.parallel:
            return self("Add", self("Add", attended, behind(self.mlp(normal))), x)
        x = self("Add", x, attended)
        return self("Add", behind(self.mlp(before(x))), x)

    def mlp(self, x: str) -> str:
        """Gated or plain."""
        recipe, kind = self.recipe, self.recipe.mlp
        hidden = self.activated(kind.removesuffix(" gated"), self.product(x, recipe.width, recipe.hidden, recipe.biases))
        if kind.endswith("gated"):
            hidden = self("Mul", hidden, self.product(x, recipe.width, recipe.hidden, recipe.biases))
        if "sub" in recipe.norms:
            hidden = self.normal(hidden, recipe.hidden)
        return self.product(hidden, recipe.hidden, recipe.width, recipe.biases)

    def activated(self, kind: str, x: str) -> str:
        if kind == "SiLU":
            return self("Mul", x, self("Sigmoid", x))
        if kind == "Relu2":
            return self("Pow", self("Relu", x), np.array(2.0))
        return self("Gelu", x, approximate="tanh") if kind == "tanh Gelu" else self(kind, x)

    def head(self, x: str) -> str:
        """Logits."""
        recipe = self.recipe
        if not recipe.tied:
            return self.product(x, recipe.width, recipe.vocabulary, False)
        y = self("MatMul", x, self("Transpose", self.embedding, perm=[1, 0]))
        return self("Mul", y, np.array(recipe.width**-0.5))

    # ---- attention ----

    def attention(self, x: str, layer: int) -> str:
        """Projections, rotation, the past, mixing and the last product."""
        recipe = self.recipe
        wide, narrow = recipe.heads * recipe.size, recipe.kv_heads * recipe.size
        if recipe.packed:
            packed = self.product(x, recipe.width, wide + 2 * narrow, recipe.biases)
            parts = [f"{packed}_{part}" for part in "qkv"]
            self.nodes.append(helper.make_node("Split", [packed, self.constant(np.array([wide, narrow, narrow]))], parts, axis=-1))
        else:
            parts = [self.product(x, recipe.width, n, recipe.biases) for n in (wide, narrow, narrow)]
        counts = (recipe.heads, recipe.kv_heads, recipe.kv_heads)
        q, k, v = (self("Reshape", part, np.array([0, -1, count, recipe.size])) for part, count in zip(parts, counts, strict=True))
        if "heads" in recipe.norms:
            q, k = self.normal(q, recipe.size), self.normal(k, recipe.size)
        q, k, v = (self("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, k, v))
        if recipe.turn:
            q, k = self.rotated(q, recipe.heads), self.rotated(k, recipe.kv_heads)
        y = self.operator(q, k, v, layer) if recipe.operator else self.spelled(q, k, v, layer)
        merged = self("Reshape", self("Transpose", y, perm=[0, 2, 1, 3]), np.array([0, -1, wide]))
        if "sub" in recipe.norms:
            merged = self.normal(merged, wide)
        return self.product(merged, wide, recipe.width, recipe.biases)

    def rotated(self, x: str, heads: int) -> str:
        """The first `turned` channels of every head."""
        recipe, count = self.recipe, self.recipe.turned
        if recipe.turn.startswith("operator"):
            partial = {"rotary_embedding_dim": count} if count < recipe.size else {}
            return self("RotaryEmbedding", x, self.cos, self.sin, interleaved=int(recipe.turn.endswith("interleaved")), **partial)

        def cut(y: str, first: int, last: int, step: int = 1) -> str:
            return self("Slice", y, *(np.array([n]) for n in (first, last, 3, step)))

        rest = cut(x, count, recipe.size) if count < recipe.size else None
        x = cut(x, 0, count) if rest else x
        cos, sin = (self("Unsqueeze", part, np.array([1])) for part in (self.cos, self.sin))
        if recipe.turn == "half":
            cos, sin = self("Concat", cos, cos, axis=-1), self("Concat", sin, sin, axis=-1)
            turned = self("Concat", self("Neg", cut(x, count // 2, count)), cut(x, 0, count // 2), axis=-1)
            y = self("Add", self("Mul", x, cos), self("Mul", turned, sin))
        else:
            even, odd = cut(x, 0, count, 2), cut(x, 1, count, 2)
            both = (
                self("Sub", self("Mul", even, cos), self("Mul", odd, sin)),
                self("Add", self("Mul", even, sin), self("Mul", odd, cos)),
            )
            pairs = self("Concat", *(self("Unsqueeze", part, np.array([4])) for part in both), axis=-1)
            y = self("Reshape", pairs, np.array([0, heads, -1, count]))
        return self("Concat", y, rest, axis=-1) if rest else y

    def seen(self, layer: int) -> str:
        """Which keys [tokens, keys] a query looks at; of a mask that is used, [batch, 1, tokens, keys]."""
        seen = self("GreaterOrEqual", self.back, np.array(0))
        if window := self.recipe.windows[layer]:
            seen = self("And", seen, self("Less", self.back, np.array(window)))
        if self.recipe.mask == "used":
            kept = self("Unsqueeze", self("Cast", "attention_mask", to=TensorProto.BOOL), np.array([1, 2]))
            seen = self("And", seen, kept)
        return seen

    def falling(self) -> str:
        """Biases of heads [heads, tokens or 1, keys]."""
        slopes = 2.0 ** -np.arange(1, self.recipe.heads + 1)[:, None, None]
        if self.recipe.slopes == "key":
            return self("Mul", slopes, self("Cast", self.keys, to=TensorProto.FLOAT))
        return self("Mul", -slopes, self("Cast", self.back, to=TensorProto.FLOAT))

    def limit(self, layer: int) -> str:
        """What is added to scores."""
        never = np.array(self.choose(*NEVER))
        base = self.falling() if self.recipe.slopes else self.constant(np.array(0.0))
        return self("Where", self.seen(layer), base, never)

    def operator(self, q: str, k: str, v: str, layer: int) -> str:
        """ONNX's operator, which joins the past itself."""
        recipe = self.recipe
        plain = not (recipe.slopes or recipe.windows[layer] or recipe.mask == "used") and not recipe.past
        given = [q, k, v, "" if plain else self.limit(layer) if recipe.slopes else self.seen(layer)]
        outputs = [f"attended.{layer}"]
        if recipe.past:
            given += self.starts[2 * layer : 2 * layer + 2]
            outputs += [f"present.{layer}.key", f"present.{layer}.value"]
            self.ends += outputs[1:]
        extra = {"softcap": recipe.softcap} if recipe.softcap else {}
        self.nodes.append(helper.make_node("Attention", given, outputs, name=outputs[0], is_causal=int(plain), **extra))
        return outputs[0]

    def spelled(self, q: str, k: str, v: str, layer: int) -> str:
        """Products and a softmax."""
        recipe = self.recipe
        if recipe.past:
            both = []
            for part, name in zip((k, v), self.starts[2 * layer : 2 * layer + 2], strict=True):
                self("Concat", name, part, axis=2)
                both.append(name.replace("past_key_values", "present"))
                self.nodes[-1].output[0] = both[-1]
            (k, v), self.ends = both, [*self.ends, *both]
        shared = recipe.heads // recipe.kv_heads
        if shared > 1:
            k, v = (self.repeated_heads(part, shared) for part in (k, v))
        scores = self("MatMul", q, self("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self("Mul", scores, np.array(recipe.size**-0.5)) if self.chance(0.7) else self("Div", scores, np.array(recipe.size**0.5))
        if recipe.softcap:
            cap = np.array(recipe.softcap)
            scores = self("Mul", self("Tanh", self("Div", scores, cap)), cap)
        return self("MatMul", self("Softmax", self("Add", scores, self.limit(layer)), axis=-1), v)

    def repeated_heads(self, x: str, shared: int) -> str:
        """Keys or values [batch, heads, keys, size] for each head of queries."""
        recipe = self.recipe
        wide = self("Expand", self("Unsqueeze", x, np.array([2])), np.array([1, 1, shared, 1, 1]))
        return self("Reshape", wide, np.array([0, recipe.heads, -1, recipe.size]))
