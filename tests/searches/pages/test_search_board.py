"""TensorBoard's files of a search: the metric first, charts of their own, ranks as the report's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from distributed import config
from distributed.searches.pages import tables
from distributed.searches.pages.board import SearchBoard
from distributed.searches.state.records import SearchJob, SearchLog
from distributed.searches.state.standings import Standings

METRIC = "balanced_accuracy"


def finish(standings: Standings, value: float, state: str = "complete", **job: Any) -> None:
    log = standings.log
    record = SearchJob(**{"kind": "search", **job})
    log.start(record)
    for epoch in (1, 2):
        metrics = {METRIC: value / 2, "balanced_nll": 1.0, "weight/map": 0.4, "loss": 2.0}
        log.add_epoch(record.name, {"epoch": epoch, "epochs": 2, "metrics": metrics})
    log.finish(record.name, state, {METRIC: value, "balanced_nll": 0.9})


def searched(folder: Path) -> Standings:
    standings = Standings(SearchLog(folder), [METRIC], replicates=1, best=1)
    finish(standings, 0.90, name="0000", label="defaults")
    finish(standings, 0.95, name="0001")  # lucky: its fresh seed is worse than that of the defaults
    finish(
        standings, 0.70, name="0000-seed1", kind="replicate", of="0000", label="defaults", seed=1
    )
    finish(standings, 0.60, name="0001-seed1", kind="replicate", of="0001", seed=1)
    finish(standings, 0.80, name="0002", label="concatenation")
    finish(standings, 0.50, name="0003")
    finish(standings, 0.99, "stopped", name="0004")
    return standings


def board(standings: Standings, **options: Any) -> SearchBoard:
    return SearchBoard(standings, config.flatten(config.Config()), ["optim.lr"], **options)


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def ranks(folder: Path) -> dict[str, tuple[float, float]]:
    """Rank and score of every trial that has them."""
    found = {}
    for trial in sorted((folder / "trials").iterdir()):
        scalars = events(trial)
        if "report/rank" in scalars.Tags()["scalars"]:
            (rank,), (score,) = (scalars.Scalars(f"report/{n}") for n in ("rank", METRIC))
            found[trial.name] = (rank.value, round(score.value, 3))
    return found


def test_the_table_ranks_as_the_report_does(tmp_path: Path) -> None:
    standings = searched(tmp_path)
    board(standings).close()
    found = ranks(tmp_path)
    assert found == {
        "0000": (1, 0.7),
        "0001": (2, 0.6),
        "0002": (3, 0.8),  # one run only
        "0003": (4, 0.5),  # not compared in the report
    }
    compared = [row[0].text for row in tables.comparison_table(standings).rows]
    assert compared[0].startswith("this project's defaults")
    assert compared[1:2] == ["trial 0001"]
    tags = events(tmp_path).PluginTagToContent(metadata.PLUGIN_NAME)
    content = plugin_data_pb2.HParamsPluginData.FromString(tags[metadata.EXPERIMENT_TAG])
    first, second, third, *_ = content.experiment.metric_infos
    assert (first.name.tag, first.display_name) == ("report/rank", "rank in the report")
    assert second.display_name == "balanced accuracy in the report"
    assert third.name.tag == f"final/{METRIC}"


def test_an_extended_search_replaces_its_ranks(tmp_path: Path) -> None:
    standings = searched(tmp_path)
    board(standings).close()
    finish(standings, 0.98, name="0005")
    finish(standings, 0.97, name="0005-seed1", kind="replicate", of="0005", seed=1)
    board(standings).close()
    found = ranks(tmp_path)
    assert found["0005"] == (1, 0.97)
    assert found["0000"] == (2, 0.7)
    files = [path.name for path in (tmp_path / "trials" / "0000").iterdir()]
    assert sum(name.endswith(".report") for name in files) == 1


@pytest.mark.parametrize("curves", [True, False])
def test_the_deciding_metric_is_the_first_group_of_scalars(tmp_path: Path, curves: bool) -> None:
    standings = searched(tmp_path)
    board(standings, curves=curves).close()
    scalars = events(tmp_path / "trials" / "0003")
    groups = sorted({tag.partition("/")[0] for tag in scalars.Tags()["scalars"]})
    assert groups[0] == "chosen_by"
    # Workers of a job's own write these groups.
    assert min(["chosen_by", "confidence", "loss", "speed", "val", "weight"]) == "chosen_by"
    curve = scalars.Scalars(f"chosen_by/{METRIC}")
    assert [(event.step, round(event.value, 3)) for event in curve] == [(1, 0.25), (2, 0.25)]
    assert (f"val/{METRIC}" in scalars.Tags()["scalars"]) == curves


def test_a_search_has_charts_of_its_own(tmp_path: Path) -> None:
    board(searched(tmp_path)).close()
    (event,) = events(tmp_path).Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = {c.title: list(c.multiline.tag) for page in layout.category for c in page.chart}
    assert next(iter(charts)) == "balanced accuracy on validation"
    tags = events(tmp_path / "trials" / "0003").Tags()["scalars"]

    def shown(title: str) -> list[str]:
        return [tag for tag in tags if any(re.match(pattern, tag) for pattern in charts[title])]

    assert shown("balanced accuracy on validation") == [f"chosen_by/{METRIC}"]
    assert shown("class-balanced NLL") == ["val/balanced_nll"]
    assert shown("training loss") == ["loss/total"]
    assert shown("weights of the modalities") == ["val/weight/map"]
