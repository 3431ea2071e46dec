"""The documentation: its examples work, its links lead somewhere, its commands exist, and what is generated is current."""

from __future__ import annotations

import fcntl
import inspect
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import attnc.errors
import attnc_host.errors
from bench import reference
from pages import PAGES, ROOT, TUTORIAL, blocks, calls, prose, run_page

GUIDES = [page for page in PAGES if page != TUTORIAL and any(block.runs for block in blocks(page))]


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the tutorial leaves, made once for all processes of a run."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if shared.name.startswith("popen-") else shared  # of pytest-xdist
    folder = shared / "tutorial"
    with open(shared / "tutorial.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "again").exists():
            folder.mkdir(exist_ok=True)
            run_page(TUTORIAL, folder)
    return folder


def test_the_tutorial_works(workspace: Path) -> None:
    report = json.loads((workspace / "build" / "report.json").read_text())
    accuracy = report["evaluation"]["accuracy_percent"]
    assert min(accuracy.values()) > 95 and report["evaluation"]["mismatches"] == 0
    assert (workspace / "report.html").is_file() and report["activation_bits"]["missed"] is False
    assert json.loads((workspace / "again" / "report.json").read_text())["design"] == report["design"]


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_examples_of_guides_work(page: Path, workspace: Path, tmp_path: Path) -> None:
    run_page(page, Path(shutil.copytree(workspace, tmp_path / "tutorial")))


def test_commands_of_the_reference_are_those_that_there_are() -> None:
    page = reference.PAGE.read_text()
    assert reference.with_commands(page) == page, "the command line changed: run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_call_of_attnc_names_what_there_is(page: Path) -> None:
    known = reference.commands()
    wrong = []
    for line, (_, name, *words) in ((line, call) for line, call in calls(page) if len(call) > 1 and not call[1].startswith("-")):
        if name not in known:
            wrong.append(f"{page.name}:{line}: no command {name!r}")
            continue
        names = {name for param in known[name].params for name in (*param.opts, *param.secondary_opts)} | {"-h", "--help"}
        wrong += [
            f"{page.name}:{line}: {name} has no {word}" for word in words if word.startswith("-") and word.partition("=")[0] not in names
        ]
    assert not wrong, "\n".join(wrong)


def anchors(page: Path) -> set[str]:
    """As GitHub names the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    assert not wrong, f"{page.name}: {wrong}"


def test_every_page_can_be_found_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[\w.]+\.md)", (ROOT / "README.md").read_text()))
    assert linked == {f"docs/{page.name}" for page in PAGES if page.parent.name == "docs"}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) < 8_000


def error_classes() -> Iterator[str]:
    for module in (attnc.errors, attnc_host.errors):
        yield from (name for name, found in inspect.getmembers(module, inspect.isclass) if found.__module__ == module.__name__)


def test_every_class_of_errors_is_in_the_reference() -> None:
    described = set(re.findall(r"^\| `(\w+Error)` \|", reference.PAGE.read_text(), re.MULTILINE))
    assert described == set(error_classes()) - {"AttncError"}


def test_every_file_of_a_build_is_in_the_reference(digits: Path) -> None:
    listed = set(re.findall(r"`([\w./]+)`", reference.PAGE.read_text().partition("In a build folder:")[2].partition("## Messages")[0]))
    missing = [path.name for path in digits.iterdir() if not {path.name, f"{path.name}/"} & listed]
    assert not missing
