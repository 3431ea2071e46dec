"""The weight quantizers: one module per algorithm, one explicit list.

    found = quantize("gptq", weight, WeightFormat.parse("int4", 64), gram, "encoder.0.up")

`weight` is [N, K] float64; `gram` [K, K] is X^T X / count of the layer's inputs X [count, K], with the activations' own rounding in it
where there is one. All of them snap the scales first and round to the snapped grid, so that nothing is lost afterwards.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from attnc.arrays import Array
from attnc.errors import ConfigError
from attnc.quant.weights.absmean import absmean, absmean_tensor
from attnc.quant.weights.binary import binary
from attnc.quant.weights.gptq import gptq
from attnc.quant.weights.grid import checked_gram, checked_weight, output_error
from attnc.quant.weights.minmax import minmax
from attnc.quant.weights.mse import mse
from attnc.quant.weights.quantease import quantease
from attnc.quant.weights.recognise import recognise
from attnc.weights import QuantizedWeight, WeightFormat

__all__ = ["QUANTIZERS", "Quantizer", "default_quantizer", "find_quantizer", "output_error", "quantize", "recognise"]


@dataclass(frozen=True)
class Quantizer:
    """An algorithm, the kinds of formats that it can do, and whether it needs the gram of the inputs (others may use it)."""

    function: Callable[[Array, WeightFormat, Array | None, str], QuantizedWeight]
    kinds: tuple[str, ...]
    needs_gram: bool = False
    per_tensor: bool = False
    """Whether rows share a scale: otherwise the weight of a row depends on no other row."""

    def __call__(self, weight: Array, format: WeightFormat, gram: Array | None, name: str) -> QuantizedWeight:
        """`weight` [N, K] on the grid of `format`, its input checked."""
        weight = checked_weight(weight, format, name)
        if gram is not None:
            gram = checked_gram(gram, weight.shape[1], name)
        elif self.needs_gram:
            raise ConfigError(f"weight of {name!r}: this quantizer needs the gram matrix of the layer's calibration inputs, found none")
        return self.function(weight, format, gram, name)


QUANTIZERS: dict[str, Quantizer] = {
    "minmax": Quantizer(minmax, ("integer", "ternary")),
    "mse": Quantizer(mse, ("integer", "ternary")),
    "absmean": Quantizer(absmean, ("ternary",)),
    "absmean_tensor": Quantizer(absmean_tensor, ("ternary",), per_tensor=True),
    "gptq": Quantizer(gptq, ("integer", "ternary"), needs_gram=True),
    "quantease": Quantizer(quantease, ("integer", "ternary", "binary"), needs_gram=True),
    "binary": Quantizer(binary, ("binary",)),
}

FINE_BITS = 6


def default_quantizer(format: WeightFormat, calibrated: bool = True) -> tuple[str, str]:
    """Name of a quantizer, and why: quantease, which needs covariances; mse where those would be of made-up inputs (not `calibrated`) and
    the grid is fine, so that nothing is to be won."""
    if calibrated:
        return "quantease", "calibration data"
    fine = format.kind == "integer" and format.bits >= FINE_BITS
    return ("mse", "no calibration data") if fine else ("quantease", "coarse grid")


def find_quantizer(name: str, format: WeightFormat, where: str = "quantizer") -> Quantizer:
    """The quantizer called `name`, which must be able to do `format`."""
    if name not in QUANTIZERS:
        near = difflib.get_close_matches(name, QUANTIZERS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"{where}: needed one of {', '.join(QUANTIZERS)}, found {name!r}{hint}")
    if format.kind not in QUANTIZERS[name].kinds:
        able = ", ".join(other for other, quantizer in QUANTIZERS.items() if format.kind in quantizer.kinds)
        raise ConfigError(f"{where}: {name} cannot make {format.name} weights; needed one of {able}")
    return QUANTIZERS[name]


def quantize(quantizer: str, weight: Array, format: WeightFormat, gram: Array | None, name: str) -> QuantizedWeight:
    """`weight` [N, K] of layer `name` on the grid of `format`, by the quantizer of that name."""
    return find_quantizer(quantizer, format, f"layer {name!r}")(weight, format, gram, name)
