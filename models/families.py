"""Transformer families at small size, built by the `transformers` package from a configuration, with seeded random weights.

Two layers, width 64, four heads. Matrices have a standard deviation of 1 / sqrt(inputs), so that activations neither vanish nor
explode; norms have uneven gains.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from models import encoder, svtr
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched: configurations only
import transformers as hf

WIDTH, LAYERS, HEADS, HEAD, INNER, TOKENS, VOCABULARY = 64, 2, 4, 16, 128, 16, 96
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": INNER,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
TEXT: dict[str, Any] = {**SIZES, "vocab_size": VOCABULARY, "max_position_embeddings": 32}
IMAGE: dict[str, Any] = {**SIZES, "image_size": 32, "patch_size": 8}
DECODER: dict[str, Any] = {
    "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": INNER,
    "vocab_size": VOCABULARY, "max_position_embeddings": 32, "use_cache": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """How to make a model and example inputs; `outputs` are the fields of its answer that are exported."""

    name: str
    model: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Tensor]]
    outputs: tuple[str, ...] = ("last_hidden_state",)
    traced_inputs: Callable[[], dict[str, Tensor]] | None = None
    """Other inputs for the torchscript exporter, where it cannot follow what the model does without them."""


class Exported(nn.Module):
    """A model of `transformers` with positional tensors in and a tuple of tensors out."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names, self.outputs = model, names, outputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The chosen outputs."""
        answer = self.model(**dict(zip(self.names, tensors, strict=True)), return_dict=True)
        return tuple(answer[name] for name in self.outputs)


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Draw all weights from `seed`, as the module's docstring says."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2 and "embed" not in name and "position" not in name and "bias_table" not in name:
                noise /= math.sqrt(parameter[0].numel())
            elif parameter.ndim >= 2:
                noise *= 0.5
            elif name.endswith("weight") or "gamma" in name or "lambda" in name:
                noise = parameter * torch.exp(0.2 * noise) if parameter.abs().max() > 0 else 0.2 * noise
            else:
                noise *= 0.05
            if "SelfAttention.q.weight" in name:
                noise /= math.sqrt(HEAD)  # T5 divides scores by nothing: its initialisation does
            parameter.copy_(noise)


def signals(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise; pictures have areas of colour as well, since pure noise looks alike to a network that takes means."""
    made = rng.standard_normal(shape)
    if len(shape) == 4 and shape[1] == 3:
        areas = rng.standard_normal((*shape[:2], 4, 4)) + rng.standard_normal((*shape[:2], 1, 1))
        made = 0.5 * made + np.kron(areas, np.ones((shape[2] // 4, shape[3] // 4)))
    return made.astype(np.float32)


def settle(model: nn.Module, inputs: dict[str, Tensor]) -> None:
    """Give batch normalisations the statistics of random inputs: with those they start with, signals die out on the way."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # an average over all passes
        norm.train()
    rng = np.random.default_rng(2)
    with torch.no_grad():
        for _ in range(4 if norms else 0):
            model(**{name: torch.from_numpy(signals(rng, (16, *x.shape[1:]))) for name, x in inputs.items()})
    for norm in norms:
        norm.eval()


def tokens(mask: bool = False) -> dict[str, Tensor]:
    """Token numbers, and a padding mask."""
    generator = torch.Generator().manual_seed(0)
    found = {"input_ids": torch.randint(3, VOCABULARY, (1, TOKENS), generator=generator)}
    if mask:
        found["attention_mask"] = torch.ones(1, TOKENS, dtype=torch.int64)
    return found


def masked() -> dict[str, Tensor]:
    """Token numbers with a padding mask."""
    return tokens(True)


def boxed() -> dict[str, Tensor]:
    """Token numbers with a padding mask and the corners of a box for each: left, top, right, bottom."""
    return {**masked(), "bbox": torch.from_numpy(boxes(np.random.default_rng(0), 1))}


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, TOKENS, 4]: right is not left of left, and bottom not above top."""
    return np.sort(rng.integers(0, VOCABULARY, (count, TOKENS, 2, 2)), axis=2).reshape(count, TOKENS, 4)


def pixels(size: int = 32, width: int = 0) -> Callable[[], dict[str, Tensor]]:
    """An image."""
    return lambda: {"pixel_values": torch.randn(1, 3, size, width or size, generator=torch.Generator().manual_seed(0))}


def mel() -> dict[str, Tensor]:
    """A spectrogram of 16 bands and twice as many frames as tokens."""
    return {"input_features": torch.randn(1, 16, 2 * TOKENS, generator=torch.Generator().manual_seed(0))}


def samples(family: Family, names: list[str], count: int = 16, seed: int = 1) -> dict[str, np.ndarray]:
    """Inputs to calibrate and compare with: random tokens or pixels, masks with padding at the end of all samples but the first; along an
    axis of 1 that an input has in front, or on one of their own. A mask without a batch axis is given once."""
    rng = np.random.default_rng(seed)
    example = {**family.inputs(), **(family.traced_inputs() if family.traced_inputs else {})}
    made: dict[str, np.ndarray] = {}
    for name in names:
        own = tuple(example[name].shape)
        shape = (count, *(own[1:] if own[0] == 1 else own))
        if name in ("attention_mask", "src_key_padding_mask"):
            length = np.where(np.arange(count) == 0, shape[1], rng.integers(shape[1] // 2, shape[1] + 1, count))
            kept = np.arange(shape[1]) < length[:, None]
            made[name] = kept.astype(np.int64) if name == "attention_mask" else ~kept
        elif name == "mask":
            made[name] = example[name].numpy()
        elif name == "bbox":
            made[name] = boxes(rng, count)
        elif example[name].is_floating_point():
            made[name] = signals(rng, shape)
        else:
            made[name] = rng.integers(3, VOCABULARY, shape)
    return made


def _text(name: str, config: type, model: str, **fields: Any) -> Family:
    return Family(name, lambda: getattr(hf, model)(config(**{**TEXT, **fields})), masked)


def _image(name: str, config: type, model: str, **fields: Any) -> Family:
    return Family(name, lambda: getattr(hf, model)(config(**{**IMAGE, **fields})), pixels())


def _decoder(name: str, config: type, model: str, **fields: Any) -> Family:
    return Family(name, lambda: getattr(hf, model)(config(**{**DECODER, **fields})), tokens, ("logits",), masked)


def _distilbert() -> nn.Module:
    return hf.DistilBertModel(hf.DistilBertConfig(
        vocab_size=VOCABULARY, dim=WIDTH, n_layers=LAYERS, n_heads=HEADS, hidden_dim=INNER, max_position_embeddings=32
    ))  # fmt: skip


def _t5() -> nn.Module:
    return hf.T5EncoderModel(hf.T5Config(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=HEAD, d_ff=INNER, num_layers=LAYERS, num_heads=HEADS,
        feed_forward_proj="gated-gelu", relative_attention_num_buckets=8, relative_attention_max_distance=16, dropout_rate=0.0,
    ))  # fmt: skip


def _modernbert() -> nn.Module:
    return hf.ModernBertModel(hf.ModernBertConfig(
        **{**SIZES, "num_hidden_layers": 3}, vocab_size=VOCABULARY, max_position_embeddings=32, local_attention=8,
        global_attn_every_n_layers=2, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    ))  # fmt: skip


def _dinov3() -> nn.Module:
    return hf.DINOv3ViTModel(hf.DINOv3ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=INNER, image_size=32, patch_size=8,
        num_register_tokens=4,
    ))  # fmt: skip


def _layoutlm() -> nn.Module:
    return hf.LayoutLMModel(hf.LayoutLMConfig(**TEXT, max_2d_position_embeddings=VOCABULARY))


def _swin() -> nn.Module:
    return hf.SwinModel(hf.SwinConfig(
        image_size=32, patch_size=4, embed_dim=32, depths=[2, 2], num_heads=[2, 4], window_size=4, mlp_ratio=2.0,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, drop_path_rate=0.0,
    ))  # fmt: skip


def _swinv2() -> nn.Module:
    return hf.Swinv2Model(hf.Swinv2Config(
        image_size=32, patch_size=4, embed_dim=32, depths=[2, 2], num_heads=[2, 4], window_size=4, mlp_ratio=2.0, drop_path_rate=0.0
    ))  # fmt: skip


def _mobilevit() -> nn.Module:
    return hf.MobileViTModel(hf.MobileViTConfig(
        image_size=64, patch_size=2, hidden_sizes=[32, 48, 64], neck_hidden_sizes=[16, 16, 24, 32, 48, 64, 64], num_attention_heads=4,
        mlp_ratio=2.0, expand_ratio=2.0, output_stride=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    ))  # fmt: skip


def _segformer() -> nn.Module:
    return hf.SegformerModel(hf.SegformerConfig(
        num_encoder_blocks=3, depths=[1, 1, 1], sr_ratios=[4, 2, 1], hidden_sizes=[16, 32, 64], patch_sizes=[7, 3, 3], strides=[4, 2, 2],
        num_attention_heads=[1, 2, 4], mlp_ratios=[2, 2, 2], drop_path_rate=0.0,
    ))  # fmt: skip


def _whisper() -> nn.Module:
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return WhisperEncoder(hf.WhisperConfig(
        d_model=WIDTH, encoder_layers=LAYERS, encoder_attention_heads=HEADS, encoder_ffn_dim=INNER, num_mel_bins=16,
        max_source_positions=TOKENS, vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    ))  # fmt: skip


def _gpt2() -> nn.Module:
    return hf.GPT2LMHeadModel(hf.GPT2Config(
        vocab_size=VOCABULARY, n_positions=32, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_inner=INNER, use_cache=False,
        bos_token_id=1, eos_token_id=2,
    ))  # fmt: skip


def _opt() -> nn.Module:
    fields = {key: value for key, value in DECODER.items() if key != "intermediate_size"}
    return hf.OPTForCausalLM(hf.OPTConfig(**fields, ffn_dim=INNER, word_embed_proj_dim=WIDTH))


def _bloom() -> nn.Module:
    return hf.BloomForCausalLM(hf.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, n_layer=LAYERS, n_head=HEADS, use_cache=False, bos_token_id=1, eos_token_id=2
    ))  # fmt: skip


GROUPED: dict[str, Any] = {"num_key_value_heads": 2}
STABLE: dict[str, Any] = {"use_qkv_bias": True, "qk_layernorm": True, "use_parallel_residual": True}
"""As StableLM 2 of 12 billion parameters has it, and biases as the smaller one."""
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        _text("bert", hf.BertConfig, "BertModel"),
        _text("roberta", hf.RobertaConfig, "RobertaModel", pad_token_id=0),
        Family("distilbert", _distilbert, masked),
        _text("electra", hf.ElectraConfig, "ElectraModel", embedding_size=32),
        _text("albert", hf.AlbertConfig, "AlbertModel", embedding_size=32),
        _text("mpnet", hf.MPNetConfig, "MPNetModel", pad_token_id=0),
        Family("layoutlm", _layoutlm, boxed),
        Family("t5", _t5, masked),
        Family("modernbert", _modernbert, masked),
        _image("vit", hf.ViTConfig, "ViTModel"),
        _image("deit", hf.DeiTConfig, "DeiTModel"),
        _image("dinov2", hf.Dinov2Config, "Dinov2Model", mlp_ratio=2),
        Family("dinov3", _dinov3, pixels()),
        _image("beit", hf.BeitConfig, "BeitModel", use_relative_position_bias=True, drop_path_rate=0.0),
        Family("swin", _swin, pixels()),
        Family("swinv2", _swinv2, pixels()),
        Family("mobilevit", _mobilevit, pixels(64)),
        Family("segformer", _segformer, pixels()),
        Family("svtr", svtr.Svtr, pixels(*svtr.SIZE), ("logits",)),
        Family("encoder", lambda: encoder.Encoder(True), encoder.batch_first),
        Family("encoder-sequence-first", lambda: encoder.Encoder(False), encoder.sequence_first),
        Family("whisper", _whisper, mel),
        Family("gpt2", _gpt2, tokens, ("logits",), masked),
        Family("opt", _opt, tokens, ("logits",), masked),
        _decoder("gptneox", hf.GPTNeoXConfig, "GPTNeoXForCausalLM", rotary_pct=0.5),
        Family("bloom", _bloom, tokens, ("logits",), masked),
        _decoder("llama", hf.LlamaConfig, "LlamaForCausalLM", **GROUPED),
        _decoder("mistral", hf.MistralConfig, "MistralForCausalLM", **GROUPED, sliding_window=8),
        _decoder("qwen2", hf.Qwen2Config, "Qwen2ForCausalLM", **GROUPED),
        _decoder("qwen3", hf.Qwen3Config, "Qwen3ForCausalLM", **GROUPED, head_dim=HEAD),
        _decoder("gemma", hf.GemmaConfig, "GemmaForCausalLM", num_key_value_heads=1, head_dim=HEAD),
        _decoder("gemma2", hf.Gemma2Config, "Gemma2ForCausalLM", **GROUPED, head_dim=HEAD, sliding_window=8, query_pre_attn_scalar=16),
        _decoder("olmo2", hf.Olmo2Config, "Olmo2ForCausalLM", **GROUPED),
        _decoder("stablelm", hf.StableLmConfig, "StableLmForCausalLM", **GROUPED, **STABLE),
        _decoder("phi", hf.PhiConfig, "PhiForCausalLM"),
        _decoder("bitnet", hf.BitNetConfig, "BitNetForCausalLM", **GROUPED),
    )
}
