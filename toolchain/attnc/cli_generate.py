"""`attnc generate`: text from a build that was compiled with --max-length."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from attnc.console import Json, Types, Verbose, Verify, note, print_json
from attnc.errors import ConfigError
from attnc.messages import clean
from attnc.speed import Watch, told_speed
from attnc_host import Accelerator, archive
from attnc_host.backends import choose
from attnc_host.boards import open as boards
from attnc_host.branches import generate_many
from attnc_host.caches import Decoder
from attnc_host.chat import Chat
from attnc_host.decoder import Sampling, decoder_of
from attnc_host.manifest import Manifest
from attnc_host.progress import Progress
from attnc_host.text import BYTES, open_tokenizer, pieces

MOST_SAMPLES = 4096
GENERATE: dict[str, Any] = {
    "short_help": "Generate text with a decoder.",
    "no_args_is_help": True,
    "epilog": "\b\nExamples:\n"
    '  attnc generate build/ --prompt "def " --tokens 200\n'
    '  attnc generate build/ --prompt "The" --temperature 0.8 --top-p 0.9 --seed 7\n'
    '  attnc generate build/ --prompt "Who are you?" --chat\n'
    "  attnc generate build/ --ids 1,2,3 --tokens 20 --backend golden --json\n"
    '  attnc generate build/ --prompt "def " --tokens 50 --backend cosim     (in simulated time: cycles of every token)\n'
    '  attnc generate build/ --prompt "and then" --session talk.json      (goes on where talk.json ended)\n'
    '  attnc generate build/ --prompt "The" --samples 4 --temperature 1   (together, if compiled with --batch 4)\n'
    "  echo -n 'def ' | attnc generate build/ --prompt - > answer.txt\n\n"
    "\b\nWhat runs the program; all give the same tokens:\n"
    "  csim     the emitted C++ on this machine, as fast as it goes\n"
    "  golden   the integer model in NumPy\n"
    "  cosim    the emitted C++ in simulated time, so that the cycles of each token are known\n"
    "  virtual  the driver of boards on a simulated one\n"
    "  board    the board that is here: uio, xrt or pynq, which may be named too; auto: that, else csim\n\n"
    "\b\nA token that usually ends a text ends it (</s>, <|im_end|>, <|endoftext|> and the like, where the tokenizer has it),\n"
    "and so do those that lay beside the model (eos_token of tokenizer_config.json, eos_token_id of generation_config.json).\n\n"
    "\b\nText goes to stdout as it comes, speed to stderr: of this run, on this machine (of the board, where one runs it), and\n"
    "what the board is estimated to do at these positions of the sequence, since the more tokens there are the more keys\n"
    "have to be looked at. With cosim what it was simulated to do stands beside. Of the host's work a head there is in these\n"
    "(attnc compile --head), and nothing else.",
}


def generate(
    build: Annotated[Path, typer.Argument(metavar="BUILD", help="A build folder, or an archive that `attnc package` made.")],
    prompt: Annotated[str | None, typer.Option("--prompt", help="The text to go on from; -: what stdin has.")] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is what a user says: it begins a conversation as the model's chat template has it.")
    ] = False,
    ids: Annotated[str | None, typer.Option("--ids", metavar="1,2,3", help="The same as token ids.")] = None,
    tokens: Annotated[int, typer.Option("--tokens", help="Tokens to generate, at most.")] = 100,
    temperature: Annotated[float, typer.Option("--temperature", help="0 takes the likeliest token, above 1 surprises.")] = 0.0,
    top_k: Annotated[int, typer.Option("--top-k", help="Choose among so many likeliest; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option("--top-p", help="Choose among the likeliest that have this probability together.")] = 1.0,
    repetition_penalty: Annotated[float, typer.Option("--repetition-penalty", help="Above 1: tokens come again less often.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="End behind this token too (its text, or id); may be repeated.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the choices.")] = 0,
    backend: Annotated[
        str,
        typer.Option("--backend", help="What runs the program: csim, golden, cosim, virtual, board, uio, xrt, pynq, auto; see below."),
    ] = "csim",
    samples: Annotated[
        int,
        typer.Option(
            "--samples", min=1, max=MOST_SAMPLES, metavar="N", help="So many texts that go on from the prompt; seeds follow each other."
        ),
    ] = 1,
    session: Annotated[Path | None, typer.Option("--session", metavar="FILE", help="Go on from this session, and save it there.")] = None,
    types: Types = "native",
    verify: Verify = True,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Generate text with a build that was compiled with --max-length, through the same runtime as a board."""
    if (prompt is None) == (ids is None):
        raise ConfigError("needed either --prompt or --ids")
    if chat and prompt is None:
        raise ConfigError("--chat: needed --prompt, what a user says, found --ids")
    if session is not None and not session.absolute().parent.is_dir():
        raise ConfigError(f"--session {session}: there is no folder {session.absolute().parent}")
    if samples > 1 and session is not None:
        raise ConfigError(f"--samples {samples}: a session is one text, so needed no --session")
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty)
    with Progress() as progress, contextlib.ExitStack() as held:
        manifest = held.enter_context(archive.opened(build, verify))
        name = _chosen(backend, manifest)
        options: dict[str, Any] = {"types": types} if name == "csim" else {}
        accelerator = held.enter_context(Accelerator.open(manifest, name, **options))
        decoder = decoder_of(accelerator.manifest)
        speaks = prompt is not None or decoder.tokenizer is not None or decoder.vocabulary >= BYTES
        tokenizer = open_tokenizer(decoder.tokenizer, decoder.vocabulary) if speaks else None
        sequence = accelerator.session()
        if session is not None and session.exists():
            sequence.load(session)
        asked = _text("--prompt -" if prompt == "-" else "--prompt", sys.stdin.read if prompt == "-" else lambda: prompt or "")
        begins = not sequence.ids
        if chat:
            asked, begins = _conversation(asked, decoder, begins), False
        given = _ids(ids) if ids is not None else tokenizer.encode(asked, begins) if tokenizer is not None else []
        if not given:
            raise ConfigError("--prompt: needed a text of at least one token, found none")
        ends = [*decoder.ends, *(tokenizer.ends if tokenizer is not None else ())]
        ends += [_stop(text, tokenizer, decoder.vocabulary) for text in stop or []]
        progress.finish()
        before = [*sequence.ids, *sequence.checked(given)]
        made: list[list[int]] = [[] for _ in range(samples)]
        watch = Watch(sequence, accelerator.backend)

        def told() -> Iterator[int]:
            one = ((0, token) for token in sequence.generate(given, tokens, sampling, ends, seed)) if samples == 1 else None
            for number, token in one or generate_many(sequence, [given] * samples, tokens, sampling, ends, seed):
                watch.token()
                made[number].append(token)
                yield token

        if as_json or tokenizer is None or samples > 1:
            for _ in told():
                pass
        else:
            for text in pieces(tokenizer, told(), before):
                _show(text)
            print()
        speed = watch.speed()
        if session is not None:
            if sequence.left:
                sequence.extend(made[0][-1:])  # what comes next follows the last token too
            sequence.save(session)
    texts = ["".join(pieces(tokenizer, ids, before)) if tokenizer is not None else None for ids in made]
    if as_json:
        several = {"samples": [{"ids": ids, "text": text} for ids, text in zip(made, texts, strict=True)]} if samples > 1 else {}
        print_json({"prompt_ids": given, "ids": made[0], "text": texts[0], **several, "backend": name, **speed})
        return
    for number, (ids, whole) in enumerate(zip(made, texts, strict=True), 1):
        if samples > 1:
            print(f"--- {number} of {samples}")
        if whole is None:
            print(" ".join(map(str, ids)))
        elif samples > 1:
            _show(whole)
            print()
    for line in told_speed(speed, name):
        note(line)


def _show(text: str) -> None:
    sys.stdout.write("\t".join(map(clean, text.split("\t"))))
    sys.stdout.flush()


def _chosen(backend: str, manifest: Manifest) -> str:
    """The backend of a name that stands for others."""
    if backend == "auto":
        return choose(manifest)
    if backend != "board":
        return backend
    found = boards.found(manifest)
    if found is None:
        raise ConfigError("--backend board: no board that runs this build was found here; `virtual` is a simulated one")
    return found


def _text(option: str, read: Callable[[], str]) -> str:
    """What an option says, which must be characters: the command line lets other bytes pass."""
    try:
        text = read()
        text.encode()
    except (UnicodeEncodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option}: needed text in UTF-8, found other bytes ({error.reason})") from error
    return text


def _conversation(text: str, decoder: Decoder, begins: bool) -> str:
    """What a user says first, as the model's template writes it."""
    if decoder.chat is None:
        raise ConfigError(
            "--chat: the build has no chat template; needed, when it was compiled, a tokenizer.json beside the model with a "
            "chat_template.jinja, or a tokenizer_config.json that has one"
        )
    if not begins:
        raise ConfigError("--chat: begins a conversation, so needed a new --session, found one with tokens")
    return Chat(decoder.chat).text([{"role": "user", "content": text}])


def _ids(text: str) -> list[int]:
    if not re.fullmatch(r"\s*-?[0-9]{1,20}\s*(,\s*-?[0-9]{1,20}\s*)*", text, re.ASCII):
        raise ConfigError(f"--ids {text!r:.100}: needed whole numbers with commas between them")
    return [int(part) for part in text.split(",")]


def _stop(text: str, tokenizer: Any, vocabulary: int) -> int:
    found = tokenizer.encode(_text("--stop", lambda: text), begins=False) if tokenizer is not None else []
    if len(found) == 1:
        return int(found[0])
    if text.isdecimal() and int(text) < vocabulary:
        return int(text)
    raise ConfigError(f"--stop {text!r}: needed a text of one token, or the id of one, 0 to {vocabulary - 1}; it has {len(found)}")
