"""The search command: its files, how it continues after a kill, its messages on mistakes."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from distributed import EvaluateOptions, config, evaluate, load, tune
from distributed.runtime.command import one_line
from distributed.searches import driver
from distributed.searches.choosing.baselines import starting_points
from distributed.searches.choosing.spaces import SPACES
from distributed.searches.options import SearchOptions
from distributed.searches.recorded import RecordedOptions, merge_options
from distributed.searches.setup import (
    Setup,
    check_search,
    prepare,
    setup_for,
)
from distributed.searches.state.mirror import Mirror
from distributed.searches.state.records import SEARCH_METRICS, SearchLog
from distributed.searches.state.standings import Standings
from distributed.shards.manifest import read_manifest, write_manifest
from model.schema import Image, Numeric, Schema, Table
from tests.conftest import ROOT, flip_bit, run_command

TINY = [
    "--set",
    "image.width=4",
    "dim=8",
    "table.width=8",
    "table.embedding_size=4",
    "optim.epochs=3",
    "data.max_rows=200",
]


BOTH = Schema(
    images=(Image(name="a photo", height=8, width=8),),
    tables=(Table(name="table", numeric=(Numeric(name="age"),)),),
    classes=("a", "b"),
)


def search(out: Path, *arguments: str, timeout: float = 500) -> subprocess.CompletedProcess[str]:
    return run_command("distributed/tune.py", "--out", str(out), *arguments, timeout=timeout)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def mistake(*arguments: str) -> str:
    """What the command says to a mistake, in one line."""
    with pytest.raises(ValueError) as error:
        tune.main(list(arguments))
    return one_line(error.value)


@pytest.fixture(scope="module")
def finished(
    wafer_shards: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("search") / "e"
    done = search(
        out,
        "--data",
        wafer_shards,
        "--space",
        "fusion",
        "--trials",
        "9",
        "--portfolio",
        "none",
        "--corrupt",
        "map=noise:0.5",
        "--replicates",
        "2",
        "--best",
        "1",
        *TINY,
    )
    assert done.returncode == 0, done.stderr
    return out, done


def test_trials_csv_has_every_configuration(finished: Any) -> None:
    configurations = rows(finished[0])
    assert len(configurations) == 9
    first = {r["label"]: r for r in configurations[:2]}  # the two that begin at the same time
    assert first.keys() == {"starting point", "concatenation"}
    assert {"one expert", "plain softmax"} <= {
        r["label"] for r in configurations
    }  # outside this space, yet in its table
    assert all(r["state"] in ("complete", "stopped") for r in configurations)
    assert first["starting point"]["fusion.temperature"] == str(config.Config().fusion.temperature)
    assert first["concatenation"]["fusion.temperature"] == ""
    assert first["concatenation"]["fusion.kind"] == "uniform"


def test_best_toml_is_the_configuration_with_the_best_mean_over_fresh_seeds(finished: Any) -> None:
    out, _ = finished
    best = config.flatten(config.load_config(out / "best.toml"))
    again = [r for r in rows(out) if int(r["replicates"]) > 0]
    winner = max(again, key=lambda r: float(r["replicate_mean"]))
    assert best["optim.epochs"] == 3
    for name in ("fusion.kind", "fusion.auxiliary_weight", "experts.count"):
        if winner.get(name):
            assert str(best[name]) == winner[name]


def test_the_test_split_is_read_by_the_winner_and_the_model_only_and_last(finished: Any) -> None:
    standings = Standings(SearchLog(finished[0]), ["balanced_accuracy"], replicates=2, best=1)
    tests = standings.log.of_kind("test")
    winner, (model,) = standings.winner(), standings.log.of_kind("ensemble")
    assert winner is not None
    assert [r.job.of for r in tests] == [winner.record.name, winner.record.name, model.name]
    others = standings.log.of_kind("search", "named", "replicate", "ensemble")
    assert min(r.started for r in tests) > max(r.started + r.seconds for r in others) - 0.1
    assert {r.job.seed for r in standings.log.of_kind("replicate")} == {1, 2}


def test_the_report_is_whole(finished: Any) -> None:
    out, _ = finished
    page, markdown = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert re.search(r"train\.py --data \S+ --config \S+best\.toml --out runs/best", page)
    assert "http://" not in page.split("<body")[0]
    for part in (
        "## Best settings",
        "## Learning curves",
        "## Trials",
        "## Cost",
        "plain concatenation",
        "read once",
    ):
        assert part in markdown


def test_the_terminal_ends_with_what_a_newcomer_needs(finished: Any) -> None:
    _, done = finished
    for part in (
        "Best and baselines",
        "the starting point",
        "covers at most 50 %",
        "others: one run",
        "(1 run)",
        "With 2 seeds the Wilcoxon test",
        "on the test split",
        "train ",
        "report /",
        "--logdir",
    ):
        assert part in " ".join(done.stdout.split())
    lines = [line for line in done.stdout.splitlines() if "/" not in line]  # no path, no command
    assert max(map(len, lines)) <= 80
    assert "Traceback" not in done.stderr
    rows_can_show = next(line for line in done.stderr.splitlines() if "are noise" in line)
    assert rows_can_show.startswith("66 validation rows, ")
    assert done.stderr.index("are noise") < done.stderr.index("1/9"), "before the first trial ends"
    assert rows_can_show in (finished[0] / "report.md").read_text()
    assert "9/9" in done.stderr
    assert len(done.stderr.splitlines()) < 40


def test_tensorboard_has_every_searched_setting_and_every_metric(finished: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    def read(folder: Path) -> tuple[Any, Any]:
        events = EventAccumulator(str(folder))
        events.Reload()
        return events, events.PluginTagToContent(metadata.PLUGIN_NAME)

    out, _ = finished
    _, tags = read(out)
    whole = plugin_data_pb2.HParamsPluginData.FromString(tags[metadata.EXPERIMENT_TAG]).experiment
    names = {info.name for info in whole.hparam_infos}
    assert {
        "fusion.kind",
        "fusion.temperature",
        "fusion.normalise",
        "fusion.folds",
        "experts.count",
        "loss.average_prior_strength",
    } <= names
    ranks = ["report/rank", "report/balanced_accuracy"]
    tags = [info.name.tag for info in whole.metric_infos]
    assert tags == [*ranks, *(f"final/{name}" for name in SEARCH_METRICS)]
    groups: dict[str, int] = {}
    for record in SearchLog(out).of_kind("search", "named", "replicate"):
        events, tags = read(out / "trials" / record.name)
        session = plugin_data_pb2.HParamsPluginData.FromString(
            tags[metadata.SESSION_START_INFO_TAG]
        ).session_start_info
        assert set(session.hparams) == names
        groups[session.group_name] = groups.get(session.group_name, 0) + 1
        if not record.job.method:  # boosted trees have no epochs
            curve = [e.step for e in events.Scalars("val/balanced_accuracy")]
            assert curve == list(range(1, record.epoch + 1))
        assert len(events.Scalars("final/balanced_accuracy")) == 1
    # The best trial, if one was not stopped, and the starting point are in one row with their two
    # replicates.
    whole = [r for r in SearchLog(out).of_kind("search") if r.state == "complete"]
    repeated = 1 + any(not r.job.label for r in whole)
    assert sorted(groups.values()) == [1] * (9 - repeated) + [3] * repeated


def test_a_finished_search_returns_its_result(
    finished: Any, ray_local: None, capsys: pytest.CaptureFixture[str]
) -> None:
    result = driver.search(SearchOptions(out=str(finished[0]), resume=True))
    scores = [
        (bool(standing.replicates), standing.score("balanced_accuracy"))
        for standing in result.standings
    ]
    assert scores == sorted(scores, reverse=True)
    assert {repeated for repeated, _ in scores} == {True, False}
    assert result.settings == config.changes_from_defaults(config.load_config(result.best))
    assert Path(result.report).exists()
    result.show()
    assert f"train       {result.train_command}" in capsys.readouterr().out


def test_a_search_ends_with_a_model_that_predicts(finished: Any, wafer_shards: str) -> None:
    out, done = finished
    made = json.loads((out / "model" / "ensemble.json").read_text())
    (record,) = [r for r in SearchLog(out).of_kind("ensemble") if r.state == "complete"]
    assert {member["name"] for member in made["members"]} <= set(record.job.members)
    evaluated = evaluate(EvaluateOptions(checkpoint=str(out / "model"), data=wafer_shards))
    (test,) = [r for r in SearchLog(out).of_kind("test") if r.job.of == record.name]
    for name in ("balanced_accuracy", "balanced_nll"):
        assert evaluated.metrics[name] == pytest.approx(test.metrics[name], abs=1e-5)
    words = " ".join(done.stdout.split())
    assert f"{out}/model holds" in words
    assert f"--checkpoint {out}/model" in words


def test_it_ends_with_what_a_spoilt_modality_does(finished: Any, wafer_shards: str) -> None:
    out, done = finished
    content = json.loads((out / "model" / "spoilt.json").read_text())
    scores = {run["title"]: run["scores"] for run in content["runs"]}
    log = SearchLog(out)
    labels = {log.records[name].job.label for name in scores if name in log.records}
    assert {"concatenation", "map alone", "table alone"} <= labels
    of_model = scores["the model"]
    options = {"checkpoint": str(out / "model"), "data": wafer_shards}
    modalities = load(out).checkpoint.network.schema.modalities
    if "map" in modalities:
        options["corrupt"] = "map=noise:0.5"
    spoilt = evaluate(EvaluateOptions(**options))
    assert content["rows"] == spoilt.rows
    assert of_model["spoilt"]["balanced_accuracy"] == pytest.approx(
        spoilt.metrics["balanced_accuracy"], abs=0.05
    )  # evaluate draws the noise by the run's own seed
    (test,) = [r for r in log.of_kind("test") if r.job.members]
    assert of_model["untouched"]["balanced_accuracy"] == pytest.approx(
        test.metrics["balanced_accuracy"]
    )
    table_alone = next(n for n, r in log.records.items() if r.job.label == "table alone")
    assert scores[table_alone]["untouched"] == scores[table_alone]["spoilt"]
    plain = next(n for n, r in log.records.items() if r.job.label == "concatenation")
    assert content["lead"]["difference"] == pytest.approx(
        of_model["spoilt"]["balanced_accuracy"] - scores[plain]["spoilt"]["balanced_accuracy"]
    )
    assert 0 < content["lead"]["error"] < 0.2
    for example in content["examples"]:
        assert example["model"]["says"] == example["truth"]
        weights = [voice["weight"] for voice in example["modalities"]]
        assert sum(weights) == pytest.approx(1, abs=1e-4)
    words = " ".join(done.stdout.split())
    assert f"{content['rows']} test rows: as they are, and with the map of 50 % of" in words
    assert "the table alone" in words
    assert words.count(", in truth ") == len(content["examples"])
    assert "Where a modality is spoilt" in (out / "report.md").read_text()


def test_saved_states_are_cleared_away_and_checkpoints_of_the_best_are_kept(
    finished: Any,
) -> None:
    out = finished[0]
    assert not list(out.glob("trials/*/state/*"))
    standings = Standings(SearchLog(out), ["balanced_accuracy"], replicates=2, best=1, ensemble=10)
    kept = {path.parents[1].name for path in out.glob("trials/*/checkpoint/model.pt")}
    assert kept == standings.kept_checkpoints()
    (model,) = standings.log.of_kind("ensemble")
    assert set(model.job.members) <= kept


def test_a_folder_in_use_is_refused_and_a_resume_keeps_its_settings(
    finished: Any, wafer_shards: str
) -> None:
    out = str(finished[0])
    message = mistake("--out", out, "--data", wafer_shards)
    assert message.startswith("--out must be a new folder, or add --resume")
    message = mistake("--out", out, "--resume", "--space", "full")
    assert "must keep its --space; it was 'fusion', got 'full'" in message


@pytest.mark.slow
def test_a_finished_search_is_extended(finished: Any) -> None:
    out, _ = finished
    before = rows(out)
    done = search(out, "--resume", "--trials", "11")
    assert done.returncode == 0, done.stderr
    after = rows(out)
    assert len(after) == 11
    assert [r["balanced_accuracy"] for r in after[:9]] == [r["balanced_accuracy"] for r in before]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "acuracy"], r"--metric must be one of balanced_accuracy"),
        (["--metric", "accuracy,accuracy"], r"--metric takes one name or several different ones"),
        (["--metric", "recall/nonsense"], r"--metric=recall/CLASS must name a class of the data"),
        (
            ["--set", "optim.metric=recall/nonsense"],
            r"optim.metric=recall/CLASS must name a class of the data",
        ),
        (["--trials", "0"], r"--trials must be at least 1; got 0"),
        (
            ["--space", "everything"],
            r"--space must be a shipped space .*; valid: margins, experts, ",
        ),
        (
            ["--set", "loss.margn=1"],
            r"a setting must exist; got 'loss.margn'; did you mean loss.margin",
        ),
        (
            ["--set", "stage.kind=crt", "loss.margin=0.3"],
            r"stage.kind=crt needs linear classifiers; loss.margin=0.3",
        ),
        (
            ["--set", "image.encoder=vgg"],
            r"image.encoder must be one of auto, resnet, efficientnet_lite0, timm:NAME; got 'vgg'",
        ),
        (["--set", "experts.count=99"], r"experts.count must be between 1 and 8; got 99"),
        (["--metric", "accuracy,nll", "--sampler", "cmaes"], r"cmaes takes one metric"),
        (["--data", "/nowhere"], r"/nowhere"),
        (
            ["--set", "data.modalities=typo"],
            r"a modality must be one of the data set's: map, table; got typo",
        ),
        (["--set", "data.corrupt=sound=noise"], r"valid: map, table"),
        (["--resume"], r"--resume needs --out|must be"),
    ],
)
def test_a_mistake_is_one_clear_error_before_anything_starts(
    wafer_shards: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    place = [] if arguments == ["--resume"] else ["--out", str(tmp_path / "e")]
    data = [] if "--data" in arguments else ["--data", wafer_shards]
    assert re.search(message, mistake(*place, *data, *arguments))
    assert not (tmp_path / "e" / "experiment.json").exists()  # the folder is still free


@pytest.mark.parametrize(
    ("metric", "picks"),
    [("nll", "nll"), ("recall/a", "recall/a"), ("train_seconds", "balanced_accuracy")],
)
def test_the_metric_of_a_search_picks_the_epoch_of_its_runs(
    wafer_shards: str, metric: str, picks: str
) -> None:
    options = merge_options(SearchOptions(data=wafer_shards, metric=metric), None)
    assert prepare(options).settings.optim.metric == picks


def test_a_space_that_asks_for_gamma_takes_the_focal_loss(
    wafer_shards: str, tmp_path: Path
) -> None:
    options = SearchOptions(data=wafer_shards, space="margins", set=("loss.name=focal",), out="x")
    checked = check_search(setup_for(Mirror(str(tmp_path / "e")).folder, options))
    assert "loss.focal_gamma" in checked.searched


def test_every_option_but_those_of_the_folder_is_recorded() -> None:
    names = {field.name for field in dataclasses.fields(SearchOptions)}
    assert names - {"out", "resume", "workers"} == set(RecordedOptions.__annotations__)


def without(split: str, shards: str, folder: Path) -> str:
    """The same shards, but for one split."""
    manifest = read_manifest(shards)
    shutil.copytree(shards, folder, ignore=shutil.ignore_patterns(split))
    write_manifest(dataclasses.replace(manifest, rows={**manifest.rows, split: 0}), str(folder))
    return str(folder)


def test_a_search_needs_validation_rows(wafer_shards: str, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="training needs validation rows: .* the val split has none"
    ):
        tune.main(
            [
                "--out",
                str(tmp_path / "e"),
                "--data",
                without("val", wafer_shards, tmp_path / "shards"),
            ]
        )
    assert not (tmp_path / "e").exists()


@pytest.mark.slow
def test_a_search_needs_no_test_rows(wafer_shards: str, tmp_path: Path) -> None:
    shards = without("test", wafer_shards, tmp_path / "shards")
    done = search(
        tmp_path / "e",
        "--data",
        shards,
        "--space",
        "fusion",
        "--trials",
        "2",
        "--replicates",
        "0",
        *TINY,
    )
    assert done.returncode == 0, done.stderr
    assert "The data has no test rows" in done.stdout
    assert "on the test split" not in done.stdout
    assert "The test split was not read." in (tmp_path / "e/report.md").read_text()


def test_a_search_is_recorded_whole_and_once(tmp_path: Path) -> None:
    options = SearchOptions(resume=True, out="somewhere")
    setup = Setup(merge_options(SearchOptions(), None), "shards", {"dim": 8}, {}, "x")
    path = tmp_path / "experiment.json"
    setup.save(tmp_path)
    os.utime(path, (1, 1))
    again = setup_for(tmp_path, options)
    assert again == setup
    again.save(tmp_path)
    assert path.stat().st_mtime == 1
    again.options["trials"] = 30
    again.save(tmp_path)
    assert setup_for(tmp_path, options).options["trials"] == 30
    assert [p.name for p in tmp_path.iterdir()] == ["experiment.json"]
    path.write_text(path.read_text()[:100])
    with pytest.raises(
        ValueError,
        match=r"out must be new or hold a whole search; experiment.json in 'somewhere' is damaged",
    ):
        setup_for(tmp_path, options)


def test_a_space_that_asks_for_unknown_settings_is_refused(
    wafer_shards: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def space(trial):\n    trial.suggest_float('loss.margn', 0, 1)\n")
    with pytest.raises(
        ValueError, match=r"space asks for settings; .* got 'loss.margn'; did you mean loss.margin"
    ):
        tune.main(["--out", str(tmp_path / "e"), "--data", wafer_shards, "--space", str(path)])
    path.write_text("def space(trial):\n    trial.suggest_float('loss.centre', 0, 1)\n")
    with pytest.raises(ValueError, match=r"loss.centre is now loss.average_prior_strength$"):
        tune.main(["--out", str(tmp_path / "e"), "--data", wafer_shards, "--space", str(path)])


def test_baselines_that_a_space_cannot_express_run_beside_it() -> None:
    points = starting_points(SPACES["margins"], {}, {}, BOTH)
    assert list(points.inside) == ["defaults", "plain softmax"]
    assert {
        job.name: job.settings["fusion.kind"]
        for job in points.outside
        if "fusion.kind" in job.settings
    } == {"concatenation": "uniform"}
    points = starting_points(SPACES["full"], {}, {}, BOTH)
    assert len(points.inside) == 4
    alone = {job.label: (job.name, dict(job.settings)) for job in points.outside}
    assert alone.keys() == {"a photo alone", "table alone", "gradient boosting"}
    assert alone["gradient boosting"] == ("gradient-boosting", {"data.modalities": "table"})
    name, settings = alone["a photo alone"]
    assert name == "a-photo-alone"
    assert settings["data.modalities"] == "a photo"
    photos = tuple(Image(name=f"photo{k}", height=8, width=8) for k in range(5))
    many = dataclasses.replace(BOTH, images=photos, tables=())
    assert not starting_points(SPACES["full"], {}, {}, many).outside


def test_pinned_settings_leave_the_search_and_its_baselines() -> None:
    one_expert = {"experts.count": 1}
    # One modality: there is nothing to concatenate.
    points = starting_points(SPACES["full"], one_expert, one_expert, BOTH.keep(("a photo",)))
    assert points.labels == ["starting point", "plain softmax"]
    assert all("experts.count" not in values for values in points.inside.values())


@pytest.mark.parametrize(
    ("base", "pinned", "left"),
    [
        (
            {"loss.average_prior_strength": 1.0},
            True,
            ["defaults", "concatenation", "one expert"],
        ),  # balanced softmax is no plain softmax
        ({"fusion.kind": "gate"}, True, ["starting point", "one expert", "plain softmax"]),
        (
            {"fusion.kind": "gate"},
            False,
            ["starting point", "concatenation", "one expert", "plain softmax"],
        ),
        (
            {"loss.average_prior_strength": 0.0, "loss.spread_of_prior_strength": 0.0},
            True,
            ["starting point", "concatenation", "one expert"],
        ),  # it is that itself
        (
            {"optim.seed": 3, "scaling.workers": 2},
            True,
            ["defaults", "concatenation", "one expert", "plain softmax"],
        ),
    ],
)
def test_a_baseline_is_what_its_name_says_or_left_out(
    base: dict[str, Any], pinned: bool, left: list[str]
) -> None:
    start = config.apply_changes(config.Config(), base)
    changes = config.changes_from_defaults(start)
    points = starting_points(SPACES["optimisation"], changes, base if pinned else {}, BOTH)
    alone = ["a photo alone", "table alone", "gradient boosting"]
    assert sorted(points.labels) == sorted([*left, *alone])
    for job in points.outside:
        assert (job.method == "boosting") == (job.label == "gradient boosting")
        settings = config.apply_changes(start, job.settings)
        if job.label == "plain softmax":
            assert (
                settings.loss.average_prior_strength,
                settings.loss.spread_of_prior_strength,
                settings.loss.margin,
            ) == (0, 0, 0)


def test_a_folder_that_cannot_be_made_is_one_clear_error(wafer_shards: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "x", tmp_path / "file"):
        with pytest.raises(
            ValueError,
            match=r"^out must be a folder or URI that can be read and written; got '.*file",
        ):
            tune.main(["--out", str(out), "--data", wafer_shards])
    with pytest.raises(ValueError, match=r"^out must be a folder or URI"):
        tune.main(["--out", f"file://{tmp_path}/file/x", "--data", wafer_shards])


def test_settings_are_read_from_a_uri(tmp_path: Path) -> None:
    path = tmp_path / "best.toml"
    path.write_text("# the best\n[loss]\nmargin = 0.25\n")
    assert (
        config.load_config(f"file://{path}").loss.margin
        == config.load_config(path).loss.margin
        == 0.25
    )
    with pytest.raises(
        ValueError, match=r"^config must name a TOML file that exists; got 'file://.*none.toml'"
    ):
        config.load_config(f"file://{tmp_path}/none.toml")
    with pytest.raises(ValueError, match=r"^config must name a TOML file that can be read"):
        config.load_config(tmp_path)


def test_trial_slots_are_what_fits_here_or_what_was_requested(
    ray_local: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from distributed.training.workers.capacity import TrialSlots

    assert TrialSlots(config.ScalingConfig())() == 2
    assert TrialSlots(config.ScalingConfig(cpus_per_worker=0.5))() == 4
    assert TrialSlots(config.ScalingConfig(), 16)() == 16
    assert "2 fit on this machine at a time" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"has 2 CPU and 0 GPU; it takes 1 CPU and 1 GPU: lower"):
        TrialSlots(config.ScalingConfig(gpus_per_worker=1))


# More starts of Ray, for `make test-all`.


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_search_waits_for_the_first_node(wafer_shards: str, tmp_path: Path) -> None:
    from tests.cluster.cluster_tools import started, wait_for

    with started(0, "--network", "loopback") as cluster:
        arguments = [
            "--data",
            wafer_shards,
            "--space",
            "fusion",
            "--trials",
            "3",
            "--replicates",
            "0",
            "--concurrent",
            "3",
            *TINY,
        ]
        job = cluster.begin(
            "early", "python", "distributed/tune.py", "--out", str(tmp_path / "e"), *arguments
        )
        wait_for(lambda: "waiting for a node" in cluster.log(job), 60, lambda: cluster.log(job))
        wait_for(
            lambda: sum(g["state"] == "PENDING" for g in cluster.rows("placement_groups")) == 3, 60
        )  # what an autoscaler looks at
        cluster("add")
        assert cluster.finish(job).startswith("SUCCEEDED")
    assert [r["state"] for r in rows(tmp_path / "e")] == ["complete"] * 3


def start(out: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "distributed/tune.py"), "--out", str(out), *arguments]
    return subprocess.Popen(
        command,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(out: Path, finished: int, process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """The records, once there are so many."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        lines = (
            (out / "records.jsonl").read_text().splitlines()
            if (out / "records.jsonl").exists()
            else []
        )
        if len(lines) >= finished:
            return [json.loads(line) for line in lines]
        time.sleep(0.1)
    raise AssertionError(
        f"there are fewer than {finished} records; the output of the search:"
        f" {process.stdout.read() if process.stdout else ''}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_search_continues(
    wafer_shards: str, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "e"
    arguments = [
        "--data",
        wafer_shards,
        "--space",
        "experts",
        "--trials",
        "8",
        "--replicates",
        "1",
        "--best",
        "1",
        "--stopper",
        "none",
        *TINY,
    ]
    process = start(out, *arguments)
    before = wait_for(out, 3, process)
    signalled = time.monotonic()
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert time.monotonic() - signalled < 20
        assert "--resume" in output
        assert (out / "report.md").exists()
    done = search(out, "--resume")
    assert done.returncode == 0, done.stderr
    configurations = {r["trial"]: r for r in rows(out)}
    assert len(configurations) == 8
    assert all(r["state"] == "complete" for r in configurations.values())
    for record in before:
        assert (
            float(configurations[record["job"]["name"]]["balanced_accuracy"])
            == record["metrics"]["balanced_accuracy"]
        )


@pytest.mark.slow
def test_a_search_that_filled_its_disk_resumes_to_all_its_trials(
    wafer_shards: str, small_disk: Path
) -> None:
    out = small_disk / "e"
    arguments = ["--data", wafer_shards, "--space", "experts", "--trials", "6"]
    arguments += ["--replicates", "1", "--best", "1", *TINY]
    stopped = search(out, *arguments)
    assert stopped.returncode == 1
    assert re.fullmatch(
        rf"error: no space left: {out}/.*; make room, then go on with: .* --resume",
        stopped.stderr.strip().splitlines()[-1],
    )
    assert all(r.state != "failed" for r in SearchLog(out).records.values())
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    done = search(out, "--resume")
    assert done.returncode == 0, done.stderr
    assert len(rows(out)) == 6
    assert {r.state for r in SearchLog(out).records.values()} <= {"complete", "stopped"}


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["memory", "stream"])
def test_damaged_shards_stop_a_search_as_they_stop_a_training(
    wafer_shards: str, tmp_path: Path, cache: str
) -> None:
    data, out = tmp_path / "data", tmp_path / "e"
    shutil.copytree(wafer_shards, data)
    damaged = data / "val" / "part-00000.parquet"
    flip_bit(damaged)
    settings = [*TINY, f"data.cache={cache}"]
    trained = run_command(
        "distributed/train.py", "--data", str(data), *settings, "--out", str(tmp_path / "r")
    )
    arguments = ["--space", "experts", "--trials", "6", "--replicates", "0", "--folds", "1"]
    stopped = search(out, "--data", str(data), *arguments, *settings)
    line = stopped.stderr.strip().splitlines()[-1]
    assert line == trained.stderr.strip().splitlines()[-1]
    assert line.startswith(f"error: '{damaged}' is damaged: ")
    assert (stopped.returncode, trained.returncode) == (2, 2)
    assert "Traceback" not in stopped.stderr
    assert SearchLog(out).records == {}, "no trial has ended"
    flip_bit(damaged)
    done = search(out, "--resume")
    assert done.returncode == 0, done.stderr
    assert len(rows(out)) == 6
    assert {r.state for r in SearchLog(out).records.values()} <= {"complete", "stopped"}


@pytest.mark.slow
def test_overlapping_resumes_run_no_trial_twice(wafer_shards: str, tmp_path: Path) -> None:
    out = tmp_path / "e"
    arguments = ["--data", wafer_shards, "--space", "experts", "--trials", "8", "--stopper", "none"]
    killed = start(out, *arguments, "--replicates", "0", *TINY)
    wait_for(out, 3, killed)
    killed.kill()
    killed.communicate()
    processes = [start(out, "--resume") for _ in range(20)]
    outputs = {process.pid: process.communicate(timeout=500)[0] for process in processes}
    assert sorted(process.returncode for process in processes) == [0] + [2] * 19, outputs
    # The one that is named may still have asked for the folder then, before the holder had it.
    others = "|".join(map(str, outputs))
    for process in processes:
        if process.returncode:
            assert re.search(f"held by tune.py, process ({others}) on", outputs[process.pid])
    records = [json.loads(line)["job"]["name"] for line in (out / "records.jsonl").open()]
    assert len(records) == len(set(records))
    assert len({row["trial"] for row in rows(out)}) == len(rows(out)) == 8


@pytest.mark.slow
def test_several_metrics_an_own_space_and_a_database(wafer_shards: str, tmp_path: Path) -> None:
    space = tmp_path / "mine.py"
    space.write_text(
        "def mine(trial):\n"
        "    trial.suggest_int('experts.count', 1, 4)\n"
        "    return {'loss.margin': 0.1}\n"
    )
    arguments = [
        "--space",
        str(space),
        "--metric",
        "balanced_accuracy,train_seconds",
        "--storage",
        f"sqlite:///{tmp_path}/s.db",
        "--sampler",
        "nsga2",
    ]
    done = search(
        tmp_path / "e",
        "--data",
        wafer_shards,
        "--trials",
        "5",
        "--replicates",
        "0",
        *arguments,
        *TINY,
    )
    assert done.returncode == 0, done.stderr
    assert "## Trade-off" in (tmp_path / "e" / "report.md").read_text()
    assert config.load_config(tmp_path / "e" / "best.toml").loss.margin == 0.1
    assert (tmp_path / "s.db").exists()
    assert all(float(r["train_seconds"]) > 0 for r in rows(tmp_path / "e"))


@pytest.mark.slow
def test_a_trial_of_two_workers(wafer_shards: str, tmp_path: Path) -> None:
    arguments = [
        "--space",
        "experts",
        "--workers",
        "2",
        "--trials",
        "3",
        "--replicates",
        "0",
        "--stopper",
        "none",
    ]
    done = search(tmp_path / "e", "--data", wafer_shards, *arguments, *TINY)
    assert done.returncode == 0, done.stderr
    configurations = rows(tmp_path / "e")
    assert [r["state"] for r in configurations] == ["complete"] * 3
    assert [r["epochs"] for r in configurations] == ["3"] * 3
    assert "on the test split" in done.stdout


@pytest.mark.slow
def test_failing_trials_are_shown_with_their_reason(wafer_shards: str, tmp_path: Path) -> None:
    space = tmp_path / "mine.py"
    space.write_text(
        "def mine(trial):\n"
        "    trial.suggest_categorical('optim.lr', [0.002, 1e30])\n"
        "    return {'optim.clip': 0.0, 'optim.warmup': 0.0}\n"
    )
    done = search(
        tmp_path / "e",
        "--data",
        wafer_shards,
        "--space",
        str(space),
        "--portfolio",
        "none",
        "--trials",
        "13",
        "--replicates",
        "0",
        "--sampler",
        "random",
        *TINY,
    )
    assert done.returncode == 0, done.stderr
    failed = [r for r in rows(tmp_path / "e") if r["state"] == "failed"]
    assert failed
    assert all("not finite" in r["reason"] for r in failed)
    assert "Failed runs" in done.stdout
    assert "not finite" in (tmp_path / "e" / "report.md").read_text()
