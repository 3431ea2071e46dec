"""Tokens to text as they come, and text to tokens, by tokenizers as models have them: words with their blanks, bytes of rare characters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attnc_host.text import Bytes, Pieces, Trained, pieces

tokenizers = pytest.importorskip("tokenizers")
WORDS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁the", "▁cat", "s"]
TOKENS = {word: token for token, word in enumerate(WORDS)}


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    """As Llama's: words have their blank in front, but for that of the first, characters without a token are bytes."""
    made: Any = tokenizers.Tokenizer(tokenizers.models.BPE(TOKENS, [], byte_fallback=True, unk_token="<unk>"))
    parts = tokenizers.decoders
    made.decoder = parts.Sequence([parts.Replace("▁", " "), parts.ByteFallback(), parts.Fuse(), parts.Strip(" ", 1, 0)])
    made.add_special_tokens(["<s>", "</s>"])
    made.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
    made.enable_truncation(4)
    made.enable_padding(length=4)
    made.save(str(tmp_path / "tokenizer.json"))
    return Trained(tmp_path / "tokenizer.json", len(TOKENS))


def tokens(*words: str) -> list[int]:
    """Those of words, and the bytes of what is none."""
    return [token for word in words for token in ([TOKENS[word]] if word in TOKENS else [TOKENS[f"<0x{b:02X}>"] for b in word.encode()])]


def test_characters_of_several_tokens(trained: Trained) -> None:
    """One behind the other, where a byte more or less before them makes all of them illegible."""
    ids = tokens("▁the", "🙂", "é", "世", "▁cat", "s")
    assert list(pieces(trained, ids)) == ["the", "🙂", "é", "世", " cat", "s"]
    assert list(pieces(Bytes(), "🙂é世".encode())) == ["🙂", "é", "世"]


def test_half_a_character_is_shown_in_the_end(trained: Trained) -> None:
    found = list(pieces(trained, tokens("▁the", "é")[:-1]))
    assert found == ["the", "\ufffd"]
    many = Pieces(trained)  # bytes that never become a character do not wait for ever
    assert any(many.add(TOKENS["<0xFF>"]) for _ in range(20))


def test_blanks_behind_a_prompt_and_behind_what_is_not_shown(trained: Trained) -> None:
    assert list(pieces(trained, tokens("▁cat", "s"), tokens("<s>", "▁the"))) == [" cat", "s"]
    assert "".join(pieces(trained, tokens("▁the", "</s>", "▁cat"))) == "the cat"


def test_a_character_that_a_prompt_began(trained: Trained) -> None:
    for tokenizer, ids in ((trained, tokens("▁the", "é")), (Bytes(), list("theé".encode()))):
        assert list(pieces(tokenizer, ids[-1:], ids[:-1])) == ["é"]


def test_what_is_put_around_a_text(trained: Trained) -> None:
    """A beginning once, and nothing is cut off or filled up, whatever others trained with."""
    assert trained.encode("ssssss") == tokens("<s>", *"ssssss") and trained.encode("s") == tokens("<s>", "s")
    assert trained.encode("s", begins=False) == tokens("s") and trained.encode("</s>", begins=False) == tokens("</s>")
