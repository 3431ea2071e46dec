"""The examples of docs/service.md do what it says."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.core import TyperGroup

from attnc.cli import app
from attnc_host import Accelerator
from attnc_host import manifest as manifests
from attnc_host.serve.command import LIMITS
from attnc_host.serve.limits import Limits
from serving import Speaker, serving
from small_build import DIGITS

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "service.md").read_text()
SHELL, PYTHON = (re.findall(rf"```{kind}\n(.*?)```", GUIDE, re.DOTALL) for kind in ("sh", "python"))


def run(code: str, port: int) -> str:
    """What an example prints; it asks the service at `port`."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        exec(code.replace("8000", str(port)), {})
    return told.getvalue()


def test_examples_of_inference(digits: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (_, ask), (client, _) = SHELL, PYTHON
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models")
    with Accelerator.open(digits, "golden") as golden, serving(lambda: golden) as at:
        lines = ask.replace("8000", str(at.port))
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", lines], capture_output=True, text=True, timeout=60, env={**os.environ})
        assert done.returncode == 0, done.stderr
        found = [json.loads(part) for part in re.sub(r"\}\s*\{", "}\n{", done.stdout).splitlines()]
        assert found[0] == {"ready": True} and found[1]["name"] == "vit_digits"
        image = np.load(DIGITS / "heldout.npz")["image"][:1]
        np.testing.assert_array_equal(np.float32(found[2]["outputs"][0]["data"]), golden.run({"image": image})["logits"][0])
        assert run(client, at.port) == "right: 16 of 16\n"


def test_example_of_text(shared_build: Path) -> None:
    speaker = Speaker(manifests.load(shared_build), "A stand-in.")
    with serving(lambda: speaker) as at:
        assert run(PYTHON[1], at.port) == "A stand-in."
    assert speaker.prompts == ["user: Who are you?\nassistant:"]


def test_commands_and_figures() -> None:
    """The commands that start it are read by the command line; the figures are those of the code."""
    commands = typer.main.get_command(app)
    assert isinstance(commands, TyperGroup)
    for line in SHELL[0].strip().splitlines():
        _, name, *arguments = line.split()
        assert commands.commands[name].make_context(name, arguments).params
    limits = Limits()
    for text in (
        f"{limits.queue} requests inside",
        f"{limits.samples} in a request",
        f"{limits.bodies >> 20} MiB |",
        f"{limits.reading:g} s |",
        f"{limits.deadline:g} s to the answer",
        f"{limits.stream:g} s and {limits.tokens} tokens",
        f"{limits.grace:g} s to finish",
    ):
        assert text in GUIDE, text
    assert all(f"`--{name}`" in GUIDE for name in LIMITS)
