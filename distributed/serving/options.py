"""The options of `serve` (serve.py), declared once for the command line and for Python."""

from __future__ import annotations

from dataclasses import dataclass

from distributed.inference.options import (
    CHECKPOINT_HELP,
    abstain_option,
    cost_option,
    coverage_option,
    prior_option,
    trust_option,
)
from model.declarations import option, required

TOKEN_VARIABLE = "LONGTAIL_SERVE_TOKEN"


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What `serve` answers with, and how it is reached."""

    checkpoint: str = required(CHECKPOINT_HELP, "C")
    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 for all", metavar="H")
    port: int = option(8000, "port to listen on", low=1, high=65535, metavar="P")
    replicas: int = option(1, "copies of the model, each with a CPU of its own", low=1)
    max_replicas: int = option(
        0,
        "copies up to which the service grows with its load",
        low=0,
        shown="--replicas, no growth",
    )
    gpus_per_replica: float = option(
        0.0, "GPUs of each copy, fractions allowed", low=0, metavar="G"
    )
    batch_size: int = option(16, "most records that are predicted at a time", low=1, high=1024)
    batch_wait: float = option(
        0.005,
        "longest time that a record waits for others, in seconds",
        low=0,
        high=10,
        metavar="S",
    )
    max_records: int = option(256, "most records of a request", low=1, high=100_000)
    max_bytes: int = option(
        32_000_000, "most bytes of a request's body", low=1000, high=1_000_000_000
    )
    prior: str = prior_option()
    cost: str = cost_option()
    coverage: float | None = coverage_option()
    abstain: float = abstain_option("records")
    trust_unfamiliar: bool = trust_option()
    no_token: bool = option(
        False,
        "answer anyone who reaches the port; otherwise requests need the token in "
        f"{TOKEN_VARIABLE}, or one that is printed at the start",
        shown="a token",
    )
