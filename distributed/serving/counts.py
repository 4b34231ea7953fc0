"""Counts of a service in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
PREFIX = "longtail_"
HELP = {
    "requests_total": "requests by status",
    "records_total": "records that were predicted",
    "refused_records_total": "records that were refused",
    "request_seconds": "time from the first byte of a request to its answer",
}


class Counts:
    """Counts that can be added up over the copies of a model."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Adds further counts."""
        for name, value in values.items():
            self.values[name] = self.values.get(name, 0.0) + value

    def request(self, status: int, seconds: float) -> None:
        """Counts a request that was answered."""
        within = {
            f'request_seconds_bucket{{le="{limit:g}"}}': seconds <= limit for limit in BUCKETS
        }
        self.add(
            {
                f'requests_total{{status="{status}"}}': 1,
                "request_seconds_sum": seconds,
                "request_seconds_count": 1,
                **{name: float(is_within) for name, is_within in within.items()},
                'request_seconds_bucket{le="+Inf"}': 1,
            }
        )

    def records(self, answered: int, refused: int) -> None:
        """Counts the records of a request."""
        self.add({"records_total": answered, "refused_records_total": refused})

    def take(self) -> dict[str, float]:
        """Returns the counts since the last call, and starts anew."""
        taken, self.values = self.values, {}
        return taken


def as_text(values: Mapping[str, float]) -> str:
    """Returns counts as Prometheus reads them."""
    by_metric: dict[str, list[str]] = {name: [] for name in HELP}
    for name, value in sorted(values.items()):
        metric = next(known for known in HELP if name.startswith(known))
        by_metric[metric].append(f"{PREFIX}{name} {value:g}")
    lines = []
    for metric, rows in by_metric.items():
        kind = "histogram" if metric == "request_seconds" else "counter"
        lines += [f"# HELP {PREFIX}{metric} {HELP[metric]}", f"# TYPE {PREFIX}{metric} {kind}"]
        lines += rows
    return "\n".join(lines) + "\n"
