"""Sequences of tokens on an accelerator that generates them: prompts in blocks, then token by token, over the caches of a session.

A session is its tokens: what the caches hold follows from them. So one that is saved is its tokens and the build that they are for, and
loading it works on them again. Where caches hold the beginning of a prompt already, of the same session or another, it is not worked on
again.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attnc_host import boundary
from attnc_host.boundary import Array, Image
from attnc_host.caches import BATCH, COPY, DECODE, PREFILL, Decoder, Entry
from attnc_host.errors import AcceleratorError, InputError
from attnc_host.head import Head
from attnc_host.json_file import write_json
from attnc_host.manifest import Feed, Manifest

SAVED = 1
"""Version of a saved session."""
FAR = 1e300
"""Logits are no farther apart, whatever a penalty makes of them."""


Execute = Callable[[Image, Mapping[str, int]], Image]
"""What runs an entry: from an input region [input_bytes] and the scalars of the run to the output region; memory stays from run to run."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from logits. A temperature of 0 takes the likeliest. `top_k` (0: all) and `top_p` keep the likeliest;
    logits of tokens that were there before are divided by `repetition_penalty` where they are positive, else multiplied."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, fine, needed in (
            ("temperature", _number(self.temperature) and self.temperature >= 0, "a number 0 or more"),
            ("top_k", _whole(self.top_k) and self.top_k >= 0, "a whole number 0 or more"),
            ("top_p", _number(self.top_p) and 0 < self.top_p <= 1, "a number above 0 and at most 1"),
            ("repetition_penalty", _number(self.repetition_penalty) and self.repetition_penalty > 0, "a number above 0"),
        ):
            if not fine:
                raise InputError(f"{name}: needed {needed}, found {getattr(self, name)!r}")

    def choose(self, logits: Array, before: Sequence[int], rng: np.random.Generator) -> int:
        """A token; of equal logits the first is the likeliest."""
        scores = np.array(logits, np.float64)
        if self.repetition_penalty != 1 and before:
            seen = np.unique(np.asarray(before))
            with np.errstate(over="ignore"):
                found = np.where(scores[seen] > 0, scores[seen] / self.repetition_penalty, scores[seen] * self.repetition_penalty)
            scores[seen] = found.clip(-FAR, FAR)
        if self.temperature == 0:
            return int(np.argmax(scores))
        order = np.argsort(-scores, kind="stable")
        order = order[: self.top_k] if self.top_k else order
        with np.errstate(over="ignore"):
            weights = np.exp((scores[order] - scores[order[0]]) / self.temperature)
        weights /= weights.sum()
        if self.top_p < 1:
            kept = int(np.searchsorted(np.cumsum(weights), self.top_p)) + 1
            order, weights = order[:kept], weights[:kept] / weights[:kept].sum()
        return int(rng.choice(order, p=weights))


@dataclass
class Contents:
    """What the caches of a session hold: `ids`, and maybe anything behind them up to token `end`."""

    ids: list[int]
    end: int


class Session:
    """One sequence. `number` says whose caches it uses; `ids` are its tokens so far. `caches` say what those of each number hold: sessions
    that have them in common share work on the same beginnings."""

    def __init__(self, manifest: Manifest, execute: Execute, number: int = 0, caches: dict[int, Contents] | None = None) -> None:
        self.decoder = decoder_of(manifest)
        self.caches = {} if caches is None else caches
        if not _whole(number) or not 0 <= number < self.decoder.sessions:
            count = self.decoder.sessions
            raise InputError(f"session: this build has caches for {count} (0 to {count - 1}), found {number!r}")
        self.manifest, self.execute, self.number = manifest, execute, number
        self.ids: list[int] = []
        self.runs: list[tuple[str, int]] = []
        """Entry and position of every run so far."""
        self._feeds = {feed.value: feed for feed in manifest.feeds}
        self._tokens = _table(self.decoder, "tokens")
        self._positions = _table(self.decoder, "positions")
        self._head = None if self.decoder.head is None else Head.open(self.decoder.head)

    @property
    def left(self) -> int:
        """Tokens that there is place for."""
        return self.decoder.length - len(self.ids)

    def extend(self, ids: Sequence[int]) -> Array:
        """Work on more tokens; the logits [vocabulary] of what may follow the last. A session without tokens takes over what caches hold
        of their beginning."""
        given = self.checked(ids)
        self.read(given[:-1])
        return self._logits(DECODE, self._run(DECODE, given[-1:]), [0])[0]

    def read(self, ids: Sequence[int]) -> None:
        """Work on more tokens, whose logits nobody asks for. A session without tokens takes over what caches hold of them."""
        given = ids
        if not self.ids:
            self._recognise(ids)
            given = ids[len(self.ids) :]
        while given:
            blocks = self.decoder.takes_block(len(self.ids))
            part = given[: self.decoder.block if blocks else 1]
            self._run(PREFILL if blocks else DECODE, part)
            given = given[len(part) :]

    def together(self, tokens: Sequence[int], position: int, asked: Sequence[int]) -> Array:
        """Work on a token of each of several branches of this sequence, at a position; at each one before it, from the end of the sequence
        on, they must have had one. The logits [asked, vocabulary] of what may follow in the branches `asked` for."""
        entry, prefix = self.decoder.entries[BATCH], len(self.ids)
        places = np.full(len(tokens), position)
        row = self.decoder.row(position, prefix)
        found = self._execute(entry, self._rows(tokens, places, self._feeds[entry.input]), position, prefix)
        self.runs.append((BATCH, row))
        self.caches[self.number] = Contents([*self.ids], row + self.decoder.branches)
        return self._logits(BATCH, found, asked) if asked else np.zeros((0, self.decoder.vocabulary))

    def generate(
        self, ids: Sequence[int], max_new_tokens: int, sampling: Sampling | None = None, stop: Sequence[int] = (), seed: int = 0
    ) -> Iterator[int]:
        """Tokens that follow `ids`, as they come: until there are `max_new_tokens`, one of `stop` has come (it is the last that is given),
        or the sequence is full. What was given belongs to the session, but for the last one, which the next call is to begin with."""
        check_request(self.decoder, max_new_tokens, stop, seed)
        yield from self.goes_on(ids, max_new_tokens, sampling or Sampling(), stop, np.random.default_rng(seed))

    def goes_on(self, ids: Sequence[int], tokens: int, sampling: Sampling, stop: Sequence[int], rng: np.random.Generator) -> Iterator[int]:
        """The same with a generator of random numbers that may have been used before."""
        logits = self.extend(ids)
        for count in range(tokens):
            token = sampling.choose(logits, self.ids, rng)
            yield token
            if token in stop or not self.left or count + 1 == tokens:
                return
            logits = self.extend([token])

    def fork(self, number: int) -> Session:
        """A session of that number with the same tokens: it gets a copy of the caches."""
        other = Session(self.manifest, self.execute, number, self.caches)
        if number == self.number:
            raise InputError(f"session: a fork needs caches of its own, found number {number} of both")
        if self.ids:
            other._take(self.number, len(self.ids))
        return other

    def _recognise(self, ids: Sequence[int]) -> None:
        """Take over the longest beginning of `ids` that caches hold."""
        found = {number: self._common(held, ids) for number, held in self.caches.items()}
        best = max(found, key=lambda number: (found[number], number == self.number), default=self.number)
        if found.get(best, 0):
            self._take(best, found[best])

    def _common(self, held: Contents, ids: Sequence[int]) -> int:
        """Tokens that caches and `ids` begin with, as far as one can go on behind them."""
        count = next((at for at, (a, b) in enumerate(zip(held.ids, ids, strict=False)) if a != b), min(len(held.ids), len(ids)))
        return count if self.decoder.holds(held.end, count) else 0

    def _take(self, number: int, count: int) -> None:
        """Go on behind the first `count` tokens of the caches of a session, copied where it is another."""
        held = self.caches[number]
        if number != self.number:
            self.caches.pop(self.number, None)
            setting = self.decoder.start(Entry(COPY, 0, ""), number, self.number)
            self.execute(boundary.to_image(self.manifest, self._inputs())[0], setting)
            self.caches[self.number] = Contents([*held.ids], held.end)
        self.ids = held.ids[:count]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Its tokens, and the build that they are for."""
        data = {"version": SAVED, "build": _build(self.manifest), "ids": self.ids}
        try:
            write_json(data, Path(path))
        except OSError as error:
            raise InputError(f"{path}: a session cannot be saved there: {error.strerror}") from error

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on where `save` was: the tokens are worked on again."""
        ids = _saved(Path(path), self.manifest)
        self.ids = []
        try:
            if ids:
                self.extend(ids)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def checked(self, ids: Sequence[int]) -> list[int]:
        """Tokens that may follow; an error where they may not."""
        try:
            found = np.asarray(ids)
        except ValueError as error:  # lists of several lengths
            raise InputError(f"ids: needed a list of whole numbers ({error})") from error
        if found.size == 0:
            raise InputError("ids: needed at least one token, found none")
        beyond = found.ndim == 1 and found.dtype == object and all(map(_whole, found))  # 64 bits
        if not beyond and (found.ndim != 1 or found.dtype.kind not in "iu"):
            raise InputError(f"ids: needed a list of whole numbers, found {found.dtype} of shape {list(found.shape)}")
        if found.min() < 0 or found.max() >= self.decoder.vocabulary:
            bad = int(found[(found < 0) | (found >= self.decoder.vocabulary)][0])
            raise InputError(f"ids: needed tokens from 0 to {self.decoder.vocabulary - 1}, found {bad}")
        if found.size > self.left:
            raise InputError(
                f"ids: {found.size} tokens behind {len(self.ids)} do not fit the {self.decoder.length} that this build was compiled for "
                "(--max-length)"
            )
        return [int(token) for token in found]

    def _run(self, name: str, ids: Sequence[int]) -> Image:
        entry, at, held = self.decoder.entries[name], len(self.ids), self.caches.get(self.number)
        feed = self._feeds[entry.input]
        found = self._execute(entry, self._rows(ids, np.arange(at, at + len(ids)), feed), at)
        self.runs.append((name, at))
        end = self.decoder.written(0 if held is None else held.end, at, feed.rows)
        self.ids += list(ids)
        self.caches[self.number] = Contents([*self.ids], end)
        return found

    def _execute(self, entry: Entry, rows: Array, position: int, prefix: int = 0) -> Image:
        """A run on caches that must hold the tokens of this session; what they hold behind these is unknown then."""
        image = boundary.to_image(self.manifest, self._inputs() | {entry.input: rows[None]})[0]
        held = self.caches.get(self.number, Contents([], 0))
        if self._common(held, self.ids) < len(self.ids):
            raise InputError(f"session: the caches of number {self.number} hold another sequence by now; begin anew")
        self.caches.pop(self.number, None)  # unknown, should it fail
        return self.execute(image, self.decoder.start(entry, position, self.number, prefix))

    def _inputs(self) -> dict[str, Array]:
        """Nothing for every entry."""
        return {name: _nothing(feed) for name, feed in self._feeds.items()}

    def _rows(self, ids: Sequence[int], places: Array, feed: Feed) -> Array:
        """What the device gets for tokens at places of a sequence, and nothing behind them."""
        assert self._tokens is not None
        rows = np.zeros((feed.rows, feed.channels), feed.type.dtype)
        found = self._tokens[np.asarray(ids)]
        if self._positions is not None:
            found = boundary.quantize(found.astype(np.float64) + self._positions[places], feed.type)
        rows[: len(ids)] = found
        return rows

    def _logits(self, entry: str, image: Image, rows: Sequence[int]) -> Array:
        """Of some rows of a run of an entry, [rows, vocabulary]."""
        found, fetches = boundary.from_image(self.manifest, image[None]), {fetch.value: fetch for fetch in self.manifest.fetches}
        given = [(found[name][0][list(rows)], fetches[name].type) for name in self.decoder.entries[entry].outputs]
        if self._head is None:
            return boundary.dequantize(*given[0])
        x, *peak = (q.astype(np.int64) - type_.zero_point for q, type_ in given)
        return self._head.logits(x, peak[0] if peak else None)


def check_request(decoder: Decoder, max_new_tokens: Any, stop: Any, seed: Any) -> None:
    """What a call that generates tokens was given beside its prompts."""
    if not _whole(max_new_tokens) or max_new_tokens < 1:
        raise InputError(f"max_new_tokens: needed a whole number 1 or more, found {max_new_tokens!r}")
    if not _whole(seed) or seed < 0:
        raise InputError(f"seed: needed a whole number 0 or more, found {seed!r}")
    if isinstance(stop, str) or not isinstance(stop, Iterable) or not all(_whole(one) and 0 <= one < decoder.vocabulary for one in stop):
        raise InputError(f"stop: needed a list of tokens from 0 to {decoder.vocabulary - 1}, found {stop!r:.100}")


def _whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    """Whether it is one, and finite."""
    return _whole(value) or (isinstance(value, (float, np.floating)) and math.isfinite(value))


def _saved(path: Path, manifest: Manifest) -> list[Any]:
    """What stands in a saved session for its tokens; an error where it is none of this build."""
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: a session cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no saved session: needed JSON, found something else ({error})") from error
    if not isinstance(data, dict) or not {"version", "build", "ids"} <= {*data} or not isinstance(data["ids"], list):
        raise InputError(f"{path}: is no saved session: needed 'version', 'build' and a list of 'ids', found {data!r:.100}")
    if data["version"] != SAVED:
        raise InputError(f"{path}: needed a saved session of version {SAVED}, found {data['version']!r:.100}")
    if data["build"] != _build(manifest):
        raise InputError(f"{path}: was saved for another build than {manifest.folder}, whose caches would differ")
    return list(data["ids"])


def decoder_of(manifest: Manifest) -> Decoder:
    """What a build says of how it generates tokens; an error where it does not."""
    if manifest.decoder is None:
        raise InputError(f"{manifest.folder}: generates no tokens: it was not compiled with --max-length")
    return manifest.decoder


def _nothing(feed: Feed) -> Array:
    return np.full((1, feed.rows, feed.channels), feed.type.zero_point, feed.type.dtype)


def _table(decoder: Decoder, name: str) -> Array | None:
    """Rows of a table, which stay in the file until they are used."""
    table, rows = getattr(decoder, name), decoder.vocabulary if name == "tokens" else decoder.length
    if table is None:
        return None
    size = table.file.stat().st_size
    channels = size // (rows * table.dtype.itemsize)
    if channels < 1 or size != rows * channels * table.dtype.itemsize:
        raise AcceleratorError(f"{table.file}: needed whole rows for each of {rows}, found {size} bytes; the build folder is damaged")
    found: Array = np.memmap(table.file, table.dtype, "r", shape=(rows, channels))
    return found


def _build(manifest: Manifest) -> Any:
    """What tells a build from others."""
    files = manifest.data.get("files", {})
    return [[files.get(f"weights/{name}.bin") for name in ("program", "weights", "constants")], manifest.data.get("model")]
