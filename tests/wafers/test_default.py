"""Without data the verbs work on the built-in wafers, and say so."""

from __future__ import annotations

from pathlib import Path

import pytest

import distributed
from distributed.shards.layout import VERSION
from distributed.wafers.options import WAFERS_VERSION
from tests.training import small_run

TINY = {"dim": 16, "image.width": 4, "table.width": 16, "optim.epochs": 1}


def test_verbs_without_data_say_that_they_use_the_wafers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Other rows in the place of the wafers, which take a while to make.
    place = tmp_path / "longtail-fusion" / f"wafers-{WAFERS_VERSION}-{VERSION}"
    small_run.write_shards(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    note = f"note: no data is named: the built-in wafers are used ({place.relative_to(tmp_path)})"
    distributed.fit(distributed.FitOptions(out="run", set=TINY))
    assert note in capsys.readouterr().err.splitlines()
    distributed.study(distributed.StudyOptions(study="fusion", plan=True))
    assert note in capsys.readouterr().err.splitlines()
    distributed.fit(distributed.FitOptions(data=str(place), out="other", set=TINY))
    assert "built-in wafers" not in capsys.readouterr().err
