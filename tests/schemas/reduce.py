"""Makes kuberay.json: the parts of the published KubeRay schemas that cluster/kuberay/ uses, so
that the tests need no 2 MB of definitions.

    python tests/schemas/reduce.py FOLDER      # with ray.io_rayclusters.yaml, ray.io_rayjobs.yaml
    and ray.io_rayservices.yaml of ray-project/kuberay

Run it again when a manifest starts to use a field that kuberay.json lacks: until then the field
fails as a typo would.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
MANIFESTS = HERE.parents[1] / "cluster" / "kuberay"
FILES = {
    "RayCluster": "ray.io_rayclusters.yaml",
    "RayJob": "ray.io_rayjobs.yaml",
    "RayService": "ray.io_rayservices.yaml",
}
VERSION = "v1"
KEPT = (
    "type",
    "enum",
    "required",
    "format",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
    "anyOf",
    "x-kubernetes-int-or-string",
)

Schema = dict[str, Any]


@functools.cache
def published(folder: Path, kind: str) -> Schema:
    """The v1 schema of a custom resource as KubeRay publishes it."""
    # The C loader reads the megabyte in under a second, the Python one in seven.
    definition = yaml.load(
        (folder / FILES[kind]).read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
    return next(
        v["schema"]["openAPIV3Schema"]
        for v in definition["spec"]["versions"]
        if v["name"] == VERSION
    )  # type: ignore[no-any-return]


def strict(schema: Schema) -> Schema:
    """The schema as JSON Schema in which an unknown field is an error, which the API server only
    drops."""
    made = {
        name: value
        for name, value in schema.items()
        if not name.startswith("x-kubernetes") and name != "nullable"
    }
    if schema.get("x-kubernetes-int-or-string"):
        made = {"type": ["integer", "string"]}
    if "properties" in schema:
        made["properties"] = {name: strict(part) for name, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = strict(schema["additionalProperties"])
    if "items" in schema:
        made["items"] = strict(schema["items"])
    if schema.get("nullable") and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    return made


def reduced(schema: Schema, values: list[Any]) -> Schema:
    """The schema without the properties that none of the values has."""
    made = {name: schema[name] for name in KEPT if name in schema}
    objects = [value for value in values if isinstance(value, dict)]
    if "properties" in schema:
        used = [
            name
            for name in schema["properties"]
            if any(name in value for value in objects) or name in schema.get("required", ())
        ]
        made["properties"] = {
            name: reduced(schema["properties"][name], [v[name] for v in objects if name in v])
            for name in used
        }
    elif isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = reduced(
            schema["additionalProperties"], [part for value in objects for part in value.values()]
        )
    if "items" in schema:
        made["items"] = reduced(
            schema["items"], [part for value in values if isinstance(value, list) for part in value]
        )
    return made


def manifests() -> dict[str, Schema]:
    """Every document of cluster/kuberay/, by file name."""
    return {
        path.name: yaml.safe_load(path.read_text()) for path in sorted(MANIFESTS.glob("*.yaml"))
    }


def reduce(folder: Path) -> dict[str, Schema]:
    """The reduced schema of every kind whose published definition is in the folder."""
    documents = manifests().values()
    return {
        kind: reduced(published(folder, kind), [d for d in documents if d["kind"] == kind])
        for kind, name in FILES.items()
        if (folder / name).exists()
    }


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    readme = folder / "README.md"
    origin = (
        " ".join(readme.read_text().split()).split(". Data to")[0]
        if readme.exists()
        else str(folder)
    )
    made = {"origin": origin, "version": VERSION, "schemas": reduce(folder)}
    (HERE / "kuberay.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
