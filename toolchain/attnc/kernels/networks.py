"""The kernels: the one explicit list."""

from __future__ import annotations

from attnc.kernels.add import ADDITION
from attnc.kernels.attention import ATTENTION, ATTENTION_CHANNELS
from attnc.kernels.attention_one_pass import ATTENTION_ONE_PASS, ATTENTION_ONE_PASS_CHANNELS
from attnc.kernels.combine import COMBINE
from attnc.kernels.depthwise import DEPTHWISE
from attnc.kernels.dispatch import DISPATCH
from attnc.kernels.expert_order import EXPERT_ORDER
from attnc.kernels.expert_scores import EXPERT_SCORES
from attnc.kernels.gather_channels import GATHER_CHANNELS
from attnc.kernels.keep_groups import KEEP_GROUPS
from attnc.kernels.layer_normalization import LAYER_NORMALIZATION
from attnc.kernels.linear import LINEAR
from attnc.kernels.lookup_linear import PLANE_LOOKUP, TERNARY_LOOKUP
from attnc.kernels.mask_bias import MASK_BIAS
from attnc.kernels.max_rows import MAX_ROWS
from attnc.kernels.mean_rows import MEAN_ROWS
from attnc.kernels.mul import MULTIPLICATION
from attnc.kernels.network import Network
from attnc.kernels.normalize_rows import NORMALIZE_ROWS
from attnc.kernels.patches import PATCHES
from attnc.kernels.rescale import RESCALE
from attnc.kernels.rotary import ROTARY
from attnc.kernels.row_absmax import ROW_ABSMAX
from attnc.kernels.scale_rows import SCALE_ROWS
from attnc.kernels.softmax import SOFTMAX
from attnc.kernels.top_experts import TOP_EXPERTS
from attnc.kernels.transpose import TRANSPOSE
from attnc.kernels.unary_chord import UNARY_CHORD
from attnc.kernels.unary_delta import UNARY_DELTA
from attnc.kernels.unary_polynomial import UNARY_POLYNOMIAL
from attnc.kernels.unary_table import UNARY_TABLE

NETWORKS: tuple[Network, ...] = (
    ADDITION,
    ATTENTION,
    ATTENTION_CHANNELS,
    ATTENTION_ONE_PASS,
    ATTENTION_ONE_PASS_CHANNELS,
    COMBINE,
    DEPTHWISE,
    DISPATCH,
    EXPERT_ORDER,
    EXPERT_SCORES,
    GATHER_CHANNELS,
    KEEP_GROUPS,
    LAYER_NORMALIZATION,
    LINEAR,
    MASK_BIAS,
    MAX_ROWS,
    MEAN_ROWS,
    MULTIPLICATION,
    NORMALIZE_ROWS,
    PATCHES,
    PLANE_LOOKUP,
    RESCALE,
    ROTARY,
    ROW_ABSMAX,
    SCALE_ROWS,
    SOFTMAX,
    TERNARY_LOOKUP,
    TOP_EXPERTS,
    TRANSPOSE,
    UNARY_CHORD,
    UNARY_DELTA,
    UNARY_POLYNOMIAL,
    UNARY_TABLE,
)
