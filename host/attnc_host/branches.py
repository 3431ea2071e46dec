"""Several texts at once: sequences that begin alike go on together where the build decodes branches, else one after the other.

Branches lie in the caches of one session, behind the tokens that all have in common, which are worked on once, as blocks of a prompt are.
From there on a run gives each its next token, of its prompt as long as that lasts, so prompts may end at different places. What a text says
is what `Session.generate` alone would say. Where a branch has ended, its row goes on being computed, and nobody looks at it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from attnc_host.caches import Decoder
from attnc_host.decoder import Sampling, Session, check_request
from attnc_host.errors import InputError


@dataclass
class _Text:
    """A sequence: its tokens, worked on or not, and how many of them are new."""

    number: int
    ids: list[int]
    rng: np.random.Generator
    made: int = 0
    ended: bool = False


def generate_many(
    session: Session,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling | None = None,
    stop: Sequence[int] = (),
    seed: int = 0,
    over: Collection[int] = (),
) -> Iterator[tuple[int, int]]:
    """(number, token) of what follows each of `prompts` as it comes; the same prompt several times gives so many texts. Text `number` is
    what `Session.generate` gives with the seed `seed + number`. As many texts go on together as the build has branches; what the caches
    have no place for any more goes on alone. Numbers that come into `over` meanwhile are of texts that nobody asks for any longer."""
    check_request(session.decoder, max_new_tokens, stop, seed)
    if not isinstance(prompts, Iterable) or not (prompts := [*prompts]):
        raise InputError(f"prompts: needed a list of at least one, found {prompts!r:.100}")
    session.ids = []
    texts = [_Text(number, session.checked(ids), np.random.default_rng(seed + number)) for number, ids in enumerate(prompts)]
    at_once, choice = max(session.decoder.branches, 1), sampling or Sampling()
    for first in range(0, len(texts), at_once):
        group = texts[first : first + at_once]
        if len(group) > 1:
            yield from _together(session, group, max_new_tokens, choice, stop, over)
        for text in group:
            if not text.ended and text.number not in over:
                session.ids = []
                for token in session.goes_on(text.ids, max_new_tokens - text.made, choice, stop, text.rng):
                    yield text.number, token
                    if text.number in over:
                        break


def shared(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all have in common, less the last one of a prompt, for whose logits each has a run."""
    most = min(map(len, prompts)) - 1
    return next((at for at in range(most) if len({prompt[at] for prompt in prompts}) > 1), most)


def room(decoder: Decoder, prefix: int) -> int:
    """The position up to which branches behind a prefix have place in caches."""
    return prefix + (decoder.length - prefix) // decoder.branches


def _together(
    session: Session, texts: Sequence[_Text], tokens: int, sampling: Sampling, stop: Sequence[int], over: Collection[int]
) -> Iterator[tuple[int, int]]:
    """As far as there is place."""
    prefix = shared([text.ids for text in texts])
    end = room(session.decoder, prefix)
    if all(len(text.ids) > end for text in texts):
        return  # none of them would get a token
    session.ids = []
    session.read(texts[0].ids[:prefix])
    for position in range(prefix, end):
        asked = [at for at, text in enumerate(texts) if not text.ended and position + 1 == len(text.ids)]
        logits = session.together([0 if text.ended else text.ids[position] for text in texts], position, asked)
        for text, row in zip((texts[at] for at in asked), logits, strict=True):
            token = sampling.choose(row, text.ids, text.rng)
            text.ids.append(token)
            text.made += 1
            text.ended = token in stop or position + 1 == session.decoder.length or text.made == tokens
            yield text.number, token
        for text in texts:
            text.ended = text.ended or text.number in over
        if all(text.ended for text in texts):
            return
