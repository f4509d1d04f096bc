"""Counts and times in the text format Prometheus reads."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atrous.serve.workers import Pool

_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds


class Metrics:
    """What happened since the start."""

    def __init__(self) -> None:
        self._answers: Counter[tuple[str, int]] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: Counter[str] = Counter()

    def count(self, model: str, status: int, seconds: float) -> None:
        """Notes an answer and how long it took from headers to answer."""
        self._answers[model, status] += 1
        buckets = self._buckets.setdefault(model, [0] * (len(_BOUNDS) + 1))
        buckets[bisect_left(_BOUNDS, seconds)] += 1
        self._seconds[model] += seconds  # type: ignore[assignment]

    def text(self, pools: Mapping[str, "Pool"], bytes_in_flight: int) -> str:
        """Returns everything as text."""
        return "\n".join([*self._lines(pools, bytes_in_flight), ""])

    def _lines(self, pools: Mapping[str, "Pool"], bytes_in_flight: int) -> Iterator[str]:
        yield from _head("requests_total", "counter", "Answers by HTTP status.")
        for (model, status), number in sorted(self._answers.items()):
            yield f'atrous_requests_total{{model="{model}",status="{status}"}} {number}'
        yield from _head("request_seconds", "histogram", "From a request's headers to its answer.")
        for model, buckets in self._buckets.items():
            total = 0
            for bound, number in zip((*_BOUNDS, "+Inf"), buckets, strict=True):
                total += number
                yield f'atrous_request_seconds_bucket{{model="{model}",le="{bound}"}} {total}'
            yield f'atrous_request_seconds_sum{{model="{model}"}} {self._seconds[model]:.6f}'
            yield f'atrous_request_seconds_count{{model="{model}"}} {total}'
        for name, kind, what in (
            ("ready", "gauge", "Workers that take jobs."),
            ("working", "gauge", "Jobs that wait or are worked on."),
            ("backlog", "gauge", "Seconds until a new job would be begun, estimated."),
            ("restarts", "counter", "Workers that were replaced."),
        ):
            yield from _head(f"workers_{name}", kind, what)
            for model, pool in pools.items():
                yield f'atrous_workers_{name}{{model="{model}"}} {getattr(pool, name):g}'
        yield from _head("bytes_in_flight", "gauge", "Bytes of bodies held.")
        yield f"atrous_bytes_in_flight {bytes_in_flight}"
        yield from _head("resident_bytes", "gauge", "Memory of the front process.")
        yield f"atrous_resident_bytes {resident_bytes()}"


def _head(name: str, kind: str, what: str) -> tuple[str, str]:
    return f"# HELP atrous_{name} {what}", f"# TYPE atrous_{name} {kind}"


def resident_bytes() -> int:
    """Returns the memory of this process; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * 4096
