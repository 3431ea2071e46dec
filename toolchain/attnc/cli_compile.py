"""Options and examples of `attnc compile`, those of its search for formats of weights above all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnc.config import Head

TargetOption = Annotated[
    str | None, typer.Option("--target", help="Board (see `attnc targets`), or a YAML or TOML file with one.", show_default="kv260")
]
CalibOption = Annotated[
    Path | None,
    typer.Option(
        "--calib",
        help="Calibration inputs, .npz by input name; by default calib.npz beside the model. Without: made-up inputs, accuracy is a guess.",
    ),
]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="METRIC",
        help='With weights auto, what the cheapest formats must hold: "cosine>=0.99", "sqnr>=30" (dB), "accuracy_drop<=1" (points).',
    ),
]
HeldoutOption = Annotated[Path | None, typer.Option("--heldout", help="Samples that figures, and --budget, are measured on; see below.")]
HoldOutOption = Annotated[
    int | None,
    typer.Option("--hold-out", metavar="K", help="Measure on every K-th sample of --calib; 0: none.", show_default="see below"),
]
LabelsOption = Annotated[str | None, typer.Option("--labels", help="Name of their labels in the .npz.", show_default="label")]
PoolOption = Annotated[
    str | None,
    typer.Option(
        "--pool",
        metavar="mean:MASK",
        help="Measure --budget on rows of the outputs where the input MASK is not 0: their mean (mean:MASK), or as they are (rows:MASK).",
    ),
]
QuantizerOption = Annotated[
    str | None,
    typer.Option(
        "--quantizer",
        help="minmax, mse, absmean, absmean_tensor, gptq, quantease, binary.",
        show_default="quantease; without --calib mse for int8 and int6",
    ),
]
MaxLengthOption = Annotated[
    int | None,
    typer.Option("--max-length", metavar="TOKENS", help="Compile a decoder that generates tokens, with a cache for sequences of so many."),
]
BlockOption = Annotated[
    int | None, typer.Option("--block", metavar="TOKENS", help="Tokens of a prompt that are worked on at a time.", show_default="32")
]
CacheOption = Annotated[
    str,
    typer.Option(
        "--cache",
        metavar="FORMAT",
        help="Keys and values of a decoder in memory: int8, k4v8 or int4; of 4 bits the first and the newest in 8, but with --batch.",
    ),
]
HeadOption = Annotated[
    Head, typer.Option("--head", help="Where the last linear layer of a decoder runs, with equal integers; auto: where a token takes less.")
]
BatchOption = Annotated[
    int | None,
    typer.Option("--batch", metavar="N", help="Continuations of a prompt that are decoded together, reading weights and prompt once."),
]
SessionsOption = Annotated[int, typer.Option("--sessions", metavar="N", help="Sequences that have caches of their own.")]
CheckOption = Annotated[
    bool,
    typer.Option(
        "--check/--no-check",
        help="Run the C++ in time on the build's vectors; one that differs from golden or stands still is not written.",
    ),
]
EPILOG = (
    "\b\nExamples:\n"
    "  attnc compile vit.onnx --target kv260 --calib images.npz\n"
    "  attnc compile bert.onnx --target zcu104 --shape input_ids=1,128 --shape attention_mask=1,128 -o build/bert\n"
    "  attnc compile vit.onnx --target my_board.yaml --clock 150 --json > report.json\n"
    '  attnc compile vit.onnx --calib images.npz --weights auto --budget "accuracy_drop<=1"\n'
    '  attnc compile bert.onnx --calib text.npz --weights auto --budget "cosine>=0.99" --pool mean:attention_mask\n'
    "  attnc compile vit.onnx --calib images.npz --config build/attnc.yaml\n"
    '  attnc compile lm.onnx --calib text.npz --max-length 512           then: attnc generate build --prompt "def "\n\n'
    "\b\nBudgets, golden (integers) against float, of the worst output:\n"
    "  cosine         between the two output vectors of a sample, the mean over the samples\n"
    "  sqnr           10 log10(sum float^2 / sum (golden - float)^2) over all samples, in dB\n"
    "  accuracy_drop  top-1 accuracy of float less golden's, in points; needs labels; of the first output\n"
    "A budget of cosine or sqnr is held if the figure less two standard errors holds it. Figures are measured on\n"
    "--heldout, by default on every 4th sample of --calib (without a budget on at most 8 of them; of 2 or 3 samples\n"
    "on the last), which then do not calibrate. The search keeps what\n"
    "it knows in OUTPUT.search: the same command goes on from there, another budget starts from there. The choice\n"
    "is attnc.yaml in the build: --config makes the same build of it without a search.\n\n"
    "\b\nExit code: 0 when a build was written, 1 when its C++ differs from golden (nothing is written), 2 after an error."
)
