"""The service as a Ray Serve application: copies of a model behind HTTP, and their counts."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import time
from typing import Any

import torch
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from distributed.inference.decisions.costs import read_costs
from distributed.inference.decisions.plan import implied_prior
from distributed.inference.record_predictor import Answer, Decisions, RecordPredictor
from distributed.runtime.freed_memory import keep_freed_memory
from distributed.runtime.option_values import check_options
from distributed.serving.bodies import BadRequest, read_records
from distributed.serving.counts import Counts, as_text
from distributed.serving.options import TOKEN_VARIABLE, ServeOptions
from distributed.serving.page import service_page
from distributed.training.checkpoint import Checkpoint, load_checkpoint

NAME = "longtail"  # of the application
PUSH_SECONDS = 1.0  # after which a copy hands on its counts
MAX_QUEUED = 1000  # requests that wait; more are answered with 503 at once
ROUTES = {"/": "GET", "/health": "GET", "/metrics": "GET", "/predict": "POST"}
OPEN = ("/", "/health")  # answered without the token


class SumOfCounts:
    """Adds up the counts of all copies of the model."""

    def __init__(self) -> None:
        self.counts = Counts()

    def add(self, values: dict[str, float]) -> None:
        """Adds what a copy has counted since its last call."""
        self.counts.add(values)

    def text(self) -> str:
        """Returns all counts as Prometheus reads them."""
        return as_text(self.counts.values)


class Service:
    """One copy of the model: reads requests, predicts their records in batches, answers."""

    def __init__(self, options: ServeOptions, token: str, counts: DeploymentHandle[Any]) -> None:
        torch.set_num_threads(1)
        keep_freed_memory()
        self.options, self.token, self.sum_of_counts = options, token, counts
        self.counts = Counts()
        self.pushed = time.monotonic()
        self.predictor = load_predictor(options)
        self.page = service_page(self.predictor, needs_token=bool(token))
        self._batch.set_max_batch_size(options.batch_size)  # type: ignore[attr-defined]
        self._batch.set_batch_wait_timeout_s(options.batch_wait)  # type: ignore[attr-defined]

    async def __call__(self, request: Request) -> Response:
        """Answers a request; whatever is wrong with it is one line of JSON."""
        started = time.perf_counter()
        try:
            response = await self._answer(request)
        except BadRequest as error:
            response = JSONResponse({"error": str(error)}, status_code=error.status)
        self.counts.request(response.status_code, time.perf_counter() - started)
        if time.monotonic() - self.pushed > PUSH_SECONDS:
            self._push_counts()
        return response

    async def _answer(self, request: Request) -> Response:
        path = request.url.path
        if path not in ROUTES:
            raise BadRequest(f"there is no {path[:100]}; there is {', '.join(ROUTES)}", 404)
        if request.method != ROUTES[path]:
            raise BadRequest(f"{path} answers {ROUTES[path]}; got {request.method[:20]}", 405)
        if path not in OPEN and not self._is_allowed(request):
            raise BadRequest("the token is missing or wrong: Authorization: Bearer TOKEN", 401)
        if path == "/":
            return HTMLResponse(self.page)
        if path == "/health":
            return JSONResponse({"status": "ok"})
        if path == "/metrics":
            self._push_counts()
            return PlainTextResponse(await self.sum_of_counts.text.remote())
        return await self._predict(request)

    async def _predict(self, request: Request) -> Response:
        options = self.options
        records = await read_records(
            request, options.max_bytes, options.max_records, self.predictor.images
        )
        answers = await self._answers(records)
        refused = sum("reason" in answer for answer in answers)
        self.counts.records(len(answers) - refused, refused)
        body = json.dumps({"predictions": answers}, allow_nan=False)
        return Response(body, media_type="application/json")

    async def _answers(self, records: list[Any]) -> list[Answer]:
        """Predicts whole batches at once, and the rest with the records of other requests."""
        size = self.options.batch_size
        whole = len(records) // size * size
        answers: list[Answer] = []
        for first in range(0, whole, size):
            part = records[first : first + size]
            answers += await asyncio.to_thread(self.predictor.predict, part)
        return answers + await asyncio.gather(*map(self._batch, records[whole:]))

    @serve.batch
    async def _batch(self, records: list[Any]) -> list[Answer]:
        """Predicts records that may come from several requests."""
        return await asyncio.to_thread(self.predictor.predict, records)

    def _is_allowed(self, request: Request) -> bool:
        given = request.headers.get("authorization", "")
        wanted = f"Bearer {self.token}"
        return not self.token or hmac.compare_digest(given.encode(), wanted.encode())

    def _push_counts(self) -> None:
        self.pushed = time.monotonic()
        self.sum_of_counts.add.remote(self.counts.take())


def load_predictor(options: ServeOptions, checkpoint: Checkpoint | None = None) -> RecordPredictor:
    """Returns the predictor that a copy of the model is; mistakes in the options are errors here.

    checkpoint: that of the options, where it is loaded already.
    """
    checkpoint = checkpoint or load_checkpoint(options.checkpoint)
    if options.trust_unfamiliar:
        checkpoint.network.accept_all_modalities()
    classes = checkpoint.network.schema.classes
    decisions = Decisions(
        prior=implied_prior(options.prior, bool(options.cost), None),
        cost=read_costs(options.cost, classes) if options.cost else (),
        coverage=options.coverage,
        abstain=options.abstain,
    )
    return RecordPredictor(checkpoint, decisions, options.gpus_per_replica)


def build_application(options: ServeOptions, token: str) -> serve.Application:
    """Returns the application; token: empty answers anyone."""
    replicas: dict[str, Any] = {"num_replicas": options.replicas}
    if options.max_replicas > options.replicas:
        replicas = {
            "autoscaling_config": {
                "min_replicas": options.replicas,
                "max_replicas": options.max_replicas,
            }
        }
    service = serve.deployment(
        name="Service",
        max_ongoing_requests=4 * options.batch_size,
        max_queued_requests=MAX_QUEUED,
        ray_actor_options={"num_cpus": 1, "num_gpus": options.gpus_per_replica},
        **replicas,
    )(Service)
    counts = serve.deployment(name="Counts", ray_actor_options={"num_cpus": 0})(SumOfCounts)
    built: serve.Application = service.bind(options, token, counts.bind())
    return built


def start(options: ServeOptions, token: str) -> None:
    """Starts the service in the Ray that runs, and returns when it answers."""
    serve.start(
        http_options={"host": options.host, "port": options.port},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    serve.run(build_application(options, token), name=NAME, route_prefix="/")


def stop() -> None:
    """Ends the service."""
    serve.shutdown()  # type: ignore[no-untyped-call]  # Ray does not type it


def application(arguments: dict[str, Any]) -> serve.Application:
    """The application of a Serve config file, such as that of a RayService: its args are options.

    The token is that of the environment, and no_token = true does without.
    """
    options = check_options(ServeOptions, ServeOptions(**arguments))
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token and not options.no_token:
        raise ValueError(f"{TOKEN_VARIABLE} must hold the token of the service, or set no_token")
    return build_application(options, "" if options.no_token else token)
