"""Text of a decoder, asked for over a socket by the client library that most programs use. A stand-in decodes: its tokens are bytes."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from attnc.cli import main
from attnc.compiler import compile_model
from attnc.config import CompileOptions
from attnc_host import Accelerator
from attnc_host import manifest as manifests
from attnc_host.decoder import Sampling
from attnc_host.serve.generation import Decoder, Stops, chat_prompt
from attnc_host.serve.limits import Limits
from attnc_host.text import Bytes, open_tokenizer, pieces
from decoding.decoders import write_decoder
from serving import Running, Speaker, serving

ANSWER = "Grüße, 世界! 🙂 The end."
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def speaker(shared_build: Path) -> Speaker:
    return Speaker(manifests.load(shared_build), ANSWER)


@pytest.fixture(scope="module")
def talking(speaker: Speaker) -> Iterator[Running]:
    with serving(lambda: speaker, Limits(tokens=64)) as found:
        yield found


@pytest.fixture
def client(talking: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{talking.url}/v1", api_key="none", max_retries=0, timeout=30) as found:
        yield found


def ask(text: str = "Hello") -> list[Any]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": text}]}]


def test_a_conversation(client: openai.OpenAI, speaker: Speaker) -> None:
    found = client.chat.completions.create(model="small", messages=ask())
    assert found.choices[0].message.content == ANSWER and found.choices[0].finish_reason == "stop"
    prompt = "system: Be brief.\nuser: Hello\nassistant:"
    assert speaker.prompts[-1] == prompt
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (len(prompt), len(ANSWER.encode()))


def test_several_texts_of_a_decoder_that_gives_one_at_a_time(client: openai.OpenAI, speaker: Speaker) -> None:
    chunks = list(client.chat.completions.create(model="small", messages=ask(), n=2, seed=7, stream=True))
    assert [chunk.choices[0].index for chunk in chunks[:2]] == [0, 1] and chunks[0].choices[0].delta.role == "assistant"
    for index in (0, 1):
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices[0].index == index)
        assert text == ANSWER and speaker.options["seed"] == 8


def test_a_stream_comes_piece_by_piece(client: openai.OpenAI) -> None:
    """No piece has half a character, though a token is but a byte."""
    stream = client.chat.completions.create(model="small", messages=ask(), stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert pieces == list(ANSWER)
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == len(ANSWER.encode())
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_plain_prompt(client: openai.OpenAI, speaker: Speaker) -> None:
    for prompt in ("Once", ["Once"], list(b"Once")):
        found = client.completions.create(model="small", prompt=prompt, max_tokens=4)
        assert found.choices[0].text == "Grü" and found.choices[0].finish_reason == "length" and speaker.prompts[-1] == "Once"
    streamed = client.completions.create(model="small", prompt="Once", max_tokens=4, stream=True)
    assert [chunk.choices[0].text for chunk in streamed] == ["G", "r", "ü", ""]


def test_half_a_character_at_the_end_is_shown_as_such(client: openai.OpenAI) -> None:
    assert client.completions.create(model="small", prompt="x", max_tokens=3).choices[0].text == "Gr\N{REPLACEMENT CHARACTER}"


def test_stop_words(client: openai.OpenAI, speaker: Speaker) -> None:
    """Words across pieces end the text before them, and the generation with it."""
    made = speaker.made
    found = client.chat.completions.create(model="small", messages=ask(), stop=["界!", "never"])
    assert found.choices[0].message.content == "Grüße, 世" and found.choices[0].finish_reason == "stop"
    assert speaker.made - made == len("Grüße, 世界!".encode())


def test_the_end_of_a_text_is_no_part_of_it(client: openai.OpenAI, speaker: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaker, "answer", b"Yes\0and more")
    for most in (3, 9):
        found = client.completions.create(model="small", prompt="x", max_tokens=most).choices[0]
        assert found.text == "Yes" and found.finish_reason == ("length" if most == 3 else "stop")


def test_how_tokens_are_chosen(client: openai.OpenAI, speaker: Speaker) -> None:
    client.completions.create(model="small", prompt="x", temperature=0.5, top_p=0.25, seed=7)
    assert speaker.options == {"sampling": Sampling(0.5, top_p=0.25), "seed": 7, "stop": [0]}
    for body in ({}, {"top_k": -1, "repetition_penalty": 1.0}):
        client.completions.create(model="small", prompt="x", extra_body=body)
        assert speaker.options["sampling"] == Sampling()
    client.completions.create(model="small", prompt="x", temperature=0.5, extra_body={"top_k": 5, "repetition_penalty": 1.25})
    assert speaker.options["sampling"] == Sampling(0.5, top_k=5, repetition_penalty=1.25)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["small"] and client.models.retrieve("small").owned_by == "attnc"
    with pytest.raises(openai.NotFoundError, match="needed 'small', found 'large'"):
        client.models.retrieve("large")
    with pytest.raises(openai.NotFoundError, match="needed 'small', found 'large'"):
        client.chat.completions.create(model="large", messages=ask())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 2.5}, "'temperature': Input should be less than or equal to 2"),
        ({"top_p": 0}, "'top_p'"),
        ({"extra_body": {"repetition_penalty": 0}}, "'repetition_penalty'"),
        ({"presence_penalty": 0.5}, "'presence_penalty'"),
        ({"n": 0}, "'n'"),
        ({"n": 17}, "'n'"),
        ({"n": 4, "max_tokens": 17}, "max_tokens: needed at most 16, found 17"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "'tools'"),
        ({"max_tokens": 65}, "max_tokens: needed at most 64, found 65"),
        ({"max_tokens": 0}, "'max_tokens'"),
        ({"messages": []}, "'messages'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]}, "'messages.0.content"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "'messages.0.role'"),
        ({"messages": [{"role": "user", "content": "x" * 300}]}, "needed at most 200 tokens with the answer, found 317"),
        ({"stop": [""]}, "'stop"),
        ({"extra_body": {"top_k": -2}}, "'top_k'"),
        ({"extra_body": {"min_p": 0.1}}, "'min_p'"),
        ({"extra_body": {"stop_token_ids": [1]}}, "'stop_token_ids'"),
    ],
)
def test_what_is_not_there_is_refused(client: openai.OpenAI, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "small", "messages": ask(), **fields})
    assert message in caught.value.message and caught.value.type == "invalid_request_error"


def test_who_stops_reading_stops_the_decoder(
    client: openai.OpenAI, talking: Running, speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Semaphore(2)
    monkeypatch.setattr(speaker, "go", go)
    made, ended = speaker.made, speaker.ended
    stream = client.chat.completions.create(model="small", messages=ask(), stream=True)
    next(iter(stream))
    talking.wait(lambda: speaker.made == made + 2)
    stream.close()
    talking.wait(lambda: talking.service.gate.requests == 0)
    go.release(2)
    talking.wait(lambda: speaker.ended == ended + 1)
    assert speaker.made <= made + 4
    go.release(1)
    assert client.completions.create(model="small", prompt="x", max_tokens=1).choices[0].text == "G"


def test_a_decoder_that_fails(client: openai.OpenAI, speaker: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first token there is a status; after it, an error in the stream."""

    def generate(ids: Any, max_new_tokens: int, **options: Any) -> Iterator[int]:
        yield from good
        raise RuntimeError("broken")

    monkeypatch.setattr(speaker, "generate", generate)
    good: list[int] = []
    with pytest.raises(openai.InternalServerError, match="internal error: RuntimeError"):
        client.chat.completions.create(model="small", messages=ask(), stream=True)
    good.append(65)
    seen = []
    with pytest.raises(openai.APIError, match="internal error: RuntimeError"):
        for chunk in client.chat.completions.create(model="small", messages=ask(), stream=True):
            seen.append(chunk.choices[0].delta.content)
    assert seen == ["", "A"]


def test_texts_have_a_deadline(shared_build: Path) -> None:
    """For the first token and for the last; whoever waits behind is served then."""
    speaker = Speaker(manifests.load(shared_build), ANSWER)
    speaker.go = threading.Semaphore(2)
    with serving(lambda: speaker, Limits(deadline=1.0, stream=2.0)) as at:
        with openai.OpenAI(base_url=f"{at.url}/v1", api_key="none", max_retries=0, timeout=30) as client:
            stream = iter(client.chat.completions.create(model="small", messages=ask(), stream=True))
            assert [next(stream).choices[0].delta.content for _ in range(3)] == ["", "G", "r"]
            with pytest.raises(openai.InternalServerError, match="deadline"):
                client.chat.completions.create(model="small", messages=ask())
            with pytest.raises(openai.APIError, match="deadline"):
                next(stream)
            speaker.go.release(3)
            assert client.completions.create(model="small", prompt="x", max_tokens=1).choices[0].text == "G"
        assert at.service.gate.requests == 0


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of random weights whose tokens are bytes."""
    folder = tmp_path_factory.mktemp("decoder")
    model = write_decoder(folder / "bytes.onnx", vocabulary=256)
    return compile_model(model, CompileOptions(max_length=32, block=4, sessions=2, batch=2, check=False, output=folder / "build"))


def test_a_decoder_answers_as_generate_does(decoder: Path) -> None:
    """A build of attnc: over the socket comes what `Accelerator.generate` gives, likeliest or drawn; what is too long is refused."""
    with Accelerator.open(decoder, "golden") as golden, serving(lambda: Decoder(golden)) as at:
        with openai.OpenAI(base_url=f"{at.url}/v1", api_key="none", max_retries=0, timeout=30) as client:
            name = at.service.name
            for fields, sampling in (({}, Sampling()), ({"temperature": 1.5, "top_p": 0.9, "seed": 3}, Sampling(1.5, top_p=0.9))):
                made = list(golden.generate(list(b"Hello"), 12, sampling=sampling, seed=3))
                expected = "".join(pieces(Bytes(), made))
                chunks = client.completions.create(model=name, prompt="Hello", max_tokens=12, stream=True, **fields)
                assert "".join(chunk.choices[0].text for chunk in chunks) == expected
                whole = client.completions.create(model=name, prompt=list(b"Hello"), max_tokens=12, **fields)
                assert whole.choices[0].text == expected and whole.choices[0].finish_reason == "length"
            assert whole.usage is not None and (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (5, 12)
            for prompt, error in {
                "Hello": "at most 32 tokens with the answer, found 5 tokens and an answer of 28",
                (): "prompt: needed at least one token",
                (256,): "ids: needed tokens from 0 to 255, found 256",
                (-1,): "greater than or equal to 0",
                ("a", "b"): "at most 1 item",
            }.items():
                with pytest.raises(openai.BadRequestError, match=error):
                    client.completions.create(model=name, prompt=prompt, max_tokens=28)
        assert at.metric("attnc_tokens_total") == 48 and at.metric("attnc_failures_total") == 0


def test_conversations_by_the_template_of_the_model(decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the service and by `attnc generate --chat`; a setting changes it, and what the template refuses is the client's mistake."""
    template = "{% if messages|length > 1 %}{{ raise_exception('one only') }}{% endif %}<{{ messages[0].content }}{{ '!' if loud }}>"
    build = tmp_path / "build"
    shutil.copytree(decoder, build)
    (build / "host" / "chat.json").write_text(json.dumps({"template": template, "bos_token": "", "eos_token": ""}))
    manifest = json.loads((build / "manifest.json").read_text())
    assert manifest["decoder"]["chat"] is None and manifest["decoder"]["ends"] == []
    with Accelerator.open(decoder, "golden") as golden:
        made = list(golden.generate(list(b"<Hi>"), 9))
    manifest["decoder"] |= {"chat": "host/chat.json", "ends": [made[5]]}
    (build / "manifest.json").write_text(json.dumps(manifest))
    ended = made[: made.index(made[5])]
    with (
        Accelerator.open(build, "golden", verify=False) as golden,
        serving(lambda: Decoder(golden)) as at,
        openai.OpenAI(base_url=f"{at.url}/v1", api_key="none", max_retries=0, timeout=30) as client,
    ):

        def answer(count: int = 1, **settings: Any) -> Any:
            asked: list[Any] = [{"role": "user", "content": "Hi"}] * count
            more = {"chat_template_kwargs": settings} if settings else {}
            return client.chat.completions.create(model=at.service.name, messages=asked, max_tokens=9, extra_body=more)

        found = answer()
        assert found.choices[0].message.content == "".join(pieces(Bytes(), ended)) and found.choices[0].finish_reason == "stop"
        assert found.usage.prompt_tokens == 4 and answer(loud=True).usage.prompt_tokens == 5
        for count, settings, error in (
            (2, {}, "one only"),
            (1, {"messages": 1}, "multiple values"),
            (1, {"a": [1]}, "chat_template_kwargs"),
        ):
            with pytest.raises(openai.BadRequestError, match=error):
                answer(count, **settings)
    with Accelerator.open(decoder, "golden") as golden, serving(lambda: Decoder(golden)) as at:
        asked = {"messages": [{"role": "user", "content": "Hi"}], "chat_template_kwargs": {"loud": True}}
        status, content, _ = at.ask("POST", CHAT, {"model": at.service.name, **asked})
        assert status == 400 and b"the build has no chat template, found loud" in content
    generate = ("--chat", "--backend", "golden", "--no-verify", "--json", "--tokens", "9")
    assert main(["generate", str(build), "--prompt", "Hi", *generate]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["prompt_ids"] == list(b"<Hi>") and said["ids"] == [*ended, made[5]]
    talk = ("--session", str(tmp_path / "talk.json"))
    assert main(["generate", str(build), "--prompt", "Hi", *generate, *talk]) == 0
    for given, error in (
        ([str(build), "--prompt", "Hi", *talk], "--chat: begins a conversation, so needed a new --session"),
        ([str(build), "--ids", "1"], "--chat: needed --prompt"),
        ([str(decoder), "--prompt", "Hi"], "--chat: the build has no chat template"),
    ):
        assert main(["generate", *given, *generate]) == 2 and error in capsys.readouterr().err


def test_several_texts_are_what_as_many_calls_give(decoder: Path) -> None:
    """Two of them together, the third behind them; one stops at a word, and the others go on. Parts of a stream say whose they are."""
    with Accelerator.open(decoder, "golden") as golden, serving(lambda: Decoder(golden)) as at:
        expected = [
            "".join(pieces(Bytes(), golden.generate(list(b"Hello"), 9, sampling=Sampling(1.5), seed=5 + number))) for number in range(3)
        ]
        word = next(c for c in expected[0] if c not in expected[1] + expected[2])
        with openai.OpenAI(base_url=f"{at.url}/v1", api_key="none", max_retries=0, timeout=30) as client:
            asked: dict[str, Any] = {"model": at.service.name, "prompt": "Hello", "max_tokens": 9, "temperature": 1.5, "seed": 5, "n": 3}
            whole = client.completions.create(**asked, stop=word)
            assert [choice.text for choice in whole.choices] == [expected[0].split(word)[0], *expected[1:]]
            assert [(choice.index, choice.finish_reason) for choice in whole.choices] == [(0, "stop"), (1, "length"), (2, "length")]
            found, ends = [""] * 3, list[int]()
            for chunk in client.completions.create(**asked, stream=True):
                (choice,) = chunk.choices
                found[choice.index] += choice.text
                ends += [choice.index] if choice.finish_reason else []
            assert found == expected and ends == [0, 1, 2]


def test_conversations_keep_their_caches(decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that take turns, each in a session of its own; a third takes the place of the one that was asked the longest ago."""
    with Accelerator.open(decoder, "golden") as golden:
        run, runs = golden._in_turn, list[tuple[int, int]]()

        def counted(image: np.ndarray, scalars: dict[str, int]) -> np.ndarray:
            runs.append((scalars["session"], scalars["position"]))
            return run(image, scalars)

        monkeypatch.setattr(golden, "_in_turn", counted)
        talks, generator = {1: list(b"Hello"), 2: list(b"Good morning")}, Decoder(golden)

        def asked(number: int) -> list[tuple[int, int]]:
            before = len(runs)
            talks[number] += [*generator.generate(talks[number], 2, sampling=Sampling(), seed=0, stop=()), 7]
            return runs[before:]

        assert {session for session, _ in asked(1)} == {0} and {session for session, _ in asked(2)} == {1}
        assert asked(1) == [(0, 6), (0, 7), (0, 8)] and asked(2) == [(1, 13), (1, 14), (1, 15)]
        talks[3] = list(b"Who?")
        assert asked(3)[0] == (0, 0) and asked(2)[0] == (1, 16)


def test_a_conversation_that_comes_back_is_what_caches_hold() -> None:
    asked = [{"role": "user", "content": "Who are you?"}]
    prompt = chat_prompt(asked)
    for answer in (" A model.", " A\nmodel"):
        asked += [{"role": "assistant", "content": answer}, {"role": "user", "content": "Which?"}]
        following = chat_prompt(asked)
        assert following == f"{prompt}{answer}\nuser: Which?\nassistant:"
        prompt = following


def test_a_build_that_is_no_decoder(running: Running) -> None:
    assert running.json("GET", "/v1/models") == (200, {"object": "list", "data": []})
    assert running.ask("GET", "/v1/models/small")[0] == 404
    for path in (CHAT, "/v1/completions"):
        status, content, _ = running.ask("POST", path, {"model": "small", "messages": [], "prompt": "x"})
        error = json.loads(content)["error"]
        assert status == 404 and "'small' is no decoder" in error["message"] and error["type"] == "not_found_error"


def test_tokens_that_end_a_text_are_found_by_their_names(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"a": 0, "</s>": 1, "b": 2, "<|im_end|>": 3}, unk_token="a")
    tokenizers.Tokenizer(words).save(str(tmp_path / "tokenizer.json"))
    assert open_tokenizer(tmp_path / "tokenizer.json", 4).ends == {1, 3} and Bytes().ends == set()
    assert open_tokenizer(tmp_path / "tokenizer.json", 3).ends == {1}


def test_stop_words_in_every_division() -> None:
    text, words = "ab abc abcd", ["abcd", "cab"]
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            stops = Stops(words)
            shown = [stops.add(part) for part in (text[:first], text[first:second], text[second:]) if not stops.found]
            assert stops.found and "".join(shown) == "ab abc "
    stops = Stops(["xyz"])
    assert [stops.add("wx"), stops.add("y"), stops.rest()] == ["w", "", "xy"]
