"""`attnc serve` as a process: it says where it is, ends when it is asked to, and explains why it does not start."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from attnc.cli import main
from attnc_host import AcceleratorError
from attnc_host.__main__ import main as on_a_board
from attnc_host.serve import command
from serving import PATIENCE, infer_body, started


def test_from_start_to_end(shared_build: Path, tmp_path: Path) -> None:
    """Of an archive, as it goes to a board."""
    archive = tmp_path / "small.zip"
    assert main(["package", str(shared_build), "-o", str(archive)]) == 0
    with started(archive, "--backend", "golden", "--queue", "3", "--samples", "2") as (process, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        for count, status in ((2, 200), (3, 400)):
            connection.request("POST", "/v2/models/small/infer", json.dumps(infer_body(np.zeros((count, 4, 6)))))
            answer = connection.getresponse()
            assert answer.status == status and answer.read()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None and process.stderr.read() == ""
        connection.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_why_it_does_not_start(shared_build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(shared_build), "--backend", "golden", "--port", str(port)]) == 2
        assert f"127.0.0.1:{port}: cannot listen there: Address already in use" in capsys.readouterr().err
    assert main(["serve", str(tmp_path / "none"), "--port", "0"]) == 2
    assert "no such build folder" in capsys.readouterr().err
    assert main(["serve", str(shared_build), "--port", "0", "--queue", "0"]) == 2
    assert "queue: needed a number above 0, found 0" in capsys.readouterr().err
    assert on_a_board(["serve", str(shared_build), "--backend", "golden", "--port", "70000"]) == 2
    assert "127.0.0.1:70000: cannot listen there" in capsys.readouterr().err
    assert on_a_board(["serve", str(shared_build), "--backend", "pynq", "--port", "0"]) == 2
    assert "pynq" in capsys.readouterr().err


def test_a_missing_package_is_named(shared_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("attnc_host.serve.") and name != "attnc_host.serve.command"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(AcceleratorError, match=r"needs fastapi, which is not installed: pip install 'attnc-host\[serve\]'"):
        command.serve(shared_build, "golden", "127.0.0.1", 0)
