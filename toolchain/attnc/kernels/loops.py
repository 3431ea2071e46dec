"""II and depth of every pipelined loop of the kernels, by the function and label that it has in the headers.

The depth is the cycles from the start of an iteration to the end of the cycle in which its last result is written. It is reasoned from what
an iteration does, in parts that are each a register stage at 250 to 300 MHz; `attnc cosim --calibrate csynth.xml` replaces it by what
synthesis found. The II is the one that the loop's pragma asks for (a test compares them).
"""

from __future__ import annotations

from dataclasses import dataclass

READ = WRITE = 1
"""A FIFO, or a register that chooses."""
BRAM = 2
"""Address to data of a block memory with an output register."""
LUTRAM = 1
MULTIPLY = 3
"""A DSP48E2 with its input, product and output registers."""
WIDE_MULTIPLY = 5
"""A product of two or four DSPs in a cascade."""
TREE = 5
"""Adding up to 32 lanes, one level of additions per stage."""
ADD = SHIFT = CLAMP = COMPARE = 1
REQUANTIZE = WIDE_MULTIPLY + ADD + SHIFT + CLAMP
EXP2 = ADD + BRAM + MULTIPLY + SHIFT
"""A subtraction, a ROM of chords, a product, a shift."""
DIVIDE = 36
"""A pipelined divider: a bit of the quotient per stage, and its rounding."""
MEMORY = 1
"""To or from the adapter of a memory port; what the memory takes comes on top."""


@dataclass(frozen=True)
class Loop:
    """Cycles between two iterations, and cycles from the start of one to its last result."""

    depth: int
    ii: int = 1


LOOPS: dict[str, Loop] = {
    "attnc_top.FETCH": Loop(MEMORY + WRITE),
    "load.ASK_RUNS": Loop(ADD + COMPARE),
    "load.LOAD": Loop(MEMORY + ADD + WRITE),
    "take_run.TAKE_RUN": Loop(MEMORY + ADD + WRITE),
    "take_run_words.TAKE_RUN_WORDS": Loop(MEMORY + WRITE),
    "load_words.LOAD_WORDS": Loop(MEMORY + WRITE),
    "load_words_pair.LOAD_WORDS_PAIR": Loop(MEMORY + WRITE),
    "store.STORE": Loop(READ + ADD + MEMORY),
    "store.STORE_ANSWERS": Loop(MEMORY),
    "forward.FORWARD": Loop(READ + WRITE),
    "tee.TEE": Loop(READ + WRITE),
    "add.ADD": Loop(READ + WIDE_MULTIPLY + ADD + SHIFT + CLAMP + WRITE),
    "mul_rows.MUL": Loop(READ + MULTIPLY + REQUANTIZE + WRITE),
    "mul_by_row.MUL_BY_ROW": Loop(READ + REQUANTIZE + WRITE),
    "mean_rows.MEAN_ROWS": Loop(READ + BRAM + ADD + REQUANTIZE + WRITE),
    "patches.PATCHES": Loop(READ + WRITE),
    "rescale.RESCALE_ROWS": Loop(READ + REQUANTIZE + WRITE),
    "rotary.READ_TABLE": Loop(READ + WRITE),
    "rotary.ROTATE": Loop(READ + BRAM + MULTIPLY + ADD + SHIFT + CLAMP + WRITE),
    "row_absmax.ABSMAX_ROWS": Loop(READ + TREE + COMPARE + WRITE),
    "row_absmax.ABSMAX_WRITE": Loop(LUTRAM + REQUANTIZE + WRITE),
    "normalize_rows.RECIPROCALS": Loop(READ + SHIFT + DIVIDE + WRITE),
    "normalize_rows.NORMALIZE_ROWS": Loop(READ + LUTRAM + MULTIPLY + SHIFT + CLAMP + WRITE),
    "scale_rows.FACTORS": Loop(READ + WIDE_MULTIPLY + WRITE),
    "scale_rows.SCALE_ROWS": Loop(READ + LUTRAM + WIDE_MULTIPLY + SHIFT + ADD + CLAMP + WRITE),
    "unary_chord.UNARY_CHORD": Loop(READ + REQUANTIZE + BRAM + MULTIPLY + SHIFT + CLAMP + WRITE),
    "unary_delta.UNARY_DELTA": Loop(READ + REQUANTIZE + BRAM + MULTIPLY + REQUANTIZE + WRITE),
    "unary_polynomial.UNARY_POLYNOMIAL": Loop(READ + REQUANTIZE + 2 * MULTIPLY + REQUANTIZE + WRITE),
    "unary_table.FILL_TABLE": Loop(READ + WRITE),
    "unary_table.UNARY_TABLE": Loop(READ + BRAM + WRITE),
    "depthwise.READ_WEIGHTS": Loop(READ + WRITE),
    "depthwise.READ_X": Loop(READ + WRITE),
    "depthwise.MULTIPLY": Loop(READ + MULTIPLY + ADD + REQUANTIZE + WRITE),
    "norm_accumulate.NORM_ACCUMULATE": Loop(READ + MULTIPLY + TREE + ADD + WRITE),
    "layer_normalization.NORM_STATISTICS": Loop(LUTRAM + 2 * WIDE_MULTIPLY + BRAM + 3 * MULTIPLY + SHIFT + WRITE),
    "norm_scale.SCALE_ROWS": Loop(READ + BRAM + WIDE_MULTIPLY + SHIFT + WIDE_MULTIPLY + ADD + SHIFT + CLAMP + WRITE),
    "linear_accumulate.MULTIPLY": Loop(BRAM + MULTIPLY + TREE + ADD + WRITE),
    "linear_rescale.RESCALE": Loop(READ + ADD + REQUANTIZE + WRITE),
    "lookup_accumulate.READ_X": Loop(READ + WRITE),
    "lookup_accumulate.LOOK_UP": Loop(BRAM + LUTRAM + TREE + ADD + MULTIPLY + WRITE),
    "softmax_scores.READ_X": Loop(READ + WRITE),
    "softmax_scores.SCORES": Loop(BRAM + REQUANTIZE + TREE + WRITE),
    "softmax_exponential.EXPONENTIAL": Loop(READ + EXP2 + TREE + WRITE),
    "softmax_reciprocal.RECIPROCAL": Loop(READ + DIVIDE + WRITE),
    "softmax_normalise.NORMALISE": Loop(READ + REQUANTIZE + WRITE),
    "softmax_normalise.WRITE_Y": Loop(BRAM + WRITE),
    "attention_bias.EMIT_BIAS": Loop(BRAM + MULTIPLY + REQUANTIZE + WRITE),
    "attention_bias.LOAD_Q_FACTORS": Loop(READ + WRITE),
    "attention_bias.LOAD_K_FACTORS": Loop(READ + WRITE),
    "attention_scores.SCORES": Loop(BRAM + MULTIPLY + TREE + REQUANTIZE + ADD + WRITE),
    "attention_maximum.MAXIMUM": Loop(READ + COMPARE + WRITE),
    "attention_exponential.EXPONENTIAL": Loop(READ + EXP2 + ADD + WRITE),
    "attention_reciprocal.RECIPROCAL": Loop(READ + SHIFT + DIVIDE + WRITE),
    "attention_weighted.WEIGHTED": Loop(BRAM + MULTIPLY + ADD + WRITE),
    "attention_normalise.NORMALISE": Loop(READ + REQUANTIZE + WRITE),
    "one_pass_bias.LOAD_BIAS": Loop(READ + WRITE),
    "one_pass_bias.EMIT_BIAS": Loop(BRAM + MULTIPLY + REQUANTIZE + WRITE),
    "one_pass_bias.LOAD_Q_FACTORS": Loop(READ + WRITE),
    "one_pass_bias.LOAD_K_FACTORS": Loop(READ + WRITE),
    "one_pass_scores.LOAD_Q": Loop(READ + WRITE),
    "one_pass_scores.LOAD_K": Loop(READ + WRITE),
    "one_pass_scores.SCORES": Loop(BRAM + MULTIPLY + TREE + REQUANTIZE + ADD + WRITE),
    "one_pass_maximum.MAXIMUM": Loop(READ + TREE + COMPARE + WRITE),
    "one_pass_exponential.EXPONENTIAL": Loop(READ + EXP2 + TREE + ADD + WRITE),
    "one_pass_weighted.RESCALE": Loop(READ + BRAM + SHIFT + WRITE),
    "one_pass_weighted.WEIGHTED": Loop(BRAM + MULTIPLY + TREE + ADD + WRITE),
    "one_pass_weighted.KEEP": Loop(READ + WRITE),
    "one_pass_weighted.LOAD_V": Loop(READ + WRITE),
}
"""By "function.LABEL"."""
