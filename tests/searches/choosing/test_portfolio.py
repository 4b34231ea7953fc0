"""The configurations that a search tries in any case: searches/choosing/portfolio.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from distributed import config
from distributed.runtime.errors import OptionError
from distributed.searches.choosing.portfolio import learned_jobs, portfolio_jobs, read_portfolio
from distributed.searches.state.records import SearchJob, SearchLog
from model.schema import Image, Numeric, Schema, Table

TABLE = Table(name="table", numeric=(Numeric(name="age"),))
COLOUR = Schema(
    images=(Image(name="photo", height=64, width=48),), tables=(TABLE,), classes=("a", "b")
)
GREY = Schema(
    images=(Image(name="map", height=64, width=48, channels=1),),
    tables=(TABLE,),
    classes=("a", "b"),
)
DEFAULTS = config.Config()


def test_the_shipped_ones_are_at_most_eight_and_each_changes_the_defaults() -> None:
    entries = read_portfolio()
    assert 3 <= len(entries) <= 8
    jobs = portfolio_jobs("", DEFAULTS, {}, COLOUR)
    assert [job.label for job in jobs] == [entry["name"] for entry in entries]
    assert all(job.kind == "portfolio" and not job.is_baseline for job in jobs)
    before = config.flatten(DEFAULTS)
    for job in jobs:
        assert job.settings
        assert all(before[name] != value for name, value in job.settings.items())
    by_label = {job.label: job for job in jobs}
    assert by_label["image encoder from scratch"].settings["optim.epochs"] == 15


def test_what_does_not_apply_is_left_out() -> None:
    needing: dict[str, set[str]] = {"pretrained": set(), "image": set()}
    for entry in read_portfolio():
        if "needs" in entry:
            needing[entry["needs"]].add(entry["name"])
    assert all(needing.values())
    grey = {job.label for job in portfolio_jobs("", DEFAULTS, {}, GREY)}
    assert not grey & needing["pretrained"]
    assert needing["image"] <= grey
    alone = portfolio_jobs("", DEFAULTS, {}, COLOUR.keep(("table",)))
    assert not any(name.startswith("fusion.kind") for job in alone for name in job.settings)
    assert not {job.label for job in alone} & {*needing["pretrained"], *needing["image"]}
    scratch = config.apply_changes(DEFAULTS, {"image.encoder": "resnet"})
    assert "image encoder from scratch" not in {
        job.label for job in portfolio_jobs("", scratch, {}, COLOUR)
    }
    pinned = portfolio_jobs("", DEFAULTS, {"image.encoder": "auto"}, COLOUR)
    assert "image encoder from scratch" not in {job.label for job in pinned}
    assert portfolio_jobs("none", DEFAULTS, {}, COLOUR) == []
    few = config.apply_changes(DEFAULTS, {"optim.epochs": 3})
    assert all("optim.epochs" not in job.settings for job in portfolio_jobs("", few, {}, COLOUR))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[configurations]]\nname = 'x'\n", "with name and set"),
        ("[[configurations]]\nname = 'x'\nset = {'optim.lr' = 1}\nneed = 'y'\n", ": need"),
        ("[[configurations]]\nname = 'x'\nset = {'optim.lr' = 1}\nneeds = 'y'\n", "got 'y'"),
        ("[[configurations]]\nname = 'x'\nset = {'optim.learning' = 1}\n", "x: .*optim.learning"),
        ("name = ", "Invalid value"),
        ("a = 1", "'configurations'"),
    ],
)
def test_a_wrong_file_is_one_clear_error(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(OptionError, match=message):
        read_portfolio(str(path))
    with pytest.raises(OptionError, match="got 'nowhere.toml'"):
        read_portfolio("nowhere.toml")


def finished_search(folder: Path, losses: list[float]) -> Path:
    """A search whose trials differ in optim.lr, by their loss on validation."""
    log = SearchLog(folder)
    for number, loss in enumerate(losses):
        settings = {"optim.lr": 0.001 * (number + 1), "data.sampler": "sqrt"}
        log.start(SearchJob(name=f"{number}", kind="search", number=number, settings=settings))
        state = "stopped" if loss > 5 else "complete"
        log.finish(f"{number}", state, {"balanced_nll": loss})
    log.start(SearchJob(name="b", kind="named", label="one expert", settings={"experts.count": 1}))
    log.finish("b", "complete", {"balanced_nll": 0.01})
    return folder


def test_the_best_of_other_searches_are_tried(tmp_path: Path) -> None:
    first = finished_search(tmp_path / "first", [0.9, 0.4, 0.5, 9.0, 0.8])
    second = finished_search(tmp_path / "second", [0.9, 0.1, 0.95, 0.7])
    jobs = learned_jobs([str(first), str(second)], DEFAULTS, {"data.sampler": "instance"})
    assert [(job.name, job.label) for job in jobs] == [
        ("learned-1-1", "best 1 of first"),
        ("learned-1-2", "best 2 of first"),
        ("learned-1-3", "best 3 of first"),
        ("learned-2-1", "best 1 of second"),
    ]
    rates = [job.settings for job in jobs]
    # 0.002 is the default; of the second search one is known already.
    assert rates[:3] == [{"optim.lr": pytest.approx(lr)} for lr in (0.003, 0.005, 0.001)]
    assert rates[3] == {"optim.lr": pytest.approx(0.004)}
    assert all(job.kind == "portfolio" for job in jobs)


def test_a_folder_without_a_finished_search_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"learn_from must .* has no records.jsonl"):
        learned_jobs([str(tmp_path)], DEFAULTS, {})
    finished_search(tmp_path / "stopped", [9.0])
    with pytest.raises(OptionError, match="no trial that has finished"):
        learned_jobs([str(tmp_path / "stopped")], DEFAULTS, {})
