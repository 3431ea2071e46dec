"""Transformer families at small size, built by the `transformers` package from a configuration, with seeded random weights."""

from __future__ import annotations

from typing import Any

from models import encoder, svtr
from models.families_experts import FAMILIES as WITH_EXPERTS
from models.families_mixed import FAMILIES as MIXED
from models.family import (
    DECODER,
    HEAD,
    HEADS,
    INNER,
    LAYERS,
    SIZES,
    TEXT,
    TOKENS,
    VOCABULARY,
    WIDTH,
    Family,
    boxed,
    decoder,
    hf,
    image,
    masked,
    mel,
    pixels,
    text,
    tokens,
)
from torch import nn


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
        text("bert", hf.BertConfig, "BertModel"),
        text("roberta", hf.RobertaConfig, "RobertaModel", pad_token_id=0),
        Family("distilbert", _distilbert, masked),
        text("electra", hf.ElectraConfig, "ElectraModel", embedding_size=32),
        text("albert", hf.AlbertConfig, "AlbertModel", embedding_size=32),
        text("mpnet", hf.MPNetConfig, "MPNetModel", pad_token_id=0),
        Family("layoutlm", _layoutlm, boxed),
        Family("t5", _t5, masked),
        Family("modernbert", _modernbert, masked),
        image("vit", hf.ViTConfig, "ViTModel"),
        image("deit", hf.DeiTConfig, "DeiTModel"),
        image("dinov2", hf.Dinov2Config, "Dinov2Model", mlp_ratio=2),
        Family("dinov3", _dinov3, pixels()),
        image("beit", hf.BeitConfig, "BeitModel", use_relative_position_bias=True, drop_path_rate=0.0),
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
        decoder("gptneox", hf.GPTNeoXConfig, "GPTNeoXForCausalLM", rotary_pct=0.5),
        Family("bloom", _bloom, tokens, ("logits",), masked),
        decoder("llama", hf.LlamaConfig, "LlamaForCausalLM", **GROUPED),
        decoder("mistral", hf.MistralConfig, "MistralForCausalLM", **GROUPED, sliding_window=8),
        decoder("qwen2", hf.Qwen2Config, "Qwen2ForCausalLM", **GROUPED),
        decoder("qwen3", hf.Qwen3Config, "Qwen3ForCausalLM", **GROUPED, head_dim=HEAD),
        decoder("gemma", hf.GemmaConfig, "GemmaForCausalLM", num_key_value_heads=1, head_dim=HEAD),
        decoder("gemma2", hf.Gemma2Config, "Gemma2ForCausalLM", **GROUPED, head_dim=HEAD, sliding_window=8, query_pre_attn_scalar=16),
        decoder("olmo2", hf.Olmo2Config, "Olmo2ForCausalLM", **GROUPED),
        decoder("stablelm", hf.StableLmConfig, "StableLmForCausalLM", **GROUPED, **STABLE),
        decoder("phi", hf.PhiConfig, "PhiForCausalLM"),
        decoder("bitnet", hf.BitNetConfig, "BitNetForCausalLM", **GROUPED),
        *MIXED,
        *WITH_EXPERTS,
    )
}
