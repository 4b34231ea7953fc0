"""Starts the service, says how to reach it, and runs it until it is stopped."""

from __future__ import annotations

import os
import secrets
import socket
import time
from dataclasses import replace

from distributed.runtime import ray_session, signals
from distributed.runtime.errors import OptionError
from distributed.runtime.option_values import check_options
from distributed.runtime.storage import absolute_location
from distributed.serving.options import TOKEN_VARIABLE, ServeOptions
from distributed.training.checkpoint import load_checkpoint
from model.metrics.names import OPERATING_PRIORS

SECONDS_BETWEEN_LOOKS = 0.5


def serve(options: ServeOptions) -> None:
    """Answers requests until a signal or Ctrl-C ends it."""
    options = with_absolute_places(check_options(ServeOptions, options))
    try:
        os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
        # It loads an optional package, which reads that variable as it loads.
        from distributed.serving import application
    except ImportError as error:
        raise ValueError(
            f"serve.py needs the extra `serve`: pip install 'ray[serve]' python-multipart ({error})"
        ) from None
    predictor = application.load_predictor(options, load_checkpoint(options.checkpoint))
    check_port(options.host, options.port)
    token = "" if options.no_token else os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(24)
    ray_session.start_ray()
    with signals.stop_requests():
        try:
            application.start(options, token)
            for note in predictor.plan.notes:
                print(f"note: {note}")
            print(ready_text(options, token), flush=True)
            while True:
                time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            application.stop()


def with_absolute_places(options: ServeOptions) -> ServeOptions:
    """Returns the options with absolute locations, since copies of the model run elsewhere."""
    places = {"checkpoint": options.checkpoint, "cost": options.cost}
    if options.prior not in OPERATING_PRIORS:
        places["prior"] = options.prior
    found = {name: absolute_location(place) for name, place in places.items() if place}
    return replace(options, **found)  # type: ignore[arg-type]  # all of them are texts


def check_port(host: str, port: int) -> None:
    """Refuses an address that cannot be listened on."""
    try:
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((host, port))
    except OSError as error:
        raise OptionError(
            f"port and host must be free to listen on; got {host}:{port}: {error.strerror}",
            *("port", "host"),
        ) from None


def ready_text(options: ServeOptions, token: str) -> str:
    """How the service is reached, by a person and by a program."""
    address = f"http://{options.host}:{options.port}"
    chosen = TOKEN_VARIABLE in os.environ
    lines = [f"page        {address}/" + (f"#token={token}" if token and not chosen else "")]
    if token and not chosen:
        lines.append(f"token       {token} (set {TOKEN_VARIABLE} to choose it)")
    header = f' -H "Authorization: Bearer ${TOKEN_VARIABLE}"' if token else ""
    lines.append(
        f"predict     curl {address}/predict{header} -F COLUMN=@picture.jpg -F COLUMN=value"
    )
    lines.append(f"also        {address}/health {address}/metrics")
    return "\n".join(lines)
