"""rms_normalization: y = x / sqrt(mean(x^2) + epsilon) * gamma over the channels of each row.

Shapes   x, y [R, C], gamma [C]. With attribute `group` every `group` consecutive channels are normalised on their own (the heads of q
         and k, for instance); the lanes must then divide the group. With `counted` only so many channels of a group count; behind them x
         and gamma are 0, and y is. C is how many count in what follows.
Scales   x one per tensor; y one per tensor or per channel (a smoothed output): gamma is divided by it.
Method   the kernel of layer_normalization with S = 0: Q = sum x^2 exactly; V = C*Q + max(1, rint(epsilon * C^2 / s_x^2));
         z = C*x * rsqrt(V) with 16 fraction bits; y = z*gamma_q / 2**shift. One engine serves both normalisations.
Rounding z and y half up, y saturated to its range.
Error    in steps of y of channel c, before saturation, with g = |gamma[c]| / s_y[c] and |z| <= sqrt(C):
         0.5 + g * (|z| * 2**-16 + 2**-17) + |z| * 2**(15 - shift) against float arithmetic on the same integers x; epsilon as an
         integer moves z by at most |z| / (2 * C*Q) more, and a row that is not zero has C*Q >= C.
Widths   as layer_normalization.
"""

from __future__ import annotations

from attnc.ops.layer_normalization import LayerNormalization


class RmsNormalization(LayerNormalization):
    """Normalization over channels by the root of the mean square."""

    name = "rms_normalization"
    centred = False
