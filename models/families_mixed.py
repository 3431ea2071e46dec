"""Families that need operators of other kinds around attention: norms over tokens, pooling, softmax over tokens, biases that are products
of queries and a table, gathers, Fourier transforms. Built as those of `families.py` are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from models import transformer_xl
from models.family import (
    HEAD,
    HEADS,
    IMAGE,
    INNER,
    LAYERS,
    SIZES,
    TOKENS,
    VOCABULARY,
    WIDTH,
    Family,
    decoder,
    hf,
    masked,
    pixels,
    text,
    tokens,
)
from torch import Tensor, nn

DYNAMO = ("dynamo",)
"""Of what torchscript cannot write in opset 17."""


def wave() -> dict[str, Tensor]:
    """Sound of as many samples as make TOKENS tokens."""
    return {"input_values": torch.randn(1, 340, generator=torch.Generator().manual_seed(0))}


def series() -> dict[str, Tensor]:
    """Features of points in time."""
    return {"inputs_embeds": torch.randn(1, TOKENS, 5, generator=torch.Generator().manual_seed(0))}


def shuffled() -> dict[str, Tensor]:
    """A picture, and numbers whose order says which tokens are seen."""
    return {**pixels()(), "noise": torch.rand(1, 16, generator=torch.Generator().manual_seed(0))}


def masked_by_floats() -> dict[str, Tensor]:
    """Token numbers with a padding mask in floating point."""
    found = masked()
    return {**found, "attention_mask": found["attention_mask"].float()}


def _speech(name: str, kind: str, **fields: Any) -> Family:
    """Three convolutions, the first with a norm of every channel over all tokens, then a transformer."""
    config = getattr(hf, f"{kind}Config")(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=INNER, vocab_size=32,
        conv_dim=(32, 32, 32), conv_stride=(5, 2, 2), conv_kernel=(10, 3, 3), num_feat_extract_layers=3, num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4, apply_spec_augment=False, layerdrop=0.0, **fields,
    )  # fmt: skip
    return Family(name, lambda: getattr(hf, f"{kind}Model")(config), wave)


def _poolformer() -> nn.Module:
    return hf.PoolFormerModel(hf.PoolFormerConfig(
        hidden_sizes=[32, 64], depths=[2, 1], num_encoder_blocks=2, patch_sizes=[7, 3], strides=[4, 2], padding=[2, 1], mlp_ratio=2.0,
        drop_path_rate=0.0,
    ))  # fmt: skip


def _mobilevitv2() -> nn.Module:
    return hf.MobileViTV2Model(hf.MobileViTV2Config(
        image_size=64, width_multiplier=0.25, base_attn_unit_dims=[64, 64, 64], n_attn_blocks=[1, 1, 1], mlp_ratio=1.0, expand_ratio=1.0,
        attn_dropout=0.0, ffn_dropout=0.0,
    ))  # fmt: skip


def _hiera() -> nn.Module:
    return hf.HieraModel(hf.HieraConfig(
        image_size=[32, 32], patch_size=[7, 7], patch_stride=[4, 4], patch_padding=[3, 3], embed_dim=32, depths=[1, 2], num_heads=[2, 4],
        num_query_pool=1, query_stride=[2, 2], masked_unit_size=[4, 4], masked_unit_attention=[True, False], mlp_ratio=2.0,
        drop_path_rate=0.0,
    ))  # fmt: skip


class Informer(nn.Module):
    """The encoder, with attention to all keys and convolutions that halve the tokens between layers."""

    def __init__(self) -> None:
        super().__init__()
        from transformers.models.informer.modeling_informer import InformerEncoder

        self.encoder = InformerEncoder(hf.InformerConfig(
            prediction_length=4, context_length=TOKENS, d_model=WIDTH, encoder_layers=LAYERS, encoder_attention_heads=HEADS,
            encoder_ffn_dim=INNER, attention_type="full", lags_sequence=[0], num_time_features=2, dropout=0.0, encoder_layerdrop=0.0,
        ))  # fmt: skip

    def forward(self, inputs_embeds: Tensor, return_dict: bool = True) -> dict[str, Tensor]:
        """What the encoder does; its own mask would keep the length of the first layer."""
        own = self.encoder
        x = own.layernorm_embedding(own.value_embedding(inputs_embeds) + own.embed_positions(inputs_embeds.size()))
        for layer, shorten in zip(own.layers, own.conv_layers, strict=True):
            x = layer(x, None)
            x = x if shorten is None else shorten(x)
        return {"last_hidden_state": x}


class Pooled(nn.Module):
    """A vision transformer whose tokens a small network weighs, by a softmax over them."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = hf.ViTModel(hf.ViTConfig(**IMAGE), add_pooling_layer=False)
        self.weigh = nn.Sequential(nn.Linear(WIDTH, 32), nn.Tanh(), nn.Linear(32, 1))
        self.classify = nn.Linear(WIDTH, 20)

    def forward(self, pixel_values: Tensor, return_dict: bool = True) -> dict[str, Tensor]:
        """Scores of classes."""
        x = self.vit(pixel_values).last_hidden_state
        return {"logits": self.classify((self.weigh(x).softmax(dim=1) * x).sum(dim=1))}


def _xlnet() -> nn.Module:
    return hf.XLNetModel(hf.XLNetConfig(
        vocab_size=VOCABULARY, d_model=WIDTH, n_layer=LAYERS, n_head=HEADS, d_inner=INNER, dropout=0.0, use_mems_eval=False
    ))  # fmt: skip


def _funnel() -> nn.Module:
    return hf.FunnelBaseModel(hf.FunnelConfig(
        vocab_size=VOCABULARY, block_sizes=[1, 1], d_model=WIDTH, n_head=HEADS, d_head=HEAD, d_inner=INNER, hidden_dropout=0.0,
        attention_dropout=0.0,
    ))  # fmt: skip


def _fnet() -> nn.Module:
    return hf.FNetModel(hf.FNetConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, intermediate_size=INNER, max_position_embeddings=32,
        hidden_dropout_prob=0.0,
    ))  # fmt: skip


DISENTANGLED: dict[str, Any] = {
    "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True,
    "position_biased_input": False, "type_vocab_size": 0,
}  # fmt: skip
"""As the published models of DeBERTa-v3 have it."""
FAMILIES = (
    _speech("wav2vec2", "Wav2Vec2"),
    _speech("hubert", "Hubert"),
    _speech("wavlm", "WavLM", num_buckets=16, max_bucket_distance=32),
    Family("poolformer", _poolformer, pixels()),
    Family("mobilevitv2", _mobilevitv2, pixels(64), exporters=DYNAMO),
    Family("hiera", _hiera, pixels()),
    Family("informer", Informer, series),
    Family("siglip", lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**{**SIZES, **IMAGE})), pixels(), ("pooler_output",)),
    Family("pooled", Pooled, pixels(), ("logits",)),
    text("convbert", hf.ConvBertConfig, "ConvBertModel", embedding_size=WIDTH, conv_kernel_size=5),
    text("debertav2", hf.DebertaV2Config, "DebertaV2Model", **DISENTANGLED),
    Family("xlnet", _xlnet, masked_by_floats),
    Family("transformerxl", transformer_xl.TransformerXL, tokens),
    Family("funnel", _funnel, masked),
    Family("vitmae", lambda: hf.ViTMAEModel(hf.ViTMAEConfig(**IMAGE, mask_ratio=0.5)), shuffled),
    replace(decoder("diffllama", hf.DiffLlamaConfig, "DiffLlamaForCausalLM", num_key_value_heads=2), exporters=DYNAMO),
    replace(decoder("apertus", hf.ApertusConfig, "ApertusForCausalLM", num_key_value_heads=2), exporters=DYNAMO),
    Family("fnet", _fnet, tokens, exporters=DYNAMO),
)
