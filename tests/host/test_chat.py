"""Conversations by the templates that models have: as `transformers` writes them, and no further than the sandbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attnc_host import AcceleratorError, InputError
from attnc_host.chat import Chat, compiled

TEMPLATES = {
    "lines of roles": """{% for message in messages %}
{% if loop.first and messages[0]['role'] != 'system' %}
{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}
{% endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message.content | trim + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "tokens and a day": """{{- bos_token }}
{%- if not day is defined %}{%- set day = strftime_now("%Y") %}{%- endif %}
{%- if messages[0].role == 'system' %}{%- set system = messages[0]['content'].strip() %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = "" %}{%- endif %}
{{- "[system]" ~ day ~ system ~ eos_token }}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception("roles must take turns") }}{%- endif %}
    {{- "[" + message.role + "]" + message.content + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "[assistant]" }}{%- endif %}""",
    "thoughts of earlier answers": """{%- set found = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == "user" %}{%- set found.last = index %}{%- break %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "assistant" %}
        {%- generation %}
        {{- message.content.split('</think>')[-1].lstrip('\\n') if loop.index0 < found.last else message.content }}
        {%- endgeneration %}
    {%- else %}{{- message | tojson }}{{ message.content | tojson(indent=2) }}{%- endif %}
{%- endfor %}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think></think>' }}{%- endif %}""",
}
TALKS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "Who are you? <é> 世界 'x' \"y\" & 1 < 2"}],
    [{"role": "system", "content": " Be brief.\n"}, {"role": "user", "content": "{{ messages }} {% raw %}"}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>hm</think>\n\nb"},
        {"role": "user", "content": "c\n"},
    ],
]


def chat(tmp_path: Path, template: str) -> Chat:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps({"template": template, "bos_token": "<s>", "eos_token": "</s>"}))
    return Chat(path)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("settings", [{}, {"enable_thinking": False}], ids=["plain", "set"])
def test_conversations_are_those_of_transformers(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", chat_template=TEMPLATES[name])
    for talk in TALKS:
        expected = theirs.apply_chat_template(talk, tokenize=False, add_generation_prompt=True, **settings)
        assert chat(tmp_path, TEMPLATES[name]).text(talk, settings) == expected and expected


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ raise_exception('no system') }}", "no system"),
        ("{{ messages[7]['content'] + 'a' }}", "no element 7"),
        ("{{ messages[0].content + 1 }}", "str"),
        ("{{ 1 / 0 }}", "zero"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe|undefined"),
        ("{% set _ = messages.append(1) %}", "safe"),
        ("{{ range(1000000) | list }}", "big"),
        ("{% include 'passwd' %}", "loader"),
    ],
)
def test_what_a_template_does_not_take_or_may_not_do(template: str, error: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"messages: the model's chat template does not take them .*({error})"):
        chat(tmp_path, template).text(TALKS[0])


def test_what_is_no_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AcceleratorError, match=r"a\.jinja: needed a chat template in jinja2, found in line 2: .*'endfor'"):
        compiled("{% for a in b %}\n{% endif %}", "a.jinja")
    with pytest.raises(AcceleratorError, match="needed a chat template"):
        compiled("{{ " + "(" * 5000, "a.jinja")
    (tmp_path / "chat.json").write_text('{"template": 3}')
    with pytest.raises(AcceleratorError, match=r"chat\.json: needed the texts template, bos_token and eos_token"):
        Chat(tmp_path / "chat.json")
    monkeypatch.setitem(__import__("sys").modules, "jinja2.sandbox", None)
    with pytest.raises(AcceleratorError, match="needs the package jinja2, which is not installed"):
        chat(tmp_path, "x")
