"""What Prometheus reads at `/metrics`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one service, in a registry of its own, so that a process may hold several."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "attnc_requests", "Answers, by path and status; 499: the client left.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram("attnc_request_seconds", "From request to answer.", ["path"], buckets=SECONDS, registry=registry)
        self.inside = Gauge("attnc_requests_inside", "Requests that are being read, wait or run.", registry=registry)
        self.waiting = Gauge("attnc_queue_length", "Requests that wait for the accelerator.", registry=registry)
        self.queue_seconds = Histogram("attnc_queue_seconds", "Time in the queue.", buckets=SECONDS, registry=registry)
        self.run_seconds = Histogram("attnc_run_seconds", "Runs of the accelerator.", buckets=SECONDS, registry=registry)
        self.batch = Histogram("attnc_run_samples", "Samples of a run.", buckets=SAMPLES, registry=registry)
        self.samples = Counter("attnc_samples", "Samples that were computed.", registry=registry)
        self.tokens = Counter("attnc_tokens", "Tokens that were generated.", registry=registry)
        self.dropped = Counter("attnc_dropped", "Requests that left the queue unanswered: clients gone, deadlines.", registry=registry)
        self.failures = Counter("attnc_failures", "Failures of the accelerator.", registry=registry)
        self.ready = Gauge("attnc_ready", "1 while the accelerator takes requests.", registry=registry)

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)
