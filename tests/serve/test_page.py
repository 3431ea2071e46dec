"""The page at `/`, in a browser: a person draws, gives a picture, gives numbers, or writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from attnc_host import Accelerator
from attnc_host import manifest as manifests
from browser import Browser
from serving import Running, Speaker, serving
from small_build import DIGITS

SEEN = "[...document.querySelector('canvas.seen').getContext('2d').getImageData(0, 0, 8, 8).data].filter((_, i) => i % 4 == 0)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


@pytest.fixture(autouse=True)
def in_silence(browser: Browser) -> Iterator[None]:
    """Nothing on the console; nobody but the service is asked for anything."""
    browser.requests.clear()
    yield
    assert not browser.complaints
    origins = {url.split("/")[2] for url in browser.requests if not url.startswith(("data:", "blob:"))}
    assert len(origins) == 1 and origins.pop().startswith("127.0.0.1:")


def test_a_digit_is_drawn_and_a_picture_is_given(browser: Browser, digits: Path) -> None:
    """What the page says is what golden computes from the pixels that it shows; a picture of a held-out digit is known."""
    with Accelerator.open(digits, "golden") as golden, serving(lambda: golden) as at:

        def expected() -> str:
            pixels = np.float32(browser.value(SEEN)).reshape(1, 1, 8, 8) / np.float32(255)
            assert pixels.any()
            return str(int(golden.run({"image": pixels})["logits"].argmax()))

        browser.open(f"{at.url}/")
        browser.wait("document.querySelector('canvas.draw')")
        x, y, side = browser.value("(({x, y, width}) => [x, y, width])(document.querySelector('canvas.draw').getBoundingClientRect())")
        browser.drag(*((x + u * side, y + v * side) for u, v in ((0.2, 0.08), (0.8, 0.08), (0.55, 0.5), (0.4, 0.95))))
        browser.wait("document.getElementById('best')")
        best = browser.value("document.getElementById('best').firstChild.textContent")
        assert best == expected() == "7"
        assert float(browser.value("document.getElementById('v0').firstChild.textContent")) > 0

        data = np.load(DIGITS / "heldout.npz")
        number = next(i for i, label in enumerate(data["label"]) if label == 2)
        grey = np.kron((data["image"][number, 0] * 255).astype(int), np.ones((30, 30), int)).ravel().tolist()
        browser.value(
            f"""(async () => {{
              const canvas = new OffscreenCanvas(240, 240), pen = canvas.getContext('2d'), image = pen.createImageData(240, 240);
              {grey}.forEach((v, i) => image.data.set([v, v, v, 255], 4 * i));
              pen.putImageData(image, 0, 0);
              const files = new DataTransfer(), input = document.querySelector('input[type=file]');
              files.items.add(new File([await canvas.convertToBlob()], 'two.png', {{type: 'image/png'}}));
              input.files = files.files;
              input.dispatchEvent(new Event('change'));
            }})()"""
        )
        browser.wait("document.getElementById('best').firstChild.textContent == '2'")
        assert expected() == "2"


def test_numbers_are_given(browser: Browser, running: Running) -> None:
    browser.open(f"{running.url}/")
    browser.wait("document.querySelector('textarea')")
    button = "[...document.querySelectorAll('button')].find(found => found.textContent == '{}').click()"
    browser.value(button.format("Random") + "," + button.format("Run"))
    browser.wait("document.querySelector('canvas.heat')")
    assert "4 rows of 5" in browser.value("document.getElementById('answer').innerText")
    browser.value("document.querySelector('textarea').value = '1 two 3'," + button.format("Run"))
    browser.wait("document.querySelector('.error')")
    assert browser.value("document.querySelector('.error').textContent") == "x: not all of it are numbers"
    browser.value("document.querySelector('textarea').value = '1 '.repeat(25)," + button.format("Run"))
    browser.wait("document.querySelector('.error').textContent.includes('needed 24 elements')")
    browser.complaints = [text for text in browser.complaints if "status of 400" not in text]


def test_a_text_is_answered(browser: Browser, shared_build: Path) -> None:
    speaker = Speaker(manifests.load(shared_build), "Grüße 🙂 <b>to you</b>")
    with serving(lambda: speaker) as at:
        browser.open(f"{at.url}/")
        browser.wait("document.getElementById('talk')")
        browser.value("document.querySelector('textarea').value = 'Who?', document.querySelector('button.main').click()")
        browser.wait("!document.getElementById('times').hidden")
        assert browser.value("document.querySelector('#talk .assistant').textContent") == "Grüße 🙂 <b>to you</b>"
        assert browser.value("document.getElementById('v1').innerText").strip() == str(len(speaker.answer))
        assert speaker.prompts == ["user: Who?\nassistant:"]
