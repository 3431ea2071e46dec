"""One accelerator, one thread that owns it: it opens, runs and closes it, and no other thread touches it.

Jobs wait in the order of their arrival. Inferences that wait together run together, up to a number of samples; where an input of one of
them is at fault they run again one by one, so that nobody answers for a neighbour. After a failure of the device the accelerator is
closed and opened again, until that works.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnc_host.errors import AcceleratorError, InputError
from attnc_host.manifest import Port
from attnc_host.samples import Array, Samples, unstack
from attnc_host.serve.metrics import Metrics

LONGEST_PAUSE = 30.0
"""Seconds between attempts to open an accelerator that failed."""


class Unavailable(Exception):
    """The accelerator takes no jobs now."""


@dataclass(frozen=True)
class Timing:
    """Seconds in the queue and in the accelerator, and the samples that ran together."""

    queue: float
    run: float
    samples: int


class Job:
    """Something for the accelerator; `future` has its result. A job that nobody has begun is called off with `future.cancel()`."""

    def __init__(self) -> None:
        self.future: Future[Any] = Future()
        self.arrived = time.monotonic()

    def execute(self, accelerator: Any) -> Any:
        """The result, computed in the thread that owns the accelerator."""
        raise NotImplementedError


class Inference(Job):
    """Samples for `Accelerator.run`; the result is a pair: outputs by name, as `run` would return them, and a `Timing`."""

    def __init__(self, given: Samples) -> None:
        super().__init__()
        self.given = given


class Worker:
    """The thread and its queue. `opener` returns what is served: an object with `manifest`, `run` and `close`."""

    def __init__(self, opener: Callable[[], Any], most_samples: int, metrics: Metrics) -> None:
        self._opener, self._most, self.metrics = opener, most_samples, metrics
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="accelerator", daemon=True)
        self._opened: Future[Any] = Future()
        self.ready = False
        self.failure = ""
        """Why it is not ready."""
        self.job_seconds = 0.0
        """Of late, per job."""

    def start(self) -> Any:
        """Open the accelerator and return it, for its description alone; what opening raises is raised here."""
        self._thread.start()
        return self._opened.result()

    def submit(self, job: Job) -> None:
        """Put a job into the queue; raises `Unavailable`."""
        with self._changed:
            if self._closing or not self.ready:
                raise Unavailable("the service is ending" if self._closing else f"the accelerator failed: {self.failure}")
            self._jobs.append(job)
            self.metrics.waiting.set(len(self._jobs))
            self._changed.notify_all()
        job.future.add_done_callback(lambda future: self._forget(job) if future.cancelled() else None)

    def close(self, seconds: float = 30.0) -> bool:
        """Run what waits, close the accelerator and end the thread; False if that takes more than so many seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _forget(self, job: Job) -> None:
        with self._changed, contextlib.suppress(ValueError):
            self._jobs.remove(job)
            self.metrics.waiting.set(len(self._jobs))
        self.metrics.dropped.inc()

    def _work(self) -> None:
        """The life of the thread."""
        try:
            accelerator = self._opener()
        except BaseException as error:
            self._opened.set_exception(error)
            return
        self._set_ready("")
        self._opened.set_result(accelerator)
        while accelerator is not None:
            jobs = self._take()
            if not jobs:
                break
            error = self._run(accelerator, jobs)
            if error is not None:
                accelerator = self._open_again(accelerator, error)
        self._set_ready("it is closed")
        with contextlib.suppress(Exception):
            accelerator.close()

    def _take(self) -> list[Job]:
        """The next job, with those that can run beside it; none when the service ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closing)
            jobs: list[Job] = []
            samples = 0
            while self._jobs:
                job = self._jobs[0]
                samples += job.given.count if isinstance(job, Inference) else self._most
                if jobs and samples > self._most:
                    break
                jobs.append(self._jobs.popleft())
            self.metrics.waiting.set(len(self._jobs))
        return jobs

    def _run(self, accelerator: Any, jobs: Sequence[Job]) -> Exception | None:
        """Finish some jobs; returns the error that only a failing device explains."""
        started = [job for job in jobs if job.future.set_running_or_notify_cancel()]
        if not started:
            return None
        begin = time.monotonic()
        for job in started:
            self.metrics.queue_seconds.observe(begin - job.arrived)
        error = self._finish(accelerator, started)
        self.job_seconds += 0.2 * ((time.monotonic() - begin) / len(started) - self.job_seconds)
        return error

    def _finish(self, accelerator: Any, jobs: Sequence[Job]) -> Exception | None:
        """Set the result of jobs that were started."""
        begin = time.monotonic()
        try:
            if isinstance(jobs[0], Inference):
                results: Sequence[Any] = self._infer(accelerator, [job for job in jobs if isinstance(job, Inference)], begin)
            else:
                results = [jobs[0].execute(accelerator)]
        except InputError as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return None
            found = [self._finish(accelerator, [job]) for job in jobs]
            return next((failure for failure in found if failure is not None), None)
        except Exception as error:
            self.metrics.failures.inc()
            if not isinstance(error, AcceleratorError):
                traceback.print_exc()
                error = AcceleratorError(f"internal error: {type(error).__name__}")
            for job in jobs:
                job.future.set_exception(error)
            return error
        for job, result in zip(jobs, results, strict=True):
            job.future.set_result(result)
        return None

    def _infer(self, accelerator: Any, jobs: Sequence[Inference], begin: float) -> list[tuple[dict[str, Array], Timing]]:
        """One call of the accelerator for all jobs; each gets its own samples back."""
        names = [port.name for port in accelerator.manifest.inputs]
        stacked = {name: np.concatenate([job.given.all(name) for job in jobs]) for name in names}
        found = accelerator.run(stacked)
        seconds, counts = time.monotonic() - begin, [job.given.count for job in jobs]
        self.metrics.run_seconds.observe(seconds)
        self.metrics.batch.observe(sum(counts))
        self.metrics.samples.inc(sum(counts))
        results, start = [], 0
        for job, count in zip(jobs, counts, strict=True):
            own = {
                port.name: _part(port, found[port.name][start : start + count], job.given.framed) for port in accelerator.manifest.outputs
            }
            results.append((own, Timing(begin - job.arrived, seconds, sum(counts))))
            start += count
        return results

    def _open_again(self, accelerator: Any, error: Exception) -> Any:
        """After a failure: a new accelerator, or None when the service ends first. Jobs that wait are refused while there is none."""
        with contextlib.suppress(Exception):
            accelerator.close()
        pause = 1.0
        while True:
            try:
                accelerator = self._opener()
            except Exception as failure:
                error = failure
            else:
                self._set_ready("")
                return accelerator
            self._set_ready(str(error))
            with self._changed:
                if self._changed.wait_for(lambda: self._closing, pause):
                    return None
            pause = min(2 * pause, LONGEST_PAUSE)

    def _set_ready(self, failure: str) -> None:
        """Note whether there is an accelerator, and refuse what waits where there is none."""
        with self._changed:
            self.ready, self.failure = not failure, failure
            refused = list(self._jobs) if failure else []
            for job in refused:
                self._jobs.remove(job)
            self.metrics.ready.set(self.ready)
            self.metrics.waiting.set(len(self._jobs))
        for job in refused:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(Unavailable(f"the accelerator failed: {failure}"))


def _part(port: Port, found: Array, framed: bool) -> Array:
    """The samples of one job, [samples, ...], as `Accelerator.run` would have returned them."""
    return unstack(port, np.array(found).reshape(found.shape[0], *port.shape), framed)
