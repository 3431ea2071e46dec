"""Families with mixtures of experts. Built as those of `families.py` are; the experts of a token are picked by index, for each token
(`experts_implementation="batched_mm"`): of what `transformers` has, both exporters of torch write this for any routing.

In its loop over experts that have tokens, torchscript keeps those that had some in the trace, and torch.export refuses it, as it does
grouped products in float32. Switch has nothing but that loop, so it gets one over all experts here. DeepSeek-V2 rotates complex numbers,
which neither exporter can write.
"""

from __future__ import annotations

from typing import Any

import torch
from models.family import DECODER, HEAD, HEADS, INNER, LAYERS, VOCABULARY, WIDTH, Family, hf, masked, tokens
from torch import Tensor, nn

EXPERTS, CHOSEN, HIDDEN = 4, 2, 64


def _decoder(name: str, kind: str, **fields: Any) -> Family:
    """A decoder of text, as one pass over a prompt."""

    def model() -> nn.Module:
        made = getattr(hf, f"{kind}ForCausalLM")(getattr(hf, f"{kind}Config")(**{**DECODER, **fields}))
        made.set_experts_implementation("batched_mm")
        generator = torch.Generator().manual_seed(1)
        for buffer_name, buffer in made.named_buffers():
            if buffer_name.endswith("e_score_correction_bias"):  # no parameter: a training moves it
                buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))
        return made

    return Family(name, model, tokens, ("logits",), masked)


def _all_experts(self: nn.ModuleDict, hidden_states: Tensor, selected_experts: Tensor, routing_weights: Tensor) -> Tensor:
    """What Switch's experts do, in a loop over all of them."""
    total = torch.zeros_like(hidden_states)
    for number, chosen in enumerate(selected_experts.permute(2, 1, 0)):
        place, token = torch.where(chosen)
        made = self[f"expert_{number}"](hidden_states[token]) * routing_weights[token, place, None]
        total = total.index_add(0, token, made)
    return total


def _switch() -> nn.Module:
    made = hf.SwitchTransformersEncoderModel(hf.SwitchTransformersConfig(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=HEAD, d_ff=INNER, num_layers=LAYERS, num_sparse_encoder_layers=1, num_heads=HEADS,
        num_experts=EXPERTS, num_decoder_layers=1, num_sparse_decoder_layers=1, dropout_rate=0.0, relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
    ))  # fmt: skip
    for module in made.modules():
        if type(module).__name__ == "SwitchTransformersExperts":
            module.forward = _all_experts.__get__(module)  # type: ignore[method-assign]
    return made


SHARED: dict[str, Any] = {"num_key_value_heads": 2, "num_experts": EXPERTS, "num_experts_per_tok": CHOSEN}
LATENT: dict[str, Any] = {"kv_lora_rank": 32, "q_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": HEAD}
FAMILIES = (
    _decoder("mixtral", "Mixtral", num_key_value_heads=2, num_local_experts=EXPERTS, num_experts_per_tok=CHOSEN, sliding_window=None),
    _decoder("qwen2moe", "Qwen2Moe", **SHARED, moe_intermediate_size=HIDDEN, shared_expert_intermediate_size=HIDDEN),
    _decoder("qwen3moe", "Qwen3Moe", **SHARED, head_dim=HEAD, moe_intermediate_size=HIDDEN, norm_topk_prob=True),
    _decoder("olmoe", "Olmoe", **{**SHARED, "num_experts": 8, "intermediate_size": HIDDEN}),
    _decoder(
        "deepseekv3", "DeepseekV3", **LATENT, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=CHOSEN,
        moe_intermediate_size=HIDDEN, first_k_dense_replace=1, n_group=4, topk_group=2,
    ),
    Family("switch", _switch, masked, exporters=("torchscript",)),
)  # fmt: skip
