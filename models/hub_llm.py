"""A language model of a hub on an FPGA: export, quantize, compile, and what it costs on boards. models/hub_llm.md is the guide.

python -m models.hub_llm SmolLM2-135M/ -o build/smollm2
python -m models.hub_llm --random Qwen3-0.6B --layers 2 -o build/qwen3      (random weights, the first two layers alone)
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from models.hub_checkpoint import Checkpoint, CheckpointError
from models.hub_export import export
from models.hub_random import CONFIGS, write_checkpoint

from attnc.compiler import begin, write
from attnc.config import CompileOptions
from attnc.decoding.texts import FILES
from attnc.errors import AttncError, FitError
from attnc.outputs import check_outputs
from attnc.pipeline.phases import run
from attnc.pipeline.state import State
from attnc.schedule.cost import check_memory, estimate
from attnc.schedule.devices import find_board
from attnc.schedule.engine_choice import choose_engines
from attnc.schedule.entries import by_position
from attnc.schedule.program import build_program
from attnc_host.caches import DECODE, PREFILL, block_before
from attnc_host.errors import AcceleratorError
from attnc_host.text import open_tokenizer

BOARDS = ("kv260", "zcu104", "ultra96")
SEQUENCES = 8
"""Of calibration, each as long as the longest that the build can have."""


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say how long something took, and the most memory that there was up to its end."""
    begun = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    print(f"{what}: {time.perf_counter() - begun:.1f} s, at most {peak:.2f} GiB", flush=True)


def options_of(args: argparse.Namespace, config: dict[str, Any], calib: Path) -> CompileOptions:
    """Ternary weights stay what they are; others become 4 bits with a scale for every `--group-size` of them, by QuantEase."""
    ternary = (config.get("quantization_config") or {}).get("quant_method") == "bitnet"
    bits: dict[str, Any] = {} if ternary else {"weights": "int4", "group_size": args.group_size, "quantizer": args.quantizer}
    return CompileOptions(
        target=args.target, calib=calib, output=args.output, max_length=args.max_length, check=args.check, activation_bits=8, **bits
    )


def calibration(folder: Path, text: Path, vocabulary: int, length: int, path: Path) -> None:
    """Tokens of a text, by the tokenizer of the checkpoint, as `attnc compile --calib` takes them."""
    ids = open_tokenizer(folder / "tokenizer.json", vocabulary).encode(text.read_text(encoding="utf-8", errors="replace"))
    if len(ids) < length:
        raise CheckpointError(f"{text}: needed at least {length} tokens of text to calibrate with, found {len(ids)}")
    np.savez_compressed(path, input_ids=np.array(ids[: SEQUENCES * length], np.int64))


def speeds(state: State, boards: list[str]) -> Iterator[dict[str, Any]]:
    """A design for every board, and the tokens per second that it is estimated to give: of a prompt, and behind 64 tokens, half and all."""
    graph, decoder = state.graph, state.decoder
    assert decoder is not None
    length, block = decoder.length, decoder.block
    for name in boards:
        board = find_board(name)
        try:
            design, _ = choose_engines(graph, board, board.clock_mhz, state.options.objective)
            program = build_program(graph, design, None)
            check_memory(program, board)
        except FitError as error:
            yield {"board": name, "error": str(error)}
            continue
        places = sorted({min(64, length - 1), length // 2, length - 1})
        at = [{DECODE: place, PREFILL: block_before(place, block, length, decoder.borders)} for place in places]
        rows = by_position(program, estimate(program, board, board.clock_mhz), board, at)
        found = {(row["entry"], row["position"]): 1000 / row["ms"] for row in rows}
        prompt = min(value for (entry, _), value in found.items() if entry == PREFILL) * block
        memory = (program.weight_words + program.memory.words) * program.design.lanes
        yield {"board": name, "prefill": prompt, "decode": {place: found[DECODE, place] for place in places}, "memory_bytes": memory}


def compile_checkpoint(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The build, and a row for each board."""
    checkpoint = Checkpoint(folder)
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{folder}: needed a tokenizer.json; `transformers` writes one: AutoTokenizer.from_pretrained(...).save_pretrained"
        )
    print(f"{folder}: {checkpoint.config.get('model_type')}, {checkpoint.parameters:,} parameters")
    with tempfile.TemporaryDirectory(prefix="hub-llm-", dir=args.work) as temporary:
        path, calib = Path(temporary) / "model.onnx", Path(temporary) / "calib.npz"
        with timed("exported"):
            export(checkpoint, path, args.max_length, args.layers)
            for name in FILES:
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, path.with_name(name))
        calibration(folder, args.text, checkpoint.config["vocab_size"], args.max_length, calib)
        options = options_of(args, checkpoint.config, calib)
        check_outputs(path, options)
        state = begin(path, options, lambda stage: None)
        with timed("quantized, design chosen"):
            run(state, lambda stage: print(f"  {stage}", file=sys.stderr, flush=True))
        with timed("written" + (", simulated" if args.check else "")):
            write(state, lambda stage: None, print)
        rows = []
        for row in speeds(state, args.boards):
            print(told(row), flush=True)
            rows.append(row)
    return rows


def told(row: dict[str, Any]) -> str:
    """A row in words."""
    if "error" in row:
        return f"{row['board']}: {row['error']}"
    decode = ", ".join(f"{speed:,.1f} behind {place}" for place, speed in row["decode"].items())
    memory = f"{row['memory_bytes'] / (1 << 20):,.0f} MiB of memory"
    return f"{row['board']}, estimated: {row['prefill']:,.0f} tokens/s of a prompt, {decode} tokens; {memory}"


def parse(given: list[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="checkpoint: config.json, tokenizer.json, *.safetensors")
    parser.add_argument("--random", choices=CONFIGS, help="random weights of this shape instead")
    parser.add_argument("--text", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "tutorial.md", help="to calibrate with")
    parser.add_argument("--target", default="kv260", help="board of the build")
    parser.add_argument("--boards", nargs="+", default=list(BOARDS), help="boards whose speed is estimated")
    parser.add_argument("--max-length", type=int, default=512, help="tokens of a sequence")
    parser.add_argument("--group-size", type=int, default=32, help="weights that share a scale")
    parser.add_argument("--quantizer", default="quantease", help="of 4-bit weights; mse is quicker")
    parser.add_argument("--layers", type=int, help="so many of the first layers alone")
    parser.add_argument("--check", action=argparse.BooleanOptionalAction, default=True, help="simulate the C++ of the build")
    parser.add_argument("--work", type=Path, help="folder for the exported model, four bytes for each parameter, while it is compiled")
    parser.add_argument("-o", "--output", type=Path, default=Path("build"))
    args = parser.parse_args(given)
    if (args.folder is None) == (args.random is None):
        parser.error("needed either a folder or --random")
    return args


def main(given: list[str] | None = None) -> int:
    """Compile what the command line names; 2 after an error."""
    args = parse(given)
    try:
        if args.folder is not None:
            compile_checkpoint(args.folder, args)
        else:
            with tempfile.TemporaryDirectory(prefix="hub-random-", dir=args.work) as temporary:
                folder = write_checkpoint(Path(temporary) / args.random, CONFIGS[args.random], layers=args.layers)
                compile_checkpoint(folder, args)
    except (CheckpointError, AttncError, AcceleratorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f'{args.output}: attnc generate {args.output} --prompt "..."; attnc report {args.output}')
    return 0


if __name__ == "__main__":
    sys.exit(main())
