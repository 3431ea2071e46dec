"""Files by exporters of several opsets, and after onnxruntime's optimizers, which write operators of their own (`com.microsoft`)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from models.file_kinds import Kind, Source
from models.small import HEADS, WIDTH

LEVELS = {"basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"}
OPTIMIZERS = {"bert": "bert", "distilbert": "bert", "vit": "vit", "gpt2": "gpt2", "llama": "gpt2", "whisper": "bart"}
"""What `onnxruntime.transformers.optimizer` calls a kind of model."""


def exported(source: Source, path: Path, **how: Any) -> None:
    """Another export by torch."""
    path.write_bytes(source.export(**how).read_bytes())


def by_session(source: Source, path: Path, level: str, **how: Any) -> None:
    """As a session of onnxruntime writes what it has optimized."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[level])
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(source.export(**how)), options, providers=["CPUExecutionProvider"])


def by_optimizer(source: Source, path: Path, half: bool = False, level: int | None = None, how: Any = None, **fusions: Any) -> None:
    """As `onnxruntime.transformers.optimizer` writes it, with the named fields of `FusionOptions` set."""
    optimize(source.export(**(EAGER if how is None else how)), path, OPTIMIZERS[source.model], HEADS, WIDTH, half, level, **fusions)


def optimize(
    plain: Path, path: Path, kind: str, heads: int, width: int, half: bool = False, level: int | None = None, **fusions: Any
) -> None:
    """Any model of a kind that the optimizer knows."""
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions(kind)
    for name, value in fusions.items():
        assert hasattr(options, name), name
        setattr(options, name, value)
    made = optimize_model(str(plain), kind, heads, width, options, opt_level=level)
    if half:
        made.convert_float_to_float16(keep_io_types=True)
    made.save_model_to_file(str(path))


def in_integers(source: Source, path: Path) -> None:
    """After the optimizer, and then after dynamic quantization."""
    from onnx import TensorProto
    from onnxruntime.quantization import quantize_dynamic

    fused = path.with_name("fused.onnx")
    by_optimizer(source, fused, how=DYNAMIC)
    quantize_dynamic(fused, path, extra_options={"DefaultTensorType": TensorProto.FLOAT})


RAW = 2
"""AttentionMaskFormat.AttentionMask: the mask as it is given to the model."""
TEXT = ("bert", "distilbert", "gpt2", "llama")
SCRIPT: dict[str, Any] = {"exporter": "torchscript"}
EAGER: dict[str, Any] = {**SCRIPT, "eager": True}
DYNAMIC = {**EAGER, "dynamic": True}


def _kind(name: str, make: Any, models: tuple[str, ...] = tuple(OPTIMIZERS), **arguments: Any) -> Kind:
    """A kind beside the plain export of the same exporter: one traces a mask that the other does without."""
    how = arguments.get("how", EAGER) if make is by_optimizer else arguments
    beside = "torchscript" if how.get("exporter") == "torchscript" else "plain"
    return Kind(name, functools.partial(make, **arguments), models, beside)


KINDS = [
    _kind("torchscript", exported, **SCRIPT),
    _kind("torchscript-11", exported, **EAGER, opset=11),
    _kind("torchscript-12", exported, **EAGER, opset=12),
    _kind("torchscript-dynamic", exported, TEXT, **DYNAMIC),
    _kind("dynamo-23", exported, opset=23),
    *(_kind(f"ort-{level}", by_session, level=level) for level in LEVELS),
    *(_kind(f"ort-{level}-torchscript", by_session, level=level, **EAGER) for level in LEVELS),
    _kind("ort-extended-11", by_session, level="extended", **EAGER, opset=11),
    _kind("ort-extended-dynamic", by_session, TEXT, level="extended", **DYNAMIC),
    _kind("fused", by_optimizer),
    _kind("fused-dynamo", by_optimizer, how={}),
    _kind("fused-sdpa", by_optimizer, how=SCRIPT),
    _kind("fused-11", by_optimizer, how={**EAGER, "opset": 11}),
    _kind("fused-dynamic", by_optimizer, TEXT, how=DYNAMIC),
    _kind("fused-raw-mask", by_optimizer, ("bert", "distilbert"), attention_mask_format=RAW),
    _kind("fused-multihead", by_optimizer, use_multi_head_attention=True, attention_mask_format=RAW),
    _kind("fused-99", by_optimizer, level=99),
    _kind("fused-gelu-approximation", by_optimizer, enable_gelu_approximation=True),
    _kind("fused-fp16", by_optimizer, half=True),
    Kind("fused-int8", in_integers, ("bert", "distilbert"), "torchscript"),
]
