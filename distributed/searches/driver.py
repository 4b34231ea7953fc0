"""A search from end to end: set-up, Ray, trials, results.

Ray Tune and the pages are imported while Ray starts, which saves seconds.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import ModuleType

from distributed import config
from distributed.runtime import lease, ray_session, shell, storage
from distributed.runtime.errors import Failure, OptionError
from distributed.runtime.option_values import check_options
from distributed.runtime.output_folders import SEARCH, check_output
from distributed.searches.class_rows import count_rows
from distributed.searches.options import SearchOptions
from distributed.searches.pages import tables
from distributed.searches.pages.distilled import distilled_sentence
from distributed.searches.pages.forecast import plan_sentence
from distributed.searches.pages.notes import SearchNotes, search_notes
from distributed.searches.pages.searched_model import searched_model
from distributed.searches.pages.spoilt_table import spoilt_rows
from distributed.searches.pages.terminal import print_note, print_table, print_text
from distributed.searches.pages.verdict import seed_limits, verdict
from distributed.searches.resolution import resolution_note
from distributed.searches.setup import (
    CheckedSearch,
    check_search,
    setup_for,
)
from distributed.searches.state.mirror import Mirror
from distributed.searches.state.model_files import MODEL_FOLDER
from distributed.searches.state.records import SearchLog, SettingValue
from distributed.searches.state.standings import Standing, Standings
from distributed.searches.state.study_storage import with_password


@dataclass(frozen=True)
class SearchResult:
    """What a search has found.

    out: folder or URI of the experiment.
    best: file with the winner's settings. report: file with the page.
    model: folder of the model, which `load` and predict.py take.
    settings: of the winner, by dotted name, where they differ from this project's defaults.
    standings: the configurations that were compared, best first; those with fresh seeds come before
        those with a single run.
    train_command: trains with the winner's settings.
    comparison: the records behind the standings. checked: the search as it was set up.
    """

    out: str
    best: str
    report: str
    model: str
    settings: dict[str, SettingValue]
    standings: list[Standing]
    train_command: str
    comparison: Standings
    checked: CheckedSearch

    @property
    def splits(self) -> dict[str, dict[str, float | None]]:
        """The metrics of the model on the splits on which it was scored."""
        model, test = self.comparison.model(), self.comparison.model_test()
        scored = {"val": model, "test": test}
        return {split: record.metrics for split, record in scored.items() if record is not None}

    def show(self) -> None:
        """Prints the comparison, the best settings, the test scores, and what to do next."""
        standings, base = self.comparison, self.checked.setup.lasting
        notes = search_notes(self.checked)
        for table in (
            tables.comparison_table(standings, notes.few_shot_val),
            tables.winner_settings_table(standings, base, config.flatten(config.Config())),
            tables.failures_table(standings),
        ):
            if table.rows:
                print_table(table)
        for text in (verdict(standings), seed_limits(standings), notes.budget):
            if text:
                print()
                print_text(text)
        self._show_model(notes)
        print(f"train       {self.train_command}")
        print(f"report      {self.report}")
        print(f"compare     {shell.tensorboard_command(self.out)}")

    def _show_model(self, notes: SearchNotes) -> None:
        """Prints what the model is, its test scores, those on spoilt rows, and how to use it."""
        standings = self.comparison
        model = searched_model(standings, self.out)
        if model is not None:
            print()
            print_text(" ".join(model.sentences()))
        learned = distilled_sentence(standings, self.out)
        if learned:
            print()
            print_text(learned)
        test_scores = tables.test_table(standings, notes.few_shot_test)
        if test_scores.rows:
            print_table(test_scores)
        if not self.checked.has_test_rows:
            print()
            print_text("The data has no test rows: all that is known is on validation.")
        spoilt = spoilt_rows(standings, self.out)
        if spoilt is not None:
            print_table(spoilt.table())
            print()
            print_text(spoilt.conclusion())
            if spoilt.examples():
                print("\nTwo rows on which the model is right:")
            for example in spoilt.examples():
                print_text(example.sentence(), indent="  ")
        print()
        if model is not None:
            print(f"predict     {model.predict_command()}")


def search(options: SearchOptions) -> SearchResult:
    """Searches the settings of the model on a data set and writes the experiment's folder.

    Raises runtime.signals.Interrupted after Ctrl-C or SIGTERM; with `resume` the search continues.
    """
    options = check_options(SearchOptions, options)
    if options.resume and not options.out:
        raise OptionError("resume needs out, the search to go on with; got none", "resume", "out")
    out = storage.absolute_location(options.out or f"experiments/{time.strftime('%Y%m%d-%H%M%S')}")
    with lease.hold(out):
        return _search_into(out, options)


def _search_into(out: str, options: SearchOptions) -> SearchResult:
    """Runs the search in `out`, which this process holds."""
    with storage.as_option_error(out):
        check_output(out, SEARCH)
        mirror = Mirror(out)
        setup = setup_for(mirror.folder, options)
    started = time.monotonic()
    checked = check_search(setup, with_password(setup.options["storage"], options.storage))
    with storage.as_option_error(out):
        # Damaged rows stop the search here; once they are mended, it can be resumed.
        setup.save(mirror.folder)
        mirror.upload()
        checked = count_rows(checked)
        setup.save(mirror.folder)  # with the number of folds
        mirror.upload()
    print_note(plan_sentence(checked))
    print_note(resolution_note(setup.metrics[0], checked.val_rows))
    chosen = setup.options
    standings = Standings(
        SearchLog(mirror.folder),
        setup.metrics,
        replicates=setup.replicates,
        best=chosen["best"],
        ensemble=chosen["ensemble"],
        folds=setup.folds,
    )
    # Ray starts in the main thread, since it would end with the thread that started it.
    loading = threading.Thread(target=_load_session)
    loading.start()
    ray_session.start_ray(nested=True)
    loading.join()
    command = train_command(out, setup.shards if chosen["data"] else "")
    _load_session().run(checked, standings, mirror, command, started)
    return _result(checked, standings, out, command)


def train_command(out: str, data: str) -> str:
    """Returns the command that trains with the winner's settings. data: "" for the wafers."""
    words = ["--data", shell.shown_location(data)] if data else []
    words += ["--config", shell.shown_location(f"{out}/best.toml"), "--out", "runs/best"]
    return shell.script_command("distributed/train.py", *words)


def _load_session() -> ModuleType:
    from distributed.searches.jobs import session  # takes seconds, for which a thread has time

    return session


def _result(checked: CheckedSearch, standings: Standings, out: str, command: str) -> SearchResult:
    winner = standings.winner()
    if winner is None:
        failed = [r.reason for r in standings.log.configurations() if r.state == "failed"]
        reason = failed[-1] if failed else "the time budget was too small"
        raise Failure(f"no configuration has finished; the last reason: {reason}")
    settings = {**checked.setup.lasting, **winner.record.job.settings}
    best = config.apply_changes(config.Config(), settings)
    return SearchResult(
        out=out,
        best=f"{out}/best.toml",
        report=f"{out}/report.html",
        model=f"{out}/{MODEL_FOLDER}",
        settings=config.changes_from_defaults(best),
        standings=standings.ordered(),
        train_command=command,
        comparison=standings,
        checked=checked,
    )
