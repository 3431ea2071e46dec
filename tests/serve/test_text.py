"""Text of a decoder, asked for over a socket by the client library that most programs use. A stand-in decodes: its tokens are bytes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from attnc_host import manifest as manifests
from attnc_host.serve.generation import Pieces, Stops
from attnc_host.serve.limits import Limits
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


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["small"] and client.models.retrieve("small").owned_by == "attnc"
    with pytest.raises(openai.NotFoundError, match="needed 'small', found 'large'"):
        client.models.retrieve("large")
    with pytest.raises(openai.NotFoundError, match="needed 'small', found 'large'"):
        client.chat.completions.create(model="large", messages=ask())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.7}, "'temperature': Input should be less than or equal to 0"),
        ({"n": 2}, "'n'"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "'tools'"),
        ({"max_tokens": 65}, "max_tokens: needed at most 64, found 65"),
        ({"max_tokens": 0}, "'max_tokens'"),
        ({"messages": []}, "'messages'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]}, "'messages.0.content"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "'messages.0.role'"),
        ({"messages": [{"role": "user", "content": "x" * 300}]}, "needed at most 200 tokens with the answer, found 317"),
        ({"stop": [""]}, "'stop"),
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

    def generate(ids: Any, *, max_new_tokens: int) -> Iterator[int]:
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


def test_a_build_that_is_no_decoder(running: Running) -> None:
    assert running.json("GET", "/v1/models") == (200, {"object": "list", "data": []})
    assert running.ask("GET", "/v1/models/small")[0] == 404
    for path in (CHAT, "/v1/completions"):
        status, content, _ = running.ask("POST", path, {"model": "small", "messages": [], "prompt": "x"})
        error = json.loads(content)["error"]
        assert status == 404 and "'small' is no decoder" in error["message"] and error["type"] == "not_found_error"


def test_pieces_of_tokens_that_depend_on_each_other() -> None:
    """Tokenizers drop the space before the first token of what they decode: tokens decoded alone would lose it."""

    class Words:
        def decode(self, ids: Any) -> str:
            return "".join([" one", " two", " three"][i] for i in ids).lstrip(" ")

    pieces = Pieces(Words())  # type: ignore[arg-type]
    assert [pieces.add(i) for i in (0, 1, 2, 0)] == ["one", " two", " three", " one"] and pieces.rest() == ""


def test_stop_words_in_every_division() -> None:
    text, words = "ab abc abcd", ["abcd", "cab"]
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            stops = Stops(words)
            shown = [stops.add(part) for part in (text[:first], text[first:second], text[second:]) if not stops.found]
            assert stops.found and "".join(shown) == "ab abc "
    stops = Stops(["xyz"])
    assert [stops.add("wx"), stops.add("y"), stops.rest()] == ["w", "", "xy"]
