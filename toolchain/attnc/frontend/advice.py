"""What to do about a node that cannot be compiled: by its reason, unless that says it already."""

from __future__ import annotations

from attnc.frontend.load import MICROSOFT

APART = "split the model there (onnx.utils.extract_model), and run that part elsewhere"
TOLD = ("export", "give ", "split ", "fix ", "quantize it", "onnxsim", "--", "are read in", "reshape it")
"""A reason with one of these tells what to do."""
ADVICE = (
    ("training mode", "export the model for inference: model.eval()"),
    ("dropout", "export the model for inference: model.eval()"),
    ("depends on data", "fix its inputs with --shape, and let onnxsim fold what does not depend on data"),
    ("constant", f"let the exporter or onnxsim fold it, where it is one, else {APART}"),
    ("attention", 'export the model with attn_implementation="sdpa" or "eager" (transformers), the other than this, or with a newer opset, '
                  f"else {APART}"),
    ("caches are", "export the model without a cache: use_cache=False"),
)  # fmt: skip
"""The first that a reason has in it says what to do."""


def advised(operator: str, reason: str) -> str:
    """The reason, and what to do."""
    if any(word in reason for word in TOLD):
        return reason
    if operator.startswith(f"{MICROSOFT}."):
        return f"{reason}; give the model as it was before operators were fused"
    return f"{reason}; {next((advice for what, advice in ADVICE if what in reason), APART)}"
