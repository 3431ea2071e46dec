"""A mixture of experts in torch, with a gate for each task, as M3ViT has it (H. Liang et al., 2022): the experts serve all tasks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Mixture(nn.Module):
    """x [B, T, C] and the task of each sample [B] to [B, T, C].

    R(x) are the `chosen` largest of the softmax of a gate's logits, divided by their sum with `renormalise`, and 0 for all other experts;
    the result is the sum of R(x)_e times expert e of x, a network of one hidden layer of `hidden` with GELU. Written with all experts for
    all tokens, which a training needs and an export may leave as it is.
    """

    def __init__(self, width: int, hidden: int, experts: int, chosen: int, tasks: int, renormalise: bool) -> None:
        super().__init__()
        self.chosen, self.renormalise = chosen, renormalise
        self.gate = nn.Parameter(torch.randn(tasks, width, experts) * width**-0.5)
        self.up = nn.Parameter(torch.randn(experts, width, hidden) * width**-0.5)
        self.up_bias = nn.Parameter(torch.zeros(experts, 1, hidden))
        self.down = nn.Parameter(torch.randn(experts, hidden, width) * hidden**-0.5)
        self.down_bias = nn.Parameter(torch.zeros(experts, 1, width))
        self.imbalance: Tensor = torch.zeros(())
        """After a pass in training: experts times the sum of the share of tokens and the mean score of each, which is at least 1."""

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """All samples."""
        scores = (x @ self.gate[task]).softmax(dim=-1)
        values, index = scores.topk(self.chosen, dim=-1)
        if self.renormalise:
            values = values / values.sum(dim=-1, keepdim=True)
        weights = torch.zeros_like(scores).scatter(-1, index, values)
        if self.training:
            share = (weights > 0).float().mean(dim=(0, 1)) / self.chosen
            self.imbalance = len(share) * (share * scores.mean(dim=(0, 1))).sum()
        hidden = functional.gelu(x.unsqueeze(1) @ self.up + self.up_bias)
        made = hidden @ self.down + self.down_bias  # [B, experts, T, C]
        return (made * weights.transpose(1, 2).unsqueeze(-1)).sum(dim=1)
