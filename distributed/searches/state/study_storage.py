"""Where Optuna keeps the study of a search: a database or a journal file, and its password.

A password is used and never stored: experiment.json has three stars in its place. A resumed search
takes it from the option, given again, or from the environment.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import optuna
from optuna.storages import BaseStorage

from distributed.runtime.errors import OptionError
from distributed.runtime.redaction import BLANK, remember
from distributed.searches.state.journal import open_journal

PASSWORD_VARIABLE = "LONGTAIL_STORAGE_PASSWORD"


def with_password(recorded: str, given: str | None) -> str:
    """Returns the location of the study with its password, where it needs one.

    recorded: as in experiment.json. given: the option of this process. Three stars in either stand
    for the value of PASSWORD_VARIABLE.
    """
    location = given or recorded
    if "://" in location and BLANK in location:
        password = os.environ.get(PASSWORD_VARIABLE)
        if not password:
            raise OptionError(
                "storage needs its password, which is never stored: give storage again, or set"
                f" {PASSWORD_VARIABLE}; got {location!r}",
                "storage",
            )
        location = location.replace(BLANK, quote(password, safe=""))
    remember(location)
    return location


def open_storage(url: str) -> BaseStorage:
    """Opens a database by URL (sqlite:///F.db, postgresql://...), or a journal file by path."""
    if "://" in url and not url.startswith("journal://"):
        try:
            return optuna.storages.RDBStorage(url)
        except Exception as error:
            raise OptionError(
                "storage must be a database URL that opens, or the path of a journal file;"
                f" got {url!r}: {error}",
                "storage",
            ) from None
    path = Path(url.removeprefix("journal://").removeprefix("journal:"))
    if path.is_dir():
        raise OptionError(
            f"storage must be a file or a database URL; got the folder {url!r}", "storage"
        )
    return open_journal(path)
