"""The stream of the simulation is loud, and tells how deep it became."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from attnc.resources import data_path

PROGRAM = """
#include <hls_stream.h>
#include <cstdio>
int main() {
  {
    hls::stream<int> s("demo.s");
    %s
  }
  hls::stream_report(stdout);
  return 0;
}
"""


def execute(tmp_path: Path, body: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "main.cpp").write_text(PROGRAM % body)
    subprocess.run(["g++", "-std=c++14", "-I", data_path("hls_kernels") / "sim", "main.cpp", "-o", "main"], cwd=tmp_path, check=True)
    return subprocess.run([tmp_path / "main"], capture_output=True, text=True)


def test_first_in_first_out(tmp_path: Path) -> None:
    body = (
        "s.write(1); s << 2; s.write(3); int a = s.read(), b, c; s.read(b); s >> c; if (a != 1 || b != 2 || c != 3 || !s.empty()) return 9;"
    )
    done = execute(tmp_path, body)
    assert (done.returncode, done.stdout, done.stderr) == (0, "demo.s 3\n", "")


@pytest.mark.parametrize("body", ["s.read();", "s.write(1); s.read(); s.read();", "int a; s >> a;"])
def test_reading_an_empty_stream(tmp_path: Path, body: str) -> None:
    done = execute(tmp_path, body)
    assert done.returncode == 3
    assert "hls::stream 'demo.s': read while empty" in done.stderr


def test_data_left_over(tmp_path: Path) -> None:
    done = execute(tmp_path, "s.write(1); s.write(2); s.read();")
    assert done.returncode == 3
    assert "hls::stream 'demo.s': left over when the stream ended, elements (1)" in done.stderr


def test_depth_is_the_largest_reached(tmp_path: Path) -> None:
    body = """
    for (int i = 0; i < 5; ++i) s.write(i);
    for (int i = 0; i < 5; ++i) s.read();
    s.write(1);
    int a;
    if (!s.read_nb(a) || s.read_nb(a)) return 9;
    hls::stream<int> t("demo.t");
    t.write(1);
    t.read();"""
    done = execute(tmp_path, body)
    assert (done.returncode, done.stdout) == (0, "demo.s 5\ndemo.t 1\n")
