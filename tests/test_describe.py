"""Facts about docs/configuration.md: it is what the declarations in the code say."""

from __future__ import annotations

from distributed.config import setting_fields
from distributed.reference import COMMANDS, configuration_page
from tests.conftest import script

describe = script("describe")


def test_the_page_is_up_to_date() -> None:
    assert describe.PAGE.read_text() == configuration_page(), "run: python distributed/describe.py"


def test_every_command_has_its_options() -> None:
    assert set(COMMANDS) == {
        "ingest.py",
        "train.py",
        "tune.py",
        "ablate.py",
        "evaluate.py",
        "predict.py",
        "serve.py",
        "export.py",
        "python -m distributed.wafers",
    }


def test_every_setting_has_a_row() -> None:
    page = configuration_page()
    assert all(f"| `{name}` |" in page for name in setting_fields())
