"""How fast tokens come: in this run, and on the board, as estimated and, where a run is simulated in time, as simulated. What the host
takes for a head there is an estimate in both."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from attnc_host.backends import Backend
from attnc_host.caches import BATCH
from attnc_host.decoder import Session


class Watch:
    """From now on: `token` is to be called when a token comes. A backend that simulates time has `cycles`, those of each of its runs."""

    def __init__(self, session: Session, backend: Backend) -> None:
        self.session, self._cycles = session, getattr(backend, "cycles", None)
        self._begin, self._run = time.perf_counter(), len(session.runs)
        self._times: list[float] = []
        self._after: list[int] = []

    def token(self) -> None:
        """One has come. The runs before the first are the prompt's; each further one gives a token, or one for each of several texts."""
        self._times.append(time.perf_counter() - self._begin)
        self._after.append(len(self.session.runs) - self._run)

    @property
    def _prompt(self) -> int:
        """Runs before the first token."""
        return self._after[0] if self._after else 0

    def speed(self) -> dict[str, Any]:
        """As plain values. Tokens per second are those behind the run that gives the first, which waits for the prompt; None where there
        are none. Positions of texts that go on together are rows of the caches."""
        decoder, clock = self.session.decoder, self.session.manifest.program.clock_mhz
        runs = self.session.runs[self._run :]
        estimated, host = [decoder.cycles(*run) for run in runs], None if decoder.head is None else decoder.head.ms
        first, seconds = (self._times[0], self._times[-1]) if self._times else (0.0, 0.0)
        begun = self._times[self._after.count(self._prompt) - 1] if self._times else 0.0
        return {
            "tokens": len(self._times),
            "seconds": round(seconds, 3),
            "first_token_seconds": round(first, 3),
            "tokens_per_second": _rate(self._behind_first, seconds - begun),
            "together": decoder.branches if any(entry == BATCH for entry, _ in runs) else 1,
            "positions": [runs[self._prompt][1], runs[-1][1]] if len(runs) > self._prompt else None,
            "board": self.session.manifest.data["target"]["name"],
            "clock_mhz": clock,
            "host_ms": host,
            "estimated": self._board(estimated, clock, host or 0.0),
            "simulated": None if self._cycles is None else self._board(self._cycles[-len(runs) :], clock, host or 0.0),
        }

    @property
    def _behind_first(self) -> int:
        """Tokens that came with later runs."""
        return len(self._after) - self._after.count(self._prompt)

    def _board(self, cycles: Sequence[float], clock_mhz: float, host_ms: float) -> dict[str, Any]:
        """From the cycles of each run, and what the host takes for each token."""
        first, later = sum(cycles[: self._prompt]) / clock_mhz / 1e6, [run / clock_mhz / 1e6 for run in cycles[self._prompt :]]
        begun, last = (self._after.count(after) for after in (self._prompt, self._prompt + len(later)))
        return {
            "first_token_ms": round(1e3 * first + begun * host_ms, 4),
            "tokens_per_second": _rate(self._behind_first, sum(later) + self._behind_first * host_ms / 1e3),
            "last_tokens_per_second": _rate(last, later[-1] + last * host_ms / 1e3) if later else None,
        }


def _rate(tokens: int, seconds: float) -> float | None:
    return round(tokens / seconds, 2) if tokens > 0 and seconds > 0 else None


def told_speed(speed: dict[str, Any], backend: str) -> Iterator[str]:
    """In words."""
    rate = f", {speed['tokens_per_second']:,} tokens/s" if speed["tokens_per_second"] else ""
    yield f"this run ({backend}): {speed['tokens']} tokens{rate}, the first token after {speed['first_token_seconds']:,} s"
    where = f"{speed['board']} at {speed['clock_mhz']:g} MHz"
    for name in ("estimated", "simulated"):
        found = speed[name]
        if found is None:
            continue
        text = f"the first token after {found['first_token_ms']:,} ms"
        if found["tokens_per_second"]:
            low, high = speed["positions"]
            last = f"{found['last_tokens_per_second']:,} at the last"
            place = "positions" if speed["together"] == 1 else f"{speed['together']} together, rows of the caches"
            text = f"{found['tokens_per_second']:,} tokens/s at {place} {low} to {high} ({last}), {text}"
        host = f"; {speed['host_ms']:.3g} ms of each token are the host's (estimated)" if speed["host_ms"] else ""
        yield f"{where}, {name}: {text}{host}"
