"""The RayService of cluster/kuberay/: it is the service of serve.py, and a cluster runs it."""

from __future__ import annotations

import base64
import json
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from distributed.inference.record_predictor import Decisions, RecordPredictor
from distributed.runtime.option_values import check_options
from distributed.serving.application import application as build
from distributed.serving.options import TOKEN_VARIABLE, ServeOptions
from distributed.training.checkpoint import load_checkpoint
from tests.cluster.cluster_tools import Cluster, started, wait_for
from tests.schemas import reduce
from tests.training import small_run

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = reduce.manifests()["rayservice.yaml"]["spec"]
CONFIG: dict[str, Any] = yaml.safe_load(MANIFEST["serveConfigV2"])
PODS = [
    MANIFEST["rayClusterConfig"]["headGroupSpec"],
    *MANIFEST["rayClusterConfig"]["workerGroupSpecs"],
]
TOKEN = "correct-horse"
CLIENTS = 24  # that ask at once, until there is another copy of the model


def test_the_service_of_the_manifest_is_the_one_of_serve() -> None:
    """Reads it with Ray's own schema, and its arguments as the options of serve.py."""
    (application,) = ServeDeploySchema(**CONFIG).applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    options = check_options(ServeOptions, ServeOptions(**application.args))
    assert options.checkpoint.startswith("/mnt/longtail/")
    _, worker = PODS
    (container,) = worker["template"]["spec"]["containers"]
    cpus = worker["maxReplicas"] * int(container["resources"]["limits"]["cpu"])
    assert options.replicas <= options.max_replicas <= cpus


def unknown_fields(config: dict[str, Any]) -> set[str]:
    """Returns the fields that Ray does not know; its own reading drops some of them."""
    read = ServeDeploySchema(**config).model_dump()
    parts = [
        (config, read),
        (config["http_options"], read["http_options"]),
        (config["logging_config"], read["logging_config"]),
        (config["applications"][0], read["applications"][0]),
    ]
    return {name for given, known in parts for name in given if name not in known}


@pytest.mark.parametrize("place", ["", "http_options", "logging_config", "applications"])
def test_an_unknown_field_of_the_serve_config_fails(place: str) -> None:
    assert unknown_fields(CONFIG) == set()
    broken = json.loads(json.dumps(CONFIG))
    part = broken[place] if place else broken
    (part[0] if isinstance(part, list) else part)["copies"] = 2
    try:
        unknown = unknown_fields(broken)
    except ValueError as error:
        unknown = {"copies"} if "copies" in str(error) else set()
    assert unknown == {"copies"}


def test_the_pods_of_the_service_have_its_port_its_token_and_its_storage() -> None:
    port = CONFIG["http_options"]["port"]
    for group in PODS:
        (container,) = group["template"]["spec"]["containers"]
        # KubeRay finds the port of its readiness probe and of the address by this name.
        assert {"name": "serve", "containerPort": port} in container["ports"]
        assert container["envFrom"] == [{"secretRef": {"name": "longtail-service"}}]
        assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/mnt/longtail"}]
    readme = (ROOT / "cluster" / "README.md").read_text()
    assert f"create secret generic longtail-service --from-literal={TOKEN_VARIABLE}=" in readme


@pytest.fixture(scope="module")
def run(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(trained_run / "run", tmp_path_factory.mktemp("service") / "run")


@pytest.fixture(scope="module")
def cluster(run: Path) -> Iterator[Cluster]:
    """A cluster as the manifest has it: a token, nothing on the head, and the Serve config."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TOKEN_VARIABLE, TOKEN)
        patch.setenv("PYTHONPATH", str(ROOT))
        with started(2) as nodes:
            deploy(nodes, {"checkpoint": str(run), "replicas": 2, "max_replicas": 3})
            yield nodes


def deploy(cluster: Cluster, arguments: dict[str, Any]) -> None:
    """Sends the Serve config as KubeRay does, and waits for the service."""
    config = json.loads(json.dumps(CONFIG))
    config["applications"][0]["args"] |= arguments
    key = {"Authorization": f"Bearer {cluster.state.token.read_text()}"}
    request = urllib.request.Request(
        f"{cluster.state.dashboard}/api/serve/applications/",
        data=json.dumps(config).encode(),
        headers={**key, "Content-Type": "application/json"},
        method="PUT",
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        assert reply.status == 200
    wait_for(lambda: application(cluster)["status"] == "RUNNING", 180, lambda: application(cluster))
    # Serve starts the proxy of a node once it has a copy of the model.
    wait_for(lambda: set(copies(cluster)) <= proxies(cluster), 90, lambda: proxies(cluster))


def application(cluster: Cluster) -> dict[str, Any]:
    """Returns what the cluster says about the service."""
    found: dict[str, Any] = cluster.get("/api/serve/applications/")["applications"]["longtail"]
    return found


def copies(cluster: Cluster) -> list[str]:
    """Returns the node of every copy of the model that answers."""
    replicas = application(cluster)["deployments"]["Service"]["replicas"]
    return [replica["node_ip"] for replica in replicas if replica["state"] == "RUNNING"]


def proxies(cluster: Cluster) -> set[str]:
    """Returns the nodes that answer requests."""
    found = cluster.get("/api/serve/applications/")["proxies"].values()
    return {proxy["node_ip"] for proxy in found if proxy["status"] == "HEALTHY"}


def ask(address: str, content: object, token: str = TOKEN) -> tuple[int, Any]:
    """Returns the status and the content of the answer of a node's proxy."""
    request = urllib.request.Request(
        f"http://{address}:{CONFIG['http_options']['port']}/predict",
        data=json.dumps(content).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def some_records() -> list[dict[str, Any]]:
    rows = small_run.raw(small_run.SPLITS["test"], 2, "test").drop(columns="label").head(20)
    return [
        {name: None if value is None or value != value else value for name, value in row.items()}
        for row in rows.to_dict("records")
    ]


def encoded(record: dict[str, Any]) -> dict[str, Any]:
    return {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in record.items()
    }


@pytest.mark.cluster
def test_every_node_with_a_copy_answers_as_the_model_does(cluster: Cluster, run: Path) -> None:
    records = some_records()
    wanted = RecordPredictor(load_checkpoint(str(run)), Decisions(coverage=0.9)).predict(records)
    places = set(copies(cluster))
    assert cluster.state.head.address not in places
    for address in places:
        status, answer = ask(address, {"records": [encoded(record) for record in records]})
        assert status == 200, answer
        for given, other in zip(answer["predictions"], wanted, strict=True):
            assert (given["prediction"], given["set"]) == (other["prediction"], other["set"])
        assert ask(address, {}, "wrong")[0] == 401


@pytest.mark.cluster
def test_load_brings_another_copy_and_a_lost_node_takes_none_of_the_answers(
    cluster: Cluster,
) -> None:
    assert len(copies(cluster)) == 2
    content = {"records": [encoded(record) for record in some_records()]}
    lost, kept = (node for node in cluster.state.nodes[1:])
    statuses: list[int] = []
    enough = threading.Event()

    def client() -> None:
        while not enough.is_set():
            statuses.append(ask(kept.address, content)[0])

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in clients:
        thread.start()
    try:
        wait_for(lambda: len(copies(cluster)) == 3, 240, lambda: application(cluster))
    finally:
        enough.set()
        for thread in clients:
            thread.join()
    assert set(statuses) == {200}
    assert cluster("kill", lost.name).returncode == 0
    wait_for(lambda: set(copies(cluster)) == {kept.address}, 120, lambda: application(cluster))
    assert [ask(kept.address, content)[0] for _ in range(20)] == [200] * 20
