"""Trains Ludwig, AutoGluon and this project on the same rows of shards and scores all alike.

    python benchmarks/peers/environments.py --folder PEERS
    python benchmarks/peers/run.py --folder PEERS --data ham10000=SHARDS --seeds 5 --out F.json
    python benchmarks/peers/table.py F.json

--out gets a record for each run. Runs that it holds already are not repeated, so that a stopped
command goes on where it was, and more seeds are added by the same command. All peers read the
pictures and columns that the shards hold, train on the training rows, choose epochs and mixtures by
the validation rows, and answer on the test rows.

This project is trained with its defaults: `cold` with nothing of the data set cached, `cached` with
what frozen layers of the pictures' encoder put out already there from an earlier training.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks import command
from benchmarks.peers.jobs import JobFailed, run_job
from benchmarks.peers.scoring import score_ours, score_peer
from benchmarks.peers.tables import write_tables
from distributed.shards.manifest import read_manifest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OURS = "ours"


@dataclass(frozen=True)
class Peer:
    """A program to compare with: its environment, its script beside this file, its variants."""

    environment: str
    script: str
    variants: tuple[str, ...]


PEERS = {
    "ludwig": Peer("ludwig", "ludwig_fusion.py", ("plain", "class-weights")),
    "autogluon-tabular": Peer("autogluon", "autogluon_tabular.py", ("plain", "balanced")),
    "autogluon-mm": Peer("autogluon", "autogluon_mm.py", ("plain", "focal")),
    OURS: Peer("", "", ("cold", "cached")),
}
# What names a run among the records.
KEY = ("data", "content", "peer", "variant", "seed", "threads")


def main() -> int:
    args = parser().parse_args()
    folder = args.folder.resolve()
    failed = False
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for pair in args.data:
            name, _, shards = pair.partition("=")
            content = read_manifest(shards).content
            for peer in args.peer:
                for variant in args.variant or PEERS[peer].variants:
                    if variant not in PEERS[peer].variants:
                        continue
                    key = dict(zip(KEY, (name, content, peer, variant, seed, args.threads)))
                    if any(all(r.get(k, 1) == key[k] for k in KEY) for r in read_records(args.out)):
                        continue
                    try:
                        record = one_run(key, shards, folder, args.threads)
                    except JobFailed as error:
                        print(error, file=sys.stderr)
                        failed = True
                        continue
                    write_records(args.out, [*read_records(args.out), record])
                    print(json.dumps({**key, **record["costs"], **record["scores"]["as_is"]}))
    return int(failed)


def parser() -> argparse.ArgumentParser:
    parser = command.parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="that of environments.py")
    parser.add_argument(
        "--data", required=True, action="append", metavar="NAME=SHARDS", help="may be repeated"
    )
    parser.add_argument("--peer", nargs="+", choices=list(PEERS), default=list(PEERS))
    variants = sorted({variant for peer in PEERS.values() for variant in peer.variants})
    parser.add_argument("--variant", nargs="+", choices=variants, help="only these")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of every process")
    parser.add_argument("--out", type=Path, required=True, metavar="F.json")
    return parser


def read_records(path: Path) -> list[dict[str, Any]]:
    """Returns the runs of a file of results; none if it is not there."""
    records: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return records


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    """Writes the file of results, in place of the earlier one at once."""
    lines = ",\n".join(json.dumps(record, sort_keys=True) for record in records)
    partial = path.with_suffix(".partial")
    partial.write_text(f"[\n{lines}\n]\n")
    partial.replace(path)


def one_run(key: dict[str, Any], shards: str, folder: Path, threads: int) -> dict[str, Any]:
    """Trains and scores once and returns the record."""
    place = folder / "runs" / "-".join(str(key[k]) for k in ("data", "peer", "variant", "seed"))
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "RAY_USAGE_STATS_ENABLED": "0"}
    if key["peer"] == OURS:
        costs = train_ours(key, shards, folder, place, environment, threads)
        scores, settings = score_ours(place / "run"), {}
    else:
        tables = exported(shards, folder / "tables" / f"{key['data']}-{key['content']}")
        peer = PEERS[key["peer"]]
        # Otherwise packages of the environment that this file runs in could be imported.
        environment.pop("PYTHONPATH", None)
        # The answer to a missing network would otherwise be minutes of repeated tries.
        environment.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
        words = [str(folder / peer.environment / "bin" / "python"), str(HERE / peer.script)]
        words += ["--tables", str(tables), "--out", str(place)]
        words += ["--variant", key["variant"], "--seed", str(key["seed"])]
        costs = run_job(words, environment, place / "log")
        scores = score_peer(tables, place)
        settings = json.loads((place / "settings.json").read_text())
    shutil.rmtree(place / "model", ignore_errors=True)
    return {**key, "threads": threads, "costs": costs, "scores": scores, "settings": settings}


def exported(shards: str, tables: Path) -> Path:
    """Returns the folder of the tables of these shards, which are written if they are not there."""
    if not (tables / "description.json").exists():
        shutil.rmtree(tables, ignore_errors=True)
        tables.mkdir(parents=True)
        write_tables(shards, tables)
    return tables


def train_ours(
    key: dict[str, Any],
    shards: str,
    folder: Path,
    place: Path,
    environment: dict[str, str],
    threads: int,
) -> dict[str, float]:
    """Trains this project once. What it caches goes into a folder of its own for each data set."""
    cache = folder / "cache" / f"{key['data']}-{key['content']}"
    if key["variant"] == "cold":
        shutil.rmtree(cache, ignore_errors=True)
    is_cached = cache.exists()
    cache.mkdir(parents=True, exist_ok=True)
    environment = {**environment, "PYTHONPATH": str(ROOT), "TMPDIR": str(cache)}

    def words(seed: int, out: str) -> list[str]:
        options = ["--data", shards, "--out", str(place / out)]
        settings = ["--set", f"optim.seed={seed}", "--set", f"scaling.threads={threads}"]
        return [sys.executable, str(ROOT / "distributed/train.py"), *options, *settings]

    if key["variant"] == "cached" and not is_cached:
        run_job(words(key["seed"], "earlier"), environment, place / "earlier-log")
    return run_job(words(key["seed"], "run"), environment, place / "log")


if __name__ == "__main__":
    sys.exit(main())
