"""Searches the settings of the model on a SHARDS folder and writes EXPERIMENT: best.toml, report, trials.csv, TensorBoard."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from distributed import config
from distributed.runtime import command as cli
from distributed.runtime import errors, ray_session, signals, storage
from distributed.runtime import options as options_
from distributed.searches.experiment import Experiment
from distributed.searches.setup import Setup, claim, starting_points
from distributed.training.requirements import check_class, check_training
from model.metrics.names import metric as metric_named

SAMPLERS = ("tpe", "random", "cmaes", "gp", "nsga2")
STOPPERS = ("asha", "median", "hyperband", "none")


def parser() -> argparse.ArgumentParser:
    made = options_.Parser(
        prog="tune.py",
        description=__doc__,
        epilog=config.describe_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add(
        "--data",
        metavar="SHARDS",
        help="folder or URI made by ingest.py (default: the built-in wafer data, with small settings)",
    )
    add(
        "--space",
        metavar="NAME",
        help="margins, experts, fusion, optimisation, full, or a Python file with one function (default: full)",
    )
    add(
        "--trials",
        type=int,
        metavar="N",
        help="configurations to try, the defaults and baselines among them (default: 20)",
    )
    add(
        "--concurrent",
        type=int,
        metavar="C",
        help="trials at a time (default: as many as fit; twice that on a cluster)",
    )
    add(
        "--workers",
        type=int,
        metavar="N",
        help="training processes a trial, the same as --set scaling.workers=N (default: 1)",
    )
    add(
        "--metric",
        metavar="M[,M2]",
        help="validation metric; several give a Pareto front, the first decides (default: balanced_accuracy)",
    )
    add(
        "--time-budget",
        type=float,
        metavar="S",
        help="seconds after which the search stops trying; replicates and test follow (default: none)",
    )
    add(
        "--storage",
        metavar="URL",
        help="Optuna storage: sqlite:///F.db or a journal file (default: study.journal in --out)",
    )
    add(
        "--study",
        metavar="NAME",
        help="name in --storage; searches of one name share what they learn (default: search)",
    )
    add("--sampler", choices=SAMPLERS, help="how the next configuration is chosen (default: tpe)")
    add(
        "--stopper",
        choices=STOPPERS,
        help="how weak trials are stopped early (default: asha; none for several metrics)",
    )
    add(
        "--replicates",
        type=int,
        metavar="R",
        help="fresh seeds on which the best are run again (default: 3)",
    )
    add(
        "--best",
        type=int,
        metavar="K",
        help="how many of the best are run again, beside the baselines (default: 3)",
    )
    add("--seed", type=int, metavar="S", help="seed of the sampler and the trials (default: 0)")
    add("--config", metavar="F.toml", help="settings to start from (default: none)")
    add(
        "--set",
        metavar="K=V",
        nargs="+",
        action="extend",
        help="settings held fixed, by dotted name (default: none)",
    )
    add(
        "--out",
        metavar="EXPERIMENT",
        help="folder or URI of the results (default: experiments/ and the time of day)",
    )
    add(
        "--resume",
        action="store_true",
        help="go on with the search in --out, or extend it with more --trials",
    )
    add(
        "--quick",
        action="store_true",
        default=None,
        help="a few tiny trials, to see that everything works",
    )
    return made


def main(argv: list[str]) -> int:
    given = vars(parser().parse_args(argv))
    if given["resume"] and not given["out"]:
        raise ValueError("--resume needs --out EXPERIMENT, the search to go on with; got none")
    from distributed.searches.mirror import Mirror

    out = storage.absolute_location(given["out"] or f"experiments/{time.strftime('%Y%m%d-%H%M%S')}")
    with storage.as_option_error(out):
        mirror = Mirror(out)
        setup = claim(mirror.folder, given)
    return Search(setup, out, mirror).run()


def load_parts() -> None:
    """Seconds of imports, in a thread while Ray starts; not the other way round: Ray ends with the thread that started it."""
    from distributed.searches import searcher  # noqa: F401


class Search:
    """One sitting of a search: from its set-up to its report."""

    def __init__(self, setup: Setup, out: str, mirror: Any) -> None:
        from distributed.searches import spaces
        from distributed.shards.manifest import read_manifest

        self.setup, self.out, self.mirror = setup, out, mirror
        self.options, self.started = setup.options, time.monotonic()
        manifest = read_manifest(setup.shards)
        data, self.test = setup.settings.data, manifest.rows["test"] > 0
        schema = manifest.schema.keep(config.split_list(data.modalities))
        if data.corrupt:
            from distributed.shards.corruption import parse_corruption  # a quarter of a second

            parse_corruption(data.corrupt, schema)
        for metric in setup.metrics:
            check_class("--metric", metric, schema.classes)
        self.space = spaces.load_space(self.options["space"])
        self.names = spaces.names(self.space, setup.pins)
        for name in set(self.names) & set(config.RENAMED):
            config.check_exists(name)  # names the new one
        if unknown := [n for n in self.names if n not in config.setting_fields()]:
            raise ValueError(
                f"--space must ask for settings that exist; got {', '.join(unknown)}; see --help for all settings"
            )
        check_training(
            setup.settings, schema, manifest.rows["val"], asked=set(self.names) - set(setup.pins)
        )
        self.inside, self.outside = starting_points(self.space, setup, len(schema.modalities))
        with storage.as_option_error(out):
            setup.save(mirror.folder)
            mirror.upload()
        self.experiment = Experiment(
            mirror.folder,
            setup.metrics,
            replicates=self.options["replicates"],
            best=self.options["best"],
            seed=setup.settings.optim.seed,
        )
        self.base = config.flatten(setup.settings)
        self.tidied: set[str] = set()
        named = f" --data {setup.shards}" if self.options["data"] else ""
        self.command = (
            f"python distributed/train.py --config {out}/best.toml{named} --out runs/best"
        )

    def run(self) -> int:
        from distributed.searches import tuner as search
        from distributed.searches.pages import live as progress
        from distributed.searches.pages import report as search_report
        from distributed.shards import sharing

        loading = threading.Thread(target=load_parts)
        loading.start()
        ray_session.start_ray(nested=True)
        self.arrays = sharing.share_splits(self.setup.shards, self.setup.base, ("train", "val"))
        loading.join()
        searcher, stopper = self.searcher()
        writer = search_report.Writer(self.write)
        view = progress.SearchView(self.experiment, self.options["trials"])
        ended = len([r for r in self.experiment.records.values() if r.state != "running"])

        def step() -> None:
            nonlocal ended
            if (
                request.received
            ):  # Tune's clean-up comes after this and may take longer than we are given
                writer.close()
                view.close()
                print(
                    f"stopping; go on with: python distributed/tune.py --out {self.out} --resume",
                    file=sys.stderr,
                    flush=True,
                )
                return
            now = sum(r.state != "running" for r in list(self.experiment.records.values()))
            if now != ended:
                ended = now
                self.tidy()
                writer.poke()
            view.update()

        try:
            with signals.stop_requests(only_note=True) as request, view:
                search.run(
                    searcher,
                    self.trainable(),
                    stopper,
                    resources=self.resources(),
                    reuse_actors=self.setup.settings.scaling.workers == 1,
                    on_step=step,
                    request=request,
                )
        except search.Interrupted as stop:
            return 128 + stop.number
        except search.EveryTrialFailed as error:
            writer.close()
            raise errors.Failure(str(error)) from None
        self.tidy(everything=True)
        writer.close()
        return self.conclude()

    def searcher(self) -> tuple[Any, Any]:
        from distributed.searches import searcher as parts
        from distributed.searches import stoppers as search_stoppers
        from distributed.training.workers.capacity import TrialSlots

        options, metrics = self.options, self.setup.metrics
        storage = parts.open_storage(
            options["storage"] or str(self.mirror.folder / "study.journal")
        )
        directions = [metric_named(m).direction for m in metrics]
        study = parts.open_study(
            storage,
            options["study"],
            directions,
            options["sampler"],
            options["seed"],
            options["trials"],
        )
        found = parts.Searcher(
            study,
            self.space,
            self.experiment,
            trials=options["trials"],
            concurrent=TrialSlots(self.setup.settings.scaling, options["concurrent"]),
            owner=self.setup.owner,
            pins=self.setup.pins,
            named=self.inside,
            outside=self.outside,
            time_budget=options["time_budget"],
            test=self.test,
        )
        stopper = options["stopper"] or ("asha" if len(metrics) == 1 else "none")
        made = search_stoppers.STOPPERS[stopper](directions[0], self.setup.settings.optim.epochs)
        return found, search_stoppers.recall(made, self.experiment.configurations(), metrics[0])

    def resources(self) -> dict[str, float]:
        """What Tune reserves for a trial; one that starts workers of its own reserves nothing, or the two would wait for each other."""
        scaling = self.setup.settings.scaling
        if scaling.workers > 1:
            return {"CPU": 0, "memory": 1}
        return {
            "CPU": scaling.cpus_per_worker,
            **({"GPU": scaling.gpus_per_worker} if scaling.gpus_per_worker else {}),
        }

    def trainable(self) -> Any:
        from distributed.searches import tuner

        return tuner.make_trainable(
            self.setup.shards,
            self.setup.base,
            self.setup.metrics,
            f"{self.out}/trials",
            self.arrays,
        )

    def tidy(self, everything: bool = False) -> None:
        """Removes saved states that nothing will go on from."""
        from distributed.runtime import storage

        kept = set() if everything else self.experiment.kept_states()
        for record in list(self.experiment.records.values()):
            if record.state == "running" or record.name in kept | self.tidied or record.job.state:
                continue
            for kind in ("state", "checkpoint"):
                storage.remove_folder(f"{self.out}/trials/{record.name}/{kind}")
            self.tidied.add(record.name)

    def write(self, last: bool) -> None:
        """Everything in the experiment's folder that is not state."""
        from distributed.searches.pages import board as search_board
        from distributed.searches.pages import report as search_report
        from distributed.searches.pages import tables as search_tables

        if not hasattr(self, "board"):
            names = {*self.names, *(name for job in self.outside for name in job.settings)}
            self.board = search_board.SearchBoard(
                self.experiment, self.base, sorted(names), self.setup.settings.scaling.workers == 1
            )
        search_tables.write_files(self.experiment, self.setup.base)
        defaults = config.flatten(config.Config())
        found = search_report.sections(
            self.experiment,
            self.setup.base,
            defaults,
            self.command,
            time.monotonic() - self.started,
        )
        search_report.write_search_report(self.mirror.folder, self.experiment, found)
        self.board.close() if last else self.board.update()
        self.mirror.upload()

    def conclude(self) -> int:
        """The end that a newcomer reads."""
        from distributed.searches.pages import tables
        from distributed.searches.pages.live import print_table

        if self.experiment.winner() is None:
            failed = [r.reason for r in self.experiment.configurations() if r.state == "failed"]
            raise errors.Failure(
                f"no configuration has finished; the last reason: {failed[-1] if failed else 'the time budget was too small'}"
            )
        found = [
            tables.standings(self.experiment),
            tables.settings(self.experiment, self.setup.base, config.flatten(config.Config())),
        ]
        for table in [
            *found,
            tables.test_scores(self.experiment),
            tables.failures(self.experiment),
        ]:
            if table.rows:
                print_table(table)
        if not self.test:
            print("\nThe data has no test rows: nothing is known of the winner but on validation.")
        if note := tables.limits(self.experiment):
            print(f"\n{note}")
        print(f"\n{tables.verdict(self.experiment)}")
        print(
            f"\ntrain       {self.command}\nreport      {self.out}/report.html\ncompare     tensorboard --logdir {self.out}"
        )
        return 0


if __name__ == "__main__":
    cli.run(main)
