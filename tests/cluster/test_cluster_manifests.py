"""The files of cluster/ are valid, a typo in them fails, and they agree with the README."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster import pin
from cluster.local import nodes
from tests.schemas import reduce

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT.parent / "shared" / "kuberay"
REDUCED = ROOT / "tests" / "schemas" / "kuberay.json"
LAUNCHER = sorted((ROOT / "cluster" / "launcher").glob("*.yaml"))
SBATCH = ROOT / "cluster" / "slurm" / "search.sbatch"
DOCUMENTS = reduce.manifests()
RAY = [name for name, document in DOCUMENTS.items() if document["kind"] in reduce.FILES]
VERSION = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)[1]  # type: ignore[index]


def schemas(source: str) -> dict[str, Any]:
    if source == "published":
        return {
            kind: reduce.strict(reduce.published(PUBLISHED, kind))
            for kind, name in reduce.FILES.items()
            if (PUBLISHED / name).exists()
        }
    return {
        kind: reduce.strict(schema)
        for kind, schema in json.loads(REDUCED.read_text())["schemas"].items()
    }


@pytest.fixture(scope="module", params=["published", "reduced"])
def validate(request: pytest.FixtureRequest) -> Callable[[dict[str, Any]], None]:
    kinds = schemas(request.param)

    def check(document: dict[str, Any]) -> None:
        if document["kind"] not in kinds:
            pytest.skip("the published definition of this kind is not beside this checkout")
        jsonschema.Draft202012Validator(kinds[document["kind"]]).validate(document)

    return check


def cluster_spec(document: dict[str, Any]) -> dict[str, Any]:
    field = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(document["kind"])
    return document["spec"][field] if field else document["spec"]


def groups(document: dict[str, Any]) -> list[dict[str, Any]]:
    spec = cluster_spec(document)
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


@pytest.mark.parametrize("name", RAY)
def test_manifest_follows_the_schema(name: str, validate: Callable[[dict[str, Any]], None]) -> None:
    assert DOCUMENTS[name]["apiVersion"] == "ray.io/v1"
    validate(DOCUMENTS[name])


def edit_entrypoint(job: dict[str, Any]) -> None:
    job["spec"]["entrypont"] = job["spec"].pop("entrypoint")


def edit_replicas(job: dict[str, Any]) -> None:
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] = "one"


def edit_mode(job: dict[str, Any]) -> None:
    job["spec"]["rayClusterSpec"]["authOptions"]["mode"] = "tokens"


def edit_image(job: dict[str, Any]) -> None:
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0][
        "imagePulPolicy"
    ] = "Always"


def edit_group(job: dict[str, Any]) -> None:
    del job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"]


def edit_serve_config(service: dict[str, Any]) -> None:
    service["spec"]["serveConfig"] = service["spec"].pop("serveConfigV2")


def edit_exclusion(service: dict[str, Any]) -> None:
    service["spec"]["excludeHeadPodFromServeSvc"] = "yes"


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        *(
            ("rayjob-cpu.yaml", edit)
            for edit in (edit_entrypoint, edit_replicas, edit_mode, edit_image, edit_group)
        ),
        ("rayservice.yaml", edit_serve_config),
        ("rayservice.yaml", edit_exclusion),
    ],
)
def test_a_typo_fails(
    name: str,
    edit: Callable[[dict[str, Any]], None],
    validate: Callable[[dict[str, Any]], None],
) -> None:
    broken = copy.deepcopy(DOCUMENTS[name])
    edit(broken)
    with pytest.raises(jsonschema.ValidationError):
        validate(broken)


def test_the_reduced_schema_is_small_and_current() -> None:
    assert REDUCED.stat().st_size < 100_000
    assert "feeaf72" in json.loads(REDUCED.read_text())["origin"]
    if PUBLISHED.exists():
        stored = json.loads(REDUCED.read_text())["schemas"]
        for kind, schema in reduce.reduce(PUBLISHED).items():
            assert stored[kind] == schema, kind


@pytest.mark.parametrize("pool", ["cpu", "gpu"])
def test_job_and_cluster_are_the_same_cluster(pool: str) -> None:
    assert (
        DOCUMENTS[f"rayjob-{pool}.yaml"]["spec"]["rayClusterSpec"]
        == DOCUMENTS[f"raycluster-{pool}.yaml"]["spec"]
    )


@pytest.mark.parametrize("name", RAY)
def test_pods_are_safe_sized_and_of_one_version(name: str) -> None:
    spec = cluster_spec(DOCUMENTS[name])
    assert spec["rayVersion"] == VERSION
    assert spec["authOptions"] == {"mode": "token", "secretName": "longtail-token"}
    assert spec["enableInTreeAutoscaling"] is True
    for group in groups(DOCUMENTS[name]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["resources"]["requests"] == container["resources"]["limits"]
        stored = int(group["rayStartParams"].get("object-store-memory", 0))
        memory = int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30
        assert stored <= 0.4 * memory
        assert not any(
            "SECRET" in item["name"] or "TOKEN" in item["name"] for item in container.get("env", [])
        )
    assert all(
        group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        for group in spec["workerGroupSpecs"]
    )


@pytest.mark.parametrize("name", [name for name in RAY if name.endswith("-gpu.yaml")])
def test_gpu_pool_asks_for_a_gpu_and_a_cpu_pool_stands_beside_it(name: str) -> None:
    limits = [
        g["template"]["spec"]["containers"][0]["resources"]["limits"]
        for g in cluster_spec(DOCUMENTS[name])["workerGroupSpecs"]
    ]
    assert [limit.get("nvidia.com/gpu") for limit in limits] == ["1", None]


def pod_schema(path: str) -> dict[str, Any]:
    """Returns a part of the published spec of a RayCluster.

    It holds the schemas of pods, volume claims and network rules.
    """
    if not PUBLISHED.exists():
        pytest.skip("the published definitions are not beside this checkout")
    part: dict[str, Any] = reduce.strict(reduce.published(PUBLISHED, "RayCluster"))
    for step in ("spec", *path.split("/")):
        part = part["items"] if step == "[]" else part["properties"][step]
    return part


def test_volume_claim_is_valid() -> None:
    claim = DOCUMENTS["storage.yaml"]
    jsonschema.validate(
        claim["spec"],
        pod_schema("headGroupSpec/template/spec/volumes/[]/ephemeral/volumeClaimTemplate/spec"),
    )
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    volume = groups(DOCUMENTS["raycluster-cpu.yaml"])[0]["template"]["spec"]["volumes"][0]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_network_policy_selects_the_pods() -> None:
    policy = DOCUMENTS["network-policy.yaml"]
    schema = pod_schema("networkPolicy/head/ingressRules")
    jsonschema.validate(policy["spec"]["ingress"], schema)
    selected = policy["spec"]["podSelector"]["matchLabels"].items()
    for name in RAY:
        assert all(
            selected <= group["template"]["metadata"]["labels"].items()
            for group in groups(DOCUMENTS[name])
        )


def fits(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether Kubernetes selects what has these labels; an empty selector selects everything."""
    assert selector.keys() <= {"matchLabels"}, "this reading knows no other kind of selector"
    return selector.get("matchLabels", {}).items() <= labels.items()


def reaches(policy: dict[str, Any], pod: dict[str, str], namespace: str, port: int) -> bool:
    """Whether a NetworkPolicy of the namespace `own` lets a pod reach this port of its pods."""
    for rule in policy["spec"]["ingress"]:
        if "ports" in rule and port not in [entry["port"] for entry in rule["ports"]]:
            continue
        if not rule.get("from"):
            return True  # a rule without senders admits all
        for sender in rule["from"]:
            assert sender.keys() <= {"podSelector", "namespaceSelector"}
            name = {"kubernetes.io/metadata.name": namespace}
            spaces = sender.get("namespaceSelector")
            near = namespace == "own" if spaces is None else fits(spaces, name)
            if near and fits(sender.get("podSelector", {}), pod):
                return True
    return False


def test_network_policy_admits_the_cluster_its_submitter_and_the_operator_only() -> None:
    policy = DOCUMENTS["network-policy.yaml"]
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    ours, submitter = {"app": "longtail"}, {"app.kubernetes.io/created-by": "kuberay-operator"}
    operator = {"app.kubernetes.io/name": "kuberay-operator"}
    stranger = {"app": "web", "app.kubernetes.io/name": "web"}
    pods: dict[str, dict[str, str]] = {
        "ours": ours,
        "submitter": submitter,
        "operator": operator,
        "client": {"app": "web", "longtail-client": "true"},
        "stranger": stranger,
        "nameless": {},
    }

    def admitted(port: int) -> set[tuple[str, str]]:
        return {
            (name, space)
            for name, pod in pods.items()
            for space in ("own", "other")
            if reaches(policy, pod, space, port)
        }

    cluster = {("ours", "own"), ("submitter", "own"), ("operator", "own"), ("operator", "other")}
    assert admitted(8265) == cluster
    assert admitted(6379) == cluster
    assert admitted(8000) == cluster | {("client", "own")}


@pytest.mark.parametrize("name", RAY)
def test_only_the_autoscaler_may_use_the_kubernetes_api(name: str) -> None:
    head, *workers = groups(DOCUMENTS[name])
    for group in (head, *workers):
        pod = group["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            mounts = [mount["name"] for mount in container.get("volumeMounts", [])]
            assert "autoscaler-account" not in mounts
    (mount,) = cluster_spec(DOCUMENTS[name])["autoscalerOptions"]["volumeMounts"]
    assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    volumes = {volume["name"]: volume for volume in head["template"]["spec"]["volumes"]}
    sources = volumes[mount["name"]]["projected"]["sources"]
    paths = [
        sources[0]["serviceAccountToken"]["path"],
        sources[1]["configMap"]["items"][0]["path"],
        sources[2]["downwardAPI"]["items"][0]["path"],
    ]
    assert paths == ["token", "ca.crt", "namespace"], "the files that a client in a pod reads"


def test_the_readme_pins_the_image_of_every_file_by_its_digest(tmp_path: Path) -> None:
    readme = (ROOT / "cluster" / "README.md").read_text()
    (line,) = re.findall(r"^sed -i .*", readme, re.M)
    shutil.copytree(ROOT / "cluster", tmp_path / "cluster")
    image = f"registry/longtail@sha256:{'0' * 64}"
    subprocess.run(["bash", "-c", line], cwd=tmp_path, env={"IMAGE": image}, check=True)
    files = [*tmp_path.glob("cluster/kuberay/*.yaml"), *tmp_path.glob("cluster/launcher/*.yaml")]
    used = [name for file in files for name in re.findall(r"\bimage: (\S+)", file.read_text())]
    assert len(used) >= 15 and set(used) == {image}


def commands(text: str) -> list[str]:
    """Returns every `python distributed/....py` line of a document, continuation lines joined."""
    return re.findall(r"python distributed/\w+\.py[^\n`|&;]*", re.sub(r"\\\n\s*", "", text))


def help_of(script: str) -> str:
    """Returns the help of a script."""
    path = ROOT / script
    if not path.exists():
        pytest.skip(f"{script} is not there yet")
    result = subprocess.run(
        [sys.executable, str(path), "--help"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_entrypoints_are_commands_of_this_repository() -> None:
    entrypoints = [
        document["spec"]["entrypoint"]
        for document in DOCUMENTS.values()
        if document["kind"] == "RayJob"
    ]
    assert len(entrypoints) == 2
    entrypoints += commands((ROOT / "cluster" / "README.md").read_text())
    for command in entrypoints:
        python, script, *arguments = shlex.split(command)
        assert python == "python"
        flags = set(re.findall(r"--[a-z][a-z-]*", help_of(script)))
        assert {word.split("=")[0] for word in arguments if word.startswith("--")} <= flags, command


def test_entrypoints_are_those_of_the_readme() -> None:
    readme = commands((ROOT / "cluster" / "README.md").read_text())
    for document in DOCUMENTS.values():
        if document["kind"] == "RayJob":
            assert document["spec"]["entrypoint"] in readme


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("validation must not call out")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.stem)
def test_launcher_follows_rays_schema(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(path.read_text())
    validate_config(prepare_config(copy.deepcopy(config)))
    options = " ".join(config["docker"]["run_options"])
    assert "RAY_AUTH_MODE=token" in options
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(config | {"max_worker": 1}))


@pytest.mark.usefixtures("no_network")
def test_aws_machines_are_what_ec2_takes() -> None:
    """Compares with the definition of EC2's RunInstances that ships with botocore."""
    pytest.importorskip("botocore")
    from botocore.loaders import Loader
    from botocore.model import ServiceModel
    from botocore.validate import ParamValidator

    shape = (
        ServiceModel(Loader().load_service_model("ec2", "service-2"))
        .operation_model("RunInstances")
        .input_shape
    )
    for name, kind in yaml.safe_load((ROOT / "cluster/launcher/aws.yaml").read_text())[
        "available_node_types"
    ].items():
        request = {"MinCount": 1, "MaxCount": 1, **kind["node_config"]}
        assert not ParamValidator().validate(request, shape).has_errors(), name
        assert kind["node_config"]["InstanceType"] in shape.members["InstanceType"].enum
        spot = kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
        assert spot == (None if name == "head" else "spot")


def test_scripts_pass_shellcheck() -> None:
    tool = shutil.which(
        "shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    if tool is None:
        pytest.skip("shellcheck is not installed")
    result = subprocess.run([tool, str(SBATCH)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_slurm_dry_run_starts_the_head_first_and_passes_arguments_on(tmp_path: Path) -> None:
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/home/a",
        "DRY_RUN": "1",
        "MACHINES": "a1 a2 a3",
        "SLURM_GPUS_ON_NODE": "2",
        "PYTHON": "/opt/python",
    }
    arguments = ["--trials", "200", "--out", "/shared/with space"]
    done = subprocess.run(
        ["bash", str(SBATCH), *arguments],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert [next(w for w in line if w.startswith("--nodelist=")) for line in lines] == [
        f"--nodelist={m}" for m in ("a1", "a2", "a3", "a1")
    ]
    assert "--head" in lines[0]
    hosts = [word for line in lines for word in line if word.startswith("--dashboard-host")]
    assert hosts == ["--dashboard-host=127.0.0.1"]
    assert all("--num-gpus=2" in line for line in lines[:3])
    assert all(any(word.startswith("--address=a1:") for word in line) for line in lines[1:3])
    assert lines[3][-6:] == ["/opt/python", "distributed/tune.py", *arguments]
    assert list(tmp_path.iterdir()) == []


SRUN = """#!/usr/bin/env bash
stat --format=%a "$TOKEN_FOLDER/.longtail-token-7" >>"$TOKEN_FOLDER/modes" 2>/dev/null
echo 127.0.0.1
"""
PYTHON = f"""#!/usr/bin/env bash
[[ $1 == -m ]] || exec {shlex.quote(sys.executable)} "$@"
"""


def test_slurm_token_is_private_from_its_first_byte_whatever_the_umask(tmp_path: Path) -> None:
    programs = {"srun": SRUN, "scontrol": "#!/bin/sh\necho m1\n", "python": PYTHON}
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", str(SBATCH)],
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "PYTHON": str(tmp_path / "python"),
            "TOKEN_FOLDER": str(tmp_path),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "m1",
            "SLURM_CPUS_ON_NODE": "1",
        },
        cwd=tmp_path,
        umask=0,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert set((tmp_path / "modes").read_text().split()) == {"600"}
    assert not (tmp_path / ".longtail-token-7").exists()


def test_local_cluster_keeps_its_dashboard_on_the_loopback_address() -> None:
    state = nodes.State(id="x", folder="/tmp/x", subnet=3, cpus=1, head_cpus=0, store_mb=100)
    head = nodes.Node(name="head", index=0, address="10.213.3.1", ports=20000)
    words = nodes.start_command(state, head)
    hosts = [word for word in words if word.startswith("--dashboard-host")]
    assert hosts == ["--dashboard-host=127.0.0.1"]


def test_slurm_script_outside_slurm_names_its_dry_run() -> None:
    done = subprocess.run(
        ["bash", str(SBATCH)], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "DRY_RUN=1" in done.stderr


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (ROOT / "cluster" / "Dockerfile").read_text())
    lines = [
        line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")
    ]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def copied() -> list[str]:
    return [name for word, rest in instructions() if word == "COPY" for name in rest.split()[:-1]]


def test_image_is_pinned_and_not_root() -> None:
    done = instructions()
    (base,) = [rest for word, rest in done if word == "FROM"]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)
    users = [rest for word, rest in done if word == "USER"]
    assert users == ["1000:1000"]
    assert done.index(("USER", "1000:1000")) > max(
        index for index, (word, _) in enumerate(done) if word in ("RUN", "COPY")
    )
    installs = [
        part
        for word, rest in done
        if word == "RUN"
        for part in re.split("&&", rest)
        if "pip install" in part
    ]
    (install,) = installs
    assert "--require-hashes --only-binary=:all: --requirement requirements.txt" in install
    assert not any(word == "ADD" or "http" in rest for word, rest in done)


def test_every_package_of_the_image_has_one_version_and_a_hash() -> None:
    lines = [line for line in pin.FILE.read_text().splitlines() if not line.startswith("#")]
    pinned = {}
    for line in lines:
        match = re.fullmatch(r"([a-z0-9-]+)==(\S+) --hash=sha256:[0-9a-f]{64}", line)
        assert match, line
        pinned[match[1]] = match[2]
    assert len(pinned) == len(lines)
    wanted = {re.split(r"[^\w-]", text)[0].replace("_", "-") for text in pin.requirements()}
    assert wanted <= pinned.keys(), "run cluster/pin.py"
    constraints = dict(
        re.findall(r"^([\w-]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    )
    for name, version in constraints.items():
        assert pinned.get(name.lower().replace("_", "-"), version) == version, "run cluster/pin.py"


def test_image_copies_little_and_all_that_is_needed(tmp_path: Path) -> None:
    assert set(copied()) == {
        "cluster/requirements.txt",
        "distributed",
        "model",
        "search_spaces",
    }
    for name in ("distributed", "model", "search_spaces"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    scripts = [name for name in ("train", "tune") if (ROOT / f"distributed/{name}.py").exists()]
    for name in scripts:
        done = subprocess.run(
            [sys.executable, f"distributed/{name}.py", "--help"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
    assert scripts


def test_build_context_is_what_is_copied_and_nothing_but_sources() -> None:
    """Applies the rules of the docker client itself."""
    build = pytest.importorskip("docker.utils.build")
    patterns = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    paths = {path for path in build.exclude_paths(str(ROOT), patterns) if (ROOT / path).is_file()}
    assert all(path.startswith(tuple(copied())) for path in paths - {"Dockerfile", ".dockerignore"})
    assert not any("__pycache__" in path for path in paths)
    assert not paths & {"distributed/describe.py", "distributed/reference.py"}  # they write docs/
    sources = paths - {"Dockerfile", ".dockerignore", "cluster/requirements.txt"}
    assert {Path(path).suffix for path in sources} == {".py", ".toml", ".j2"}
    assert max((ROOT / path).stat().st_size for path in sources) < 50_000  # data take more
    assert sum((ROOT / path).stat().st_size for path in sources) < 2_100_000


def test_submitted_working_directory_is_small_and_has_no_secrets(tmp_path: Path) -> None:
    """Applies Ray's own rules for `ray job submit --working-dir .`."""
    from ray._private.runtime_env import packaging

    packaging.create_package(
        str(ROOT),
        tmp_path / "job.zip",
        include_gitignore=True,
        include_parent_dir=False,
        excludes=[],
    )
    with zipfile.ZipFile(tmp_path / "job.zip") as package:
        names = package.namelist()
    assert {"distributed/train.py", "model/network.py"} <= set(names)
    top_level = {name.split("/")[0] for name in names}
    assert not top_level & {
        ".git",
        ".venv",
        "tests",
        "cluster",
        "benchmarks",
        "runs",
        "experiments",
        "shards",
    }
    assert not any("token" in name for name in names)
    assert (tmp_path / "job.zip").stat().st_size < 3_000_000
