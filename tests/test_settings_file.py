"""Files of settings: whatever is wrong with one is an error that says where, and is found at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from attnc.errors import ConfigError
from attnc.quant.weight_config import read_weight_config
from attnc.schedule.devices import find_board
from attnc.schedule.file import read_schedule
from attnc.settings_file import MAX_BYTES, read_settings

LAUGHS = "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)), "name: *a29"])
READERS: dict[str, Any] = {"schedule": read_schedule, "config": read_weight_config, "board file": lambda path: find_board(str(path))}
WRONG: dict[str, tuple[bytes, str]] = {
    "encoding": (b"name: \xff\xfe", "needed text in UTF-8, found byte 0xff at 6"),
    "utf-16": ("name: x".encode("utf-16"), "needed text in UTF-8"),
    "nul": (b"name: \0", "not valid YAML"),
    "depth": (b"[" * 100_000, "needed at most 20 levels"),
    "depth of tables": (b"{a: " * 5000, "needed at most 20 levels"),
    "depth of blocks": (b"".join(b" " * i + b"a:\n" for i in range(300)), "needed at most 20 levels"),
    "length": (b"[" + b"1," * 200_000 + b"]", "needed at most 20000 values"),
    "size": (b"#" * (MAX_BYTES + 1), "needed at most 1048576 bytes"),
    "aliases": (LAUGHS.encode(), "aliases are not supported, found *a0; .* needs quotes.* at line 2, column 10"),
    "cycle": (b"&a [*a]", "aliases are not supported"),
    "merge": (b"a: &a {b: 1}\n<<: *a", "aliases are not supported"),
    "key twice": (b"name: a\nlut: 1\nname: b", "key 'name' is given twice at line 3, column 1"),
    "inner key twice": (b"design: {lanes: 1, lanes: 2}", "key 'lanes' is given twice"),
    "two documents": (b"a: 1\n---\nb: 2", "not valid YAML"),
    "tag": (b"!!python/object/apply:os.getcwd []", "not valid YAML"),
    "date": (b"name: 2001-99-99", "not valid YAML"),
    "digits": (b"name: " + b"9" * 5000, "not valid YAML"),
    "unhashable": (b"? [a]\n: b", "not valid YAML"),
    "list": (b"- 1", "needed (a table|keys)"),
    "text": (b"just words", "needed (a table|keys)"),
    "number as key": (b"1: 2", "(K|k)eys should be strings|[Ff]ield required"),
}


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("case", WRONG)
def test_one_clear_error(tmp_path: Path, what: str, case: str) -> None:
    data, message = WRONG[case]
    path = tmp_path / "settings.yaml"
    path.write_bytes(data)
    start = time.process_time()
    with pytest.raises(ConfigError, match=message.replace("*a", r"\*a")) as caught:
        READERS[what](path)
    assert str(caught.value).startswith(f"{what} {path}: ") and time.process_time() - start < 5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b"a = 1\na = 2", "not valid TOML"),
        (b"a = " + b"9" * 5000, "not valid TOML"),
        (b"a = \xff", "needed text in UTF-8"),
    ],
)
def test_toml(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "board.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        find_board(str(path))


def test_files_that_are_none(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.yaml", tmp_path / ("x" * 300 + ".yaml"), Path("a\0b.yaml")):
        with pytest.raises(ConfigError, match=r"config .*: cannot be read \("):
            read_settings(path, "config")


def test_a_mark_of_byte_order_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbfweights: int4")
    assert read_settings(tmp_path / "c.yaml", "config") == {"weights": "int4"}


BOARD = "name: b\npart: x\nlut: 1000\nff: 2000\ndsp: 10\nbram36: 5\nddr_gb_s: 1.5\n"
BOUNDS: list[tuple[str, str, Any]] = [
    ("ddr_gb_s", "1.5", ["0", "-1", ".nan", ".inf", "1e-300", "1e-9", "1e9"]), ("clock_mhz", "200", ["0", "1e-9", ".nan", "2000"]),
    ("lut", "1000", ["0", "1e30", ".inf", "99999999999999999999", "1.5"]), ("ddr_mib", "512", ["0", "99999999999"]),
    ("utilisation", "{lut: 0.5}", ["{lut: 0}", "{lut: 1e-300}", "{lut: 2}", "[]"]), ("axi_bits", "128", ["16", "4096"]),
    ("note", "x", ["'" + "x" * 1001 + "'", "[x]"]), ("ports", "[HP0]", ["[]", "[" + "HP0," * 100 + "]", "HP0", "['a b']"]),
]  # fmt: skip


@pytest.mark.parametrize(("field", "fine", "wrong"), BOUNDS)
def test_every_number_of_a_board_has_bounds(tmp_path: Path, field: str, fine: str, wrong: list[str]) -> None:
    path = tmp_path / "b.yaml"
    others = "".join(line + "\n" for line in BOARD.splitlines() if not line.startswith(field))
    path.write_text(others + f"{field}: {fine}")
    assert find_board(str(path)).name == "b"
    for value in wrong:
        path.write_text(others + f"{field}: {value}")
        with pytest.raises(ConfigError, match=f"b.yaml: field '{field}"):
            find_board(str(path))
