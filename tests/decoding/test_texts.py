"""What lies beside a language model: found by the names that hubs give, and refused where it is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attnc.cli import main
from attnc.decoding.texts import Texts, find_texts
from attnc.errors import DataError
from decoding.decoders import write_decoder

TOKENIZER = {"added_tokens": [{"id": 5, "content": "<s>"}, {"id": 6, "content": "<|end|>"}, {"id": 900, "content": "<far>"}], "model": {}}


def beside(folder: Path, **files: Any) -> Path:
    """Files by name, `_json` and `_jinja` for their endings."""
    for name, content in files.items():
        stem, _, ending = name.rpartition("_")
        (folder / f"{stem}.{ending}").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_nothing(tmp_path: Path) -> None:
    assert find_texts(tmp_path, 10) == Texts()
    assert find_texts(beside(tmp_path, chat_template_jinja="x", tokenizer_config_json={"chat_template": "y"}), 10) == Texts()


def test_everything(tmp_path: Path) -> None:
    settings = {"bos_token": {"content": "<s>"}, "eos_token": "<|end|>", "chat_template": "{{ bos_token }}"}
    ends = {"eos_token_id": [1, 2, 900, -1]}
    beside(tmp_path, tokenizer_json=TOKENIZER, tokenizer_config_json=settings, generation_config_json=ends, config_json={"eos_token_id": 3})
    chat = {"template": "{{ bos_token }}", "bos_token": "<s>", "eos_token": "<|end|>"}
    assert find_texts(tmp_path, 10) == Texts(tmp_path / "tokenizer.json", chat, (1, 2, 3, 6))
    beside(tmp_path, chat_template_jinja="own", tokenizer_config_json={"eos_token": "<far>", "bos_token": None})
    assert find_texts(tmp_path, 10) == Texts(
        tmp_path / "tokenizer.json", {"template": "own", "bos_token": "", "eos_token": ""} | {"eos_token": "<far>"}, (1, 2, 3)
    )


def test_one_of_several_templates(tmp_path: Path) -> None:
    several = [{"name": "tools", "template": "a"}, {"name": "default", "template": "b"}]
    beside(tmp_path, tokenizer_json=TOKENIZER, tokenizer_config_json={"chat_template": several})
    chat = find_texts(tmp_path, 10).chat
    assert chat is not None and chat["template"] == "b"
    beside(tmp_path, tokenizer_config_json={"chat_template": several[:1]})
    assert find_texts(tmp_path, 10).chat is None


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"tokenizer_config_json": "{"}, "tokenizer_config.json: needed JSON"),
        ({"tokenizer_config_json": "[" * 100000}, "tokenizer_config.json: needed JSON"),
        ({"tokenizer_config_json": []}, "tokenizer_config.json: needed an object of JSON, found list"),
        ({"tokenizer_config_json": {"chat_template": 7}}, "chat_template: needed a text, or a list with one called default, found int"),
        ({"tokenizer_config_json": {"eos_token": ["a"]}}, "eos_token: needed the text of a token, found list"),
        ({"chat_template_jinja": "{% if %}"}, "chat_template.jinja: needed a chat template in jinja2, found in line 1"),
        ({"generation_config_json": {"eos_token_id": "2"}}, "generation_config.json: eos_token_id: needed a number or a list"),
        ({"generation_config_json": {"eos_token_id": [True]}}, "generation_config.json: eos_token_id: needed a number or a list"),
    ],
)
def test_what_is_broken_is_named(files: dict[str, Any], error: str, tmp_path: Path) -> None:
    beside(tmp_path, tokenizer_json=TOKENIZER, **files)
    with pytest.raises(DataError, match=error.replace(".", r"\.")):
        find_texts(tmp_path, 10)


def test_a_broken_template_leaves_no_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_decoder(beside(tmp_path, tokenizer_json=TOKENIZER, chat_template_jinja="{% if %}") / "model.onnx")
    assert main(["compile", str(model), "--max-length", "32", "--block", "4", "--no-check", "-o", str(tmp_path / "build")]) == 2
    assert "chat_template.jinja: needed a chat template in jinja2" in capsys.readouterr().err and not (tmp_path / "build").exists()
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(DataError, match="needed text in UTF-8"):
        find_texts(tmp_path, 10)
