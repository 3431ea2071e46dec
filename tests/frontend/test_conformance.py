"""Reference cases of the ONNX package; `make conformance` runs those of all operators."""

from __future__ import annotations

import pytest
from models import conformance

QUICK = [
    "AveragePool", "BatchNormalization", "Celu", "Clip", "Concat", "Conv", "Dropout", "Einsum", "Elu", "Exp", "Gelu", "Gemm",
    "HardSigmoid", "LayerNormalization", "LeakyRelu", "MatMul", "Mish", "PRelu", "RMSNormalization", "ReduceMean", "RotaryEmbedding",
    "Selu", "Softmax", "Softsign", "SpaceToDepth", "Split", "Swish", "Transpose",
]  # fmt: skip
LEAST = {
    "Clip": 15, "Elu": 6, "HardSigmoid": 6, "LeakyRelu": 6, "Mish": 2, "PRelu": 2, "Selu": 6, "Softmax": 18, "Softsign": 4, "Swish": 2,
    "Conv": 6, "Gelu": 8, "Gemm": 9, "LayerNormalization": 20, "MatMul": 7, "RMSNormalization": 14, "RotaryEmbedding": 16,
}  # fmt: skip


@pytest.mark.parametrize("operator", QUICK)
def test_reference_cases(operator: str) -> None:
    outcomes = conformance.run([operator])
    assert not [outcome for outcome in outcomes if outcome.status == "failed"]
    assert sum(outcome.status == "passed" for outcome in outcomes) >= LEAST.get(operator, 1)


@pytest.mark.slow
def test_all_reference_cases() -> None:
    outcomes = conformance.run()
    assert not [outcome for outcome in outcomes if outcome.status == "failed"]
    assert sum(outcome.status == "passed" for outcome in outcomes) >= 430
