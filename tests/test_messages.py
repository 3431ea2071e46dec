"""What the command line says: escaped, short, and one message only."""

from __future__ import annotations

from attnc.messages import brief, clean, message, one_line, shown


def test_control_characters_are_escaped() -> None:
    assert clean("a\x1b[31mb\0c\td\x85e\u202ef\udc80") == r"a\x1b[31mb\x00c\td\x85e\u202ef\udc80"
    assert clean("日本 é\n") == "日本 é\n"


def test_lines_of_others_are_no_messages() -> None:
    assert message("error", "node 'a\nattnc: error: b'\n\n  c") == "attnc: error: node 'a\n  attnc: error: b'\n    c"
    assert message("note", "a\r\nb\rc") == "attnc: note: a\\r\n  b\\rc"


def test_what_is_long_is_cut() -> None:
    long = "word " * 10_000 + "x" * 10_000
    assert len(message("error", long)) < 1700 and "characters)..." in message("error", long)
    assert len(message("error", "x" * 100_000)) < 500
    assert message("error", long, whole=True).endswith("x" * 10_000)
    assert len(brief("\x1b" * 5000)) < 500
    assert len(message("error", "\x1b" * 5000)) < 500


def test_values_that_cannot_be_shown() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert shown("a") == "'a'"
    assert shown(10**5000) == "int that is too long to show" and shown(nested) == "list that is too long to show"
    while nested:  # taken apart by hand: so do not the nested calls of its end
        nested = nested[0]  # type: ignore[assignment]


def test_errors_of_libraries_in_a_line() -> None:
    assert one_line(ValueError("a\n\n  b ")) == "a b" and one_line(ValueError()) == "ValueError"
