"""The networks of attention.hpp, one for each way in which biases come, and the processes that attention_one_pass.hpp has too."""

from __future__ import annotations

from attnc.kernels.latency import ADD, BRAM, COMPARE, DIVIDE, EXP2, MULTIPLY, READ, REQUANTIZE, SHIFT, TREE, WRITE
from attnc.kernels.network import Argument, Buffer, Count, Fifo, Loop, Names, Network, Process, Runs, one, up, vector
from attnc.kernels.numbers import ACTIVATION_BITS, QUOTIENT_BITS, SCORE_BITS
from attnc.kernels.ports import IntType, Port
from attnc.kernels.softmax import PROBABILITY, SCALE

SCORE = IntType(SCORE_BITS + 2)
BIAS_BITS = 16
ELEMENTS = {"q": "XT", "k": "XT", "v": "VT"}
"""The types of its operands."""
OPENING: dict[str, Count] = {
    "q": lambda n: n.q_words,
    "k": lambda n: n.k_words,
    "v": lambda n: n.v_words,
    "bias": lambda n: 0 if not n.bias_heads else n.bias_words + n.key_factor_words,
}
"""Those of the first head."""
OUTPUTS: dict[str, Count] = {
    "sums": lambda n: up(n.rows, n.P) * n.leaving * n.v_tiles,
    "outputs": lambda n: n.rows * n.v_tiles,
    "blocks": lambda n: n.heads * up(n.rows, n.P),
}
"""Sums and outputs of a head; blocks of queries of all heads. `leaving` are the rows of a block whose sums leave."""
CHANNELS = Port("bias", "words")
"""Where a bias comes as factors of queries and keys, from the memory of the weights."""
TABLE = Port("bias", "load")
MADE = READ + BRAM + MULTIPLY + REQUANTIZE + WRITE
"""A bias from factors."""
SCORED = BRAM + MULTIPLY + TREE + REQUANTIZE + ADD + WRITE
DIVIDED = READ + SHIFT + DIVIDE + WRITE
LISTED = READ + REQUANTIZE + WRITE


def operands(bias: Port) -> tuple[Port, ...]:
    """The ports of either kernel."""
    return Port("q", "load"), Port("k", "load"), Port("v", "load"), bias, Port("y", "store")


def factor_width(n: Names) -> int:
    """Channels of a word of factors that the kernel keeps."""
    return min(1 << (n.CHANNELS_MAX - 1).bit_length(), n.L // 2)


def factor_words(n: Names) -> int:
    """Words of factors of a row, at most."""
    return up(n.CHANNELS_MAX, n.L // 2)


def reciprocal(lanes: str, spare: int, fast: str | int, after_first: Count = lambda n: 0) -> Process:
    """`attention_reciprocal`, which takes sums in vectors of as many queries as `lanes` names; the first comes `after_first` cycles behind
    the first probability."""

    def divides(n: Names) -> bool:
        return fast == 1 or (isinstance(fast, str) and bool(getattr(n, fast)))

    def trips(n: Names) -> int:
        """Of a block: a factor per cycle, or those of the queries of a vector in the cycles of one serial division."""
        width = int(getattr(n, lanes))
        return n.leaving if divides(n) else n.leaving // width * QUOTIENT_BITS + width

    return Process(
        function="attention_reciprocal",
        template=("SumT", spare, "P", lanes, "R", fast),
        reads=("sums",),
        writes=("scales",),
        loops=(Loop("RECIPROCAL", DIVIDED, runs=lambda n: ((n.blocks, trips(n)),)),),
        first=lambda n: (1 if divides(n) else QUOTIENT_BITS) + DIVIDED,
        rest=lambda n: trips(n) + DIVIDED,
        after_first=after_first,
    )


def _normalise(n: Names) -> Runs:
    """Head after head, while the outputs of the one before leave."""
    return (1, n.sums), (n.heads - 1, max(n.sums, n.outputs)), (1, n.outputs)


def normalise(placed: bool) -> Process:
    """`attention_normalise`; its buffer is `placed` where the emitted code says where it lies."""
    return Process(
        function="attention_normalise",
        template=("AccT", "YT", "VALUE_TILES_MAX", "ROWS_MAX", "L", "P", "R"),
        reads=("weighted", "scales"),
        writes=("y",),
        loops=(Loop("NORMALISE", LISTED, runs=_normalise),),
        buffers=(Buffer("y_buffer", lambda n: 2 * n.VALUE_TILES_MAX * n.ROWS_MAX, lambda n: ACTIVATION_BITS * n.L, placed=placed),),
        first=lambda n: _normalise(n)[0][1] + LISTED,
        rest=lambda n: n.outputs + 2 * LISTED,
    )


def _table(n: Names) -> Runs:
    """The rows of the first head, then those of the next one while biases leave; a bias of one head is loaded once."""
    if not n.bias_heads:
        return ()
    load, emit = n.bias_words, n.bias_steps
    return ((1, load), (n.heads - 1, max(load, emit)), (1, emit)) if n.bias_heads > 1 else ((1, load), (n.heads, emit))


_TABLE = Process(
    function="attention_bias",
    template=("BiasT", "KEYS_MAX", "BIAS_ROWS_MAX", "CHANNELS_MAX", "PER_STEP", "BIAS_BUFFERS", "L", "P", "Q", "S", "N", "B", "MASKED"),
    reads=("bias",),
    writes=("biases",),
    loops=(Loop("EMIT_BIAS", MADE, runs=_table),),
    buffers=(
        Buffer(
            "bias_buffer",
            lambda n: n.BIAS_BUFFERS * up(n.KEYS_MAX, n.L) * (1 if n.BIAS_ROWS_MAX == 1 else up(n.BIAS_ROWS_MAX, n.P) * n.groups),
            lambda n: BIAS_BITS * n.L,
            banks=lambda n: n.B,
            placed=True,
        ),
    ),
    first=lambda n: (n.bias_words if n.bias_heads else 0) + MADE,
)


def _factors(rows: str) -> Count:
    return lambda n: int(getattr(n, rows)) * up(n.bias_channels, n.L // 2)


_FACTORS = Process(
    function="attention_bias",
    template=_TABLE.template,
    reads=("bias",),
    writes=("biases",),
    loops=(
        Loop("LOAD_Q_FACTORS", READ + WRITE, runs=lambda n: ((n.biased, n.bias_words),)),
        Loop("LOAD_K_FACTORS", READ + WRITE, runs=lambda n: ((n.biased, n.key_factor_words),)),
        Loop("EMIT_BIAS", MADE, runs=lambda n: ((n.biased, n.bias_steps),)),
    ),
    buffers=(
        Buffer(
            "q_factors",
            lambda n: factor_words(n) * up(n.BIAS_ROWS_MAX, n.P) * n.groups,
            lambda n: BIAS_BITS * factor_width(n),
            banks=lambda n: n.B,
        ),
        Buffer("k_factors", lambda n: factor_words(n) * n.KEYS_MAX, lambda n: BIAS_BITS * factor_width(n)),
    ),
    first=lambda n: (n.bias_words + n.key_factor_words if n.bias_heads else 0) + MADE,
)


def _scores(n: Names) -> Runs:
    """Queries and keys of the first head; then those of the next one while scores are made, keys where it does not share them; then the
    last scores leave."""
    q, k, steps = n.q_words, n.k_words, n.score_steps
    return (1, max(q, k)), (n.kv_heads - 1, max(steps, q, k)), (n.heads - n.kv_heads, max(steps, q)), (1, steps), (1, n.groups)


def _weighted(n: Names) -> Runs:
    """Values of the first head; then those of the next one while sums are made; then the last sums leave."""
    load, steps = n.v_words, n.paced_products
    return (1, load), (n.kv_heads - 1, max(load, steps)), (1, steps), (1, n.leaving)


def _waiting_probabilities(n: Names) -> int:
    return (n.KEYS_MAX if n.groups == 1 else n.KEYS_MAX - n.KEYS_MAX * n.Q // n.P) + 16


def _attention(name: str, bias: Port, biases: Process) -> Network:
    sizes: tuple[Argument, ...] = ("HEAD_TILES_MAX", "KEYS_MAX", "ROWS_MAX")
    return Network(
        name=name,
        header="attention.hpp",
        ports=operands(bias),
        scalars=(
            *("heads", "kv_heads", "heads_per_kv", "rows", "keys", "scored", "paced", "qk_tiles", "v_tiles", "position", "before", "after"),
            *("window", "ring", "prefix", "branches", "key_steps"),
            *("score_multiplier", "score_shift", "cap_multiplier", "cap_shift", "bias_heads", "bias_rows", "bias_shift"),
            *("bias_channels", "output_multiplier", "output_shift", "low", "high"),
        ),
        processes=(
            biases,
            Process(
                function="attention_scores",
                template=("XT", "BiasT", "ScoreT", "Cap", *sizes, "L", "P", "Q", "S", "N", "B", "MASKED"),
                reads=("q", "k", "biases"),
                writes=("scores",),
                loops=(Loop("SCORES", SCORED, runs=_scores),),
                buffers=(
                    Buffer("k_buffer", lambda n: 2 * n.HEAD_TILES_MAX * n.steps_max, lambda n: n.XT * n.S * n.L, placed=True),
                    Buffer(
                        "q_buffer",
                        lambda n: 2 * n.HEAD_TILES_MAX * up(n.ROWS_MAX, n.P),
                        lambda n: n.XT * n.L,
                        banks=lambda n: n.P,
                        placed=True,
                    ),
                ),
                first=lambda n: n.qk_tiles + 2 * SCORED,
                early=lambda n: max(n.q_words, n.k_words),
            ),
            Process(
                function="attention_maximum",
                template=("P", "Q", "S", "MASKED"),
                reads=("scores",),
                writes=("row", "maxima"),
                loops=(Loop("MAXIMUM", READ + COMPARE + WRITE, runs=one(lambda n: n.all_scored * n.groups)),),
                # The maximum of the first block follows its last score.
                first=lambda n: n.block * max(n.qk_tiles, n.groups) + READ + COMPARE + WRITE,
            ),
            Process(
                function="attention_exponential",
                template=("SumT", "Exp2", "P", "Q", "S", "MASKED"),
                reads=("row", "maxima"),
                writes=("probabilities", "sums"),
                loops=(Loop("EXPONENTIAL", READ + EXP2 + ADD + WRITE, runs=one(lambda n: n.all_scored * n.groups)),),
                first=lambda n: n.groups + READ + EXP2 + ADD + WRITE,
                rest=lambda n: n.block * n.groups + READ + EXP2 + ADD + WRITE,
            ),
            reciprocal("Q", 0, "FAST_DIVIDE", lambda n: n.block * n.groups),
            Process(
                function="attention_weighted",
                template=("VT", "AccT", "VALUE_TILES_MAX", "KEYS_MAX", "L", "P", "S", "N", "R", "MASKED"),
                reads=("v", "probabilities"),
                writes=("weighted",),
                loops=(Loop("WEIGHTED", BRAM + MULTIPLY + ADD + WRITE, runs=_weighted),),
                buffers=(
                    Buffer("v_buffer", lambda n: 2 * n.VALUE_TILES_MAX * n.steps_max, lambda n: n.VT * n.S * n.L, placed=True),
                    Buffer("p_buffer", lambda n: n.KEYS_MAX, lambda n: PROBABILITY.bits * n.P, placed=True),
                ),
                first=lambda n: n.block + BRAM + MULTIPLY + ADD + WRITE,
                early=lambda n: n.v_words,
                rest=lambda n: n.block * (n.v_tiles - 1) + n.leaving + 2 * (BRAM + MULTIPLY + ADD + WRITE),
            ),
            normalise(placed=True),
        ),
        fifos=(
            Fifo("biases", lambda n: vector(IntType(BIAS_BITS), n.B), lambda n: 16),
            Fifo("scores", lambda n: vector(SCORE, n.Q), lambda n: 4),
            # A row of scores, and what arrives until its maximum has passed two processes.
            Fifo("row", lambda n: vector(SCORE, n.Q), lambda n: n.KEYS_MAX * n.groups + 16),
            Fifo("maxima", lambda n: vector(SCORE, n.Q), lambda n: 2 * n.groups),
            # `groups` cycles make what a cycle takes in the first tile of a block: all but that share waits, so that it goes on without
            # a pause. Where a cycle makes it, a whole row does: it leaves `row` while the block before is worked on, and scores go on.
            Fifo("probabilities", lambda n: vector(PROBABILITY, n.P), _waiting_probabilities),
            Fifo("sums", lambda n: vector(n.type("SumT"), n.Q), lambda n: 2 * n.groups),
            Fifo("scales", lambda n: SCALE, lambda n: 2 * n.P),
            Fifo("weighted", lambda n: vector(n.type("AccT"), n.L), lambda n: 16),
        ),
        derived={
            "groups": lambda n: n.P // n.Q,
            # Queries that share a bias have one lane of it; keys differ in how far they are.
            "B": lambda n: 1 if n.BIAS_ROWS_MAX == 1 and (n.S == 1 or bias is TABLE) else n.Q,
            "R": lambda n: n.Q if n.S > 1 else n.P,
            "leaving": lambda n: n.R if n.rows == 1 else n.P,
            "steps_max": lambda n: up(n.KEYS_MAX, n.S),
            "block": lambda n: up(n.scored, up(n.rows, n.P)),
            "biased": lambda n: n.heads if n.bias_heads else 0,
            "bias_words": _factors("rows") if bias is CHANNELS else lambda n: up(n.keys, n.L) * n.bias_rows,
            "key_factor_words": _factors("keys") if bias is CHANNELS else lambda n: 0,
            "bias_steps": lambda n: n.scored * n.groups * (max(up(n.bias_channels, n.PER_STEP), 1) if bias is CHANNELS else 1),
            "q_words": lambda n: n.rows * n.qk_tiles,
            "k_words": lambda n: n.key_steps * n.qk_tiles,
            "v_words": lambda n: n.key_steps * n.v_tiles,
            "score_steps": lambda n: n.scored * n.qk_tiles,
            "products": lambda n: n.heads_per_kv * n.scored * n.v_tiles,
            "paced_products": lambda n: n.heads_per_kv * n.paced * n.v_tiles,
            "all_scored": lambda n: n.heads * n.scored,
            **OUTPUTS,
        },
        counts=(
            *("bias_words", "key_factor_words", "bias_steps", "q_words", "k_words", "score_steps", "v_words", "products"),
            *("paced_products", "sums", "outputs", "all_scored", "blocks"),
        ),
        beats={"k": "S", "v": "S"},
        elements=ELEMENTS,
        opening=OPENING,
        leaving=lambda n: n.outputs,
        again=lambda n: n.kv_heads - 1,
        closing=lambda n: n.score_steps,  # the scores of a head, beside which those of the next one come
    )


ATTENTION = _attention("attention", TABLE, _TABLE)
ATTENTION_CHANNELS = _attention("attention_channels", CHANNELS, _FACTORS)
