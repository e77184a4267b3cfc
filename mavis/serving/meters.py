"""What `/metrics` shows: requests, tokens and times, and never a key or a text."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mavis.serving.decoder_thread import DecoderThread

FIRST = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds
NEXT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Meters:
    """Counters of one server."""

    def __init__(self, decoding: DecoderThread) -> None:
        self.registry = here = CollectorRegistry()
        self.requests = Counter(
            "mavis_requests", "Requests by path and status.", ["path", "status"], registry=here
        )
        self.tokens = Counter("mavis_tokens", "Tokens read and written.", ["kind"], registry=here)
        self.written = self.tokens.labels("reply")
        self.ignored = Counter(
            "mavis_ignored_fields",
            "Fields without an effect that requests had.",
            ["field"],
            registry=here,
        )
        self.unfinished = Counter(
            "mavis_unfinished", "Requests that failed, or whose client went away.", registry=here
        )
        self.first = Histogram(
            "mavis_first_token_seconds", "Time to the first token.", buckets=FIRST, registry=here
        )
        self.next = Histogram(
            "mavis_next_token_seconds", "Time between two tokens.", buckets=NEXT, registry=here
        )
        running = Gauge("mavis_running", "Replies that are being written.", registry=here)
        running.set_function(lambda: decoding.running)
        waiting = Gauge("mavis_waiting", "Replies that wait for a row.", registry=here)
        waiting.set_function(lambda: decoding.in_flight - decoding.running)

    def page(self) -> bytes:
        """All of them, in Prometheus's text format."""
        return generate_latest(self.registry)
