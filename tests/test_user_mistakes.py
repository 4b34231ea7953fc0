"""What a careless newcomer gets wrong: one line with what would be right, and exit code 2.

All commands and the functions of the Python interface, in one process; what needs Ray or hours is
refused before it starts.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import distributed
from distributed.reference import COMMANDS
from distributed.runtime.errors import flag
from tests.mistakes import answer_of
from tests.training import small_run

# Files and folders of the wrong kind, beside `shards`, `run`, `records.csv` and `photos`.
FILES = {
    "empty.csv": "",
    "names.csv": "id,label\n",
    "junk.parquet": "no parquet",
    "text": "no folder",
    "tables/a.csv": "a,label\n1,x\n",
    "broken/schema.json": "{}",
    "bad.toml": "optim = = 1",
    "list.toml": "optim = [1, 2]",
    "old.toml": "[optim]\nlearning_rate = 0.1\n",
    "word.toml": "[optim]\nepochs = 'many'\n",
    "key.toml": "titel = 'x'\n[[variants]]\nname = 'a'\n",
    "none.toml": "title = 'x'\n",
    "list.json": "[1]",
    "minus.json": '{"scarce": -1}',
    "class.json": '{"scarse": 1}',
    "syntax.py": "def space(trial:\n",
    "nothing.py": "x = 1\n",
    "raises.py": "def space(trial):\n    return 1 / 0\n",
    "list.py": "def space(trial):\n    return [1]\n",
    "arguments.py": "def space():\n    pass\n",
    "range.py": "def space(trial):\n    trial.suggest_float('optim.lr', 1, 0.1)\n",
    "setting.py": "def space(trial):\n    trial.suggest_float('optim.learning_rate', 0.1, 1)\n",
}


@pytest.fixture(scope="module")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes") / "my place"
    small_run.write_shards(folder / "shards")
    small_run.train(folder / "run", folder / "shards", **{"optim.epochs": 1})
    (folder / "run" / "config.json").write_text("{}")
    (folder / "photos").mkdir()
    frame = small_run.raw((20, 8, 4), 5)
    for name, photo in zip(frame["id"], frame["photo"]):
        (folder / "photos" / f"{name}.png").write_bytes(photo or b"")
    frame["photo"] = frame["id"] + ".png"
    frame.to_csv(folder / "records.csv", index=False)
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def place(_place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data, a run and files of wrong kinds, as the current one."""
    monkeypatch.chdir(_place)
    return _place


TRAIN = "train.py --data shards --out new"
TUNE = "tune.py --data shards --out new"
ABLATE = "ablate.py --study fusion --data shards --out new"
EVALUATE = "evaluate.py --checkpoint run --data shards"
PREDICT = "predict.py --checkpoint run --data records.csv --image photo=photos --out new"
INGEST = "ingest.py --table records.csv --label label --image photo=photos --out new"

MISTAKES = [
    # The wrong thing in the place of shards.
    ("train.py --data records.csv", r"--data must be a SHARDS folder; got the table 'records.csv'"),
    ("tune.py --data tables", r"got the table 'tables': ingest it first: .* --label label"),
    ("ablate.py --study fusion --data records.csv", r"got the table 'records.csv'"),
    ("evaluate.py --checkpoint run --data records.csv", r"got the table 'records.csv'"),
    ("train.py --data nowhere", r"a SHARDS folder must exist; got '.*nowhere'"),
    ("train.py --data run", r"a SHARDS folder must hold schema\.json .*; got '.*run'"),
    ("train.py --data text", r"a SHARDS folder must hold schema\.json"),
    ("train.py --data broken", r"broken/schema\.json is not the schema of a SHARDS folder"),
    ("train.py --data s4://bucket/x", r"file://, s3://, gs:// or hdfs:// URI; got 's4://bucket/x'"),
    ("train.py --data ''", r"^--data must not be empty; got ''$"),
    # Names of options.
    ("train.py --dta shards", r"^--dta is no option of train\.py; did you mean --data\?; see"),
    (
        "train.py shards",
        r"needs its option before it; got shards; did you mean --data shards\?; se",
    ),
    (
        "ingest.py records.csv",
        r"; got records\.csv; did you mean --table records\.csv\?; see inges",
    ),
    (
        "ingest.py --table records.csv label --out new",
        r"; got label; did you mean --label label\?;",
    ),
    ("predict.py run records.csv", r"; got run records\.csv; did you mean --checkpoint run\?; see"),
    (
        "predict.py --checkpoint run records.csv",
        r"; did you mean --data records\.csv\?; see predict",
    ),
    (
        "ablate.py fusion --data shards",
        r"; got fusion; did you mean --study fusion\?; see ablate\.",
    ),
    (
        f"{TRAIN} optim.lr=1",
        r"; got optim\.lr=1; did you mean --set optim\.lr=1\?; see train\.py --",
    ),
    (
        f"{TRAIN} --data run",
        r"^--data takes one value; got 'shards' and 'run'; see train\.py --help$",
    ),
    (
        f"{PREDICT} --data shards",
        r"^--data takes one value; got 'records\.csv' and 'shards'; see pr",
    ),
    (
        f"{TUNE} --trials 2 --trials=3",
        r"^--trials takes one value; got 2 and 3; see tune\.py --hel",
    ),
    (f"{TRAIN} --set dim=8 --set dim=16", r"^--set takes one value for dim; got '8' and '16'$"),
    ("train.py --data", r"^--data needs a value; see train\.py --help$"),
    ("train.py --resume=yes", r"^--resume takes no value; got 'yes'"),
    (f"{TRAIN} --epochs 3", r"did you mean --set optim\.epochs=3 or --set stage\.epochs=3\?"),
    (f"{TRAIN} --learning-rate=0.1", r"did you mean --set optim\.lr=0\.1\?"),
    (f"{TUNE} --n-trials 3", r"^--n-trials is no option of tune\.py; did you mean --trials\?"),
    ("ingest.py --table t --lable x --out new", r"^--lable is no .*; did you mean --label\?; see"),
    ("ingest.py --table t --target x --out new", r"^--target is no .*; did you mean --label\?; "),
    ("ingest.py --table records.csv --out new", r"^--label must be given; see ingest\.py --help$"),
    ("predict.py --model run --data x --out new", r"did you mean --checkpoint\?"),
    (f"{EVALUATE} --set dim=3", r"^--set is no option of evaluate\.py; see evaluate\.py --help$"),
    # Values of options.
    (f"{TRAIN} --workers two", r"^--workers must be a whole number; got 'two'"),
    (f"{TRAIN} --workers 0", r"^--workers must be at least 1; got 0$"),
    (f"{TRAIN} --gpus-per-worker nan", r"^--gpus-per-worker must be at least 0; got nan$"),
    (f"{TRAIN} --gpus-per-worker inf", r"^--gpus-per-worker must be a finite number, at least 0"),
    (f"{TUNE} --trials -5", r"^--trials must be at least 1; got -5$"),
    (f"{TUNE} --time-budget 5m", r"^--time-budget must be a number; got '5m'"),
    (f"{TUNE} --seed 99999999999", r"^--seed must be between 0 and 4294967295; got 99999999999$"),
    (
        f"{TUNE} --sampler tpee",
        r"^--sampler must be one of prior, tpe, random, cmaes, gp, nsga2; got",
    ),
    (f"{TUNE} --metric accuray", r"^--metric must be one of balanced_accuracy, .*; got 'accuray'$"),
    (f"{TUNE} --metric recall/none", r"must name a class of the data: common, middling, scarce; "),
    (f"{ABLATE} --seeds 0", r"^--seeds must be at least 1; got 0$"),
    (f"{ABLATE} --variants ''", r"^--variants must not be empty; got ''$"),
    (f"{ABLATE} --variants ,", r"a list of names must hold a name; got ','$"),
    (f"{ABLATE} --variants gaet", r"; got 'gaet'; did you mean 'gate'\? valid: 'concatenatio"),
    (f"{EVALUATE} --split tests", r"^--split must be one of train, val, test; got 'tests'$"),
    (f"{EVALUATE} --gpus -2", r"^--gpus must be between 0 and 1; got -2$"),
    (
        f"{EVALUATE} --shift forward",
        r"uniform, forward-K or backward-K with K of .*; got 'forward'",
    ),
    (f"{EVALUATE} --modalities pohto", r"a modality must be one of the data set's: photo, table; "),
    (f"{EVALUATE} --modalities ,", r"a list of names must hold a name; got ','$"),
    (f"{EVALUATE} --corrupt photo=noise:2", r"a fraction above 0 and at most 1; got 'photo=nois"),
    (f"{PREDICT} --abstain 2", r"^--abstain must be between 0 and 1; got 2$"),
    (
        f"{PREDICT} --encoding base64",
        r"^--encoding must be one that Python knows, .*; got 'base64'",
    ),
    (f"{PREDICT} --split test", r"^--split is for SHARDS folders; records.csv is not one"),
    (f"{INGEST} --split 0.7,0.3", r"^--split must be three shares TRAIN,VAL,TEST that sum to 1"),
    (f"{INGEST} --image-size big", r"^--image-size must be auto, N or HxW with sides from 8 to 40"),
    (f"{INGEST} --fit squash", r"^--fit must be one of pad, crop, stretch; got 'squash'$"),
    (f"{INGEST} --encoding klingon", r"^--encoding must be one that Python knows, .*; got 'klingo"),
    ("wafers --rows 3 --shards new", r"^--rows must be at least 27; got 3$"),
    ("wafers --missing 2 --shards new", r"^--missing must be between 0 and 0\.9; got 2$"),
    ("wafers --out new.txt", r"^--out must name a \.parquet file; got 'new\.txt'$"),
    # Settings.
    (
        f"{TRAIN} --set optim.learning_rate=1",
        r"a setting must exist; .*; did you mean optim\.lr\?$",
    ),
    (f"{TRAIN} --set optim.lr=1e999", r"^optim\.lr must be a finite number, at least 0; got inf$"),
    (f"{TRAIN} --set fusion.momentum=2", r"^fusion\.momentum must be between 0 and 1; got 2$"),
    (f"{TRAIN} --set optim.lr=0,1", r"^optim\.lr must be a number; got '0,1'$"),
    (f"{TRAIN} --set =3", r"^a setting must exist; got ''; valid: those of data, image,"),
    (
        f"{TRAIN} --set data.modalities=pohto",
        r"must be one of the data set's: photo, table; got po",
    ),
    (f"{TRAIN} --set data.modalities=,", r"a list of names must hold a name; got ','$"),
    (f"{TUNE} --set learning_rate=1", r"; got 'learning_rate'; did you mean optim\.lr\?$"),
    (f"{ABLATE} --set optim.epoch=3", r"; got 'optim\.epoch'; did you mean optim\.epochs or "),
    # Files.
    (f"{TRAIN} --config bad.toml", r"^--config must be valid TOML; bad\.toml: "),
    (f"{TRAIN} --config list.toml", r"^a setting must exist; got 'optim'; valid: optim\.name, "),
    (f"{TRAIN} --config old.toml", r"; got 'optim\.learning_rate'; did you mean optim\.lr\?$"),
    (f"{TRAIN} --config word.toml", r"^optim\.epochs must be a whole number; got 'many'$"),
    (f"{TRAIN} --config shards", r"^--config must name a TOML file that can be read; got 'shards'"),
    (f"{TUNE} --storage photos", r"^--storage must be a file or a database URL; got the folder '"),
    (f"{TUNE} --storage nosuch://x", r"^--storage must be a database URL that opens, or the pat"),
    (f"{TUNE} --space fulll", r"; got 'fulll'; did you mean 'full'\? valid: margins, experts, "),
    (f"{TUNE} --space syntax.py", r"^--space must be a Python file that loads; syntax\.py: Synt"),
    (f"{TUNE} --space nothing.py", r"a space file must hold a function space\(trial\)"),
    (f"{TUNE} --space raises.py", r"^--space must answer every trial with settings; got ZeroDivi"),
    (f"{TUNE} --space list.py", r"a space returns a dict of settings, or nothing; got \[1\]$"),
    (f"{TUNE} --space arguments.py", r"^--space must answer every trial with settings; got TypeE"),
    (f"{TUNE} --space range.py", r"^--space must answer every trial with settings; got ValueErro"),
    (f"{TUNE} --space setting.py", r"got 'optim\.learning_rate'; did you mean optim\.lr\?$"),
    ("ablate.py --study fusoin --data shards", r"'fusoin'; did you mean 'fusion'\? valid: experts"),
    ("ablate.py --study key.toml --data shards", r"unknown key: titel; did you mean 'title'\? val"),
    (
        "ablate.py --study none.toml --data shards",
        r"needs at least one \[\[variants\]\] entry; got",
    ),
    (f"{EVALUATE} --prior list.json", r"^--prior must be a JSON object .*; list\.json holds list$"),
    (f"{EVALUATE} --prior minus.json", r"a finite weight of at least 0; scarce has -1\.0$"),
    (f"{EVALUATE} --prior class.json", r"^--prior must name classes of the checkpoint; got scarse"),
    (f"{EVALUATE} --json shards", r"^--json must name a file that can be written; got 'shards': I"),
    # Checkpoints, tables, columns and image folders.
    ("evaluate.py --checkpoint shards --data run", r"^--checkpoint must name a run or its checkpo"),
    ("evaluate.py --checkpoint text --data shards", r"^--checkpoint must name a run or its checkp"),
    (
        "predict.py --checkpoint run --data empty.csv --out new",
        r"^--data must hold rows; 'empty.cs",
    ),
    ("predict.py --checkpoint run --data photos --out new", r"^--data must be CSV or Parquet"),
    (f"{PREDICT} --image pohto=photos", r"^--image must name an image column of the checkpoint"),
    (f"{PREDICT} --image photo=nowhere", r"^--image must name a column once; got 'photo' again$"),
    (
        "predict.py --checkpoint run --data records.csv --image photo=nowhere --out new",
        r"^--image must name a folder that exists; got 'nowhere'$",
    ),
    ("ingest.py --table names.csv --label label --out new", r"'.*names\.csv' has only a line of n"),
    ("ingest.py --table junk.parquet --label x --out new", r"junk\.parquet' is not a readable Par"),
    ("ingest.py --table photos --label x --out new", r"^--table must be CSV or Parquet"),
    ("ingest.py --table records.csv --label Label --out new", r"'Label'; did you mean 'label'\? v"),
    (
        f"{INGEST} --group stie",
        r"^--group must name a column .*; got 'stie'; did you mean 'site'",
    ),
    (f"{INGEST} --split-column site", r"^--split-column must hold train, val or test; 'site' hold"),
    (f"{INGEST} --image age", r"no image of a sample of column 'age' could be read"),
    # Outputs.
    (
        "train.py --data shards --out run",
        r"^--out must be a new folder, or add --resume to continu",
    ),
    (
        "train.py --data shards --out photos",
        r"^--out must be a new or an empty folder, or one of a training run; .* holds r0000\.png$",
    ),
    ("train.py --data shards --out text", r"^--out must be a folder or URI that can be read and w"),
    ("train.py --data shards --out /proc/new", r"^--out must be a folder or URI that can be read "),
    ("train.py --data shards --out ''", r"^--out must not be empty; got ''$"),
    ("train.py --resume", r"^--resume needs --out, the run to continue; got none$"),
    (
        "tune.py --data shards --out run",
        r"one of a search; .* holds config\.json of a training run$",
    ),
    (
        "ablate.py --study fusion --data shards --out run --plan",
        r"holds config\.json of a training",
    ),
    (f"{PREDICT.replace('--out new', '--out photos')}", r"^--out must be a new or empty folder"),
    (f"{INGEST.replace('--out new', '--out photos')}", r"^--out must be a new or an empty folder"),
]


@pytest.mark.parametrize(("line", "pattern"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_line_that_says_what_would_be_right(
    place: Path, line: str, pattern: str
) -> None:
    script, *words = shlex.split(line)
    code, said = answer_of(script, *words)
    assert code == 2
    (message,) = said.splitlines()
    message = message.removeprefix("error: ")
    assert re.search(pattern, message), message
    assert not (place / "new").exists()
    # No command suggests an option that it does not have; a printed command has its own.
    kind = COMMANDS["python -m distributed.wafers" if script == "wafers" else script]
    known = {flag(name) for name in kind.__dataclass_fields__} | {"--help", words[0].split("=")[0]}
    mentioned = re.findall(r"(?<![\w/.-])--[a-z][a-z-]*", message.partition("ingest it first")[0])
    assert {name for name in mentioned if f"{name} is no option" not in message} <= known


def frame() -> pd.DataFrame:
    return pd.read_csv("records.csv")


IN_PYTHON: list[tuple[Callable[[Any], object], str]] = [
    (lambda d: d.fit("shards"), r"options must be FitOptions\(\.\.\.\); got a str"),
    (lambda d: d.fit(d.SearchOptions()), r"must be FitOptions\(\.\.\.\); got a SearchOptions"),
    (lambda d: d.fit(d.FitOptions(data=Path("nowhere"))), r"SHARDS folder must exist; got '.*now"),
    (lambda d: d.fit(d.FitOptions(data=3)), r"data must be text; got 3"),
    (lambda d: d.fit(d.FitOptions(data="shards", workers="two")), r"workers must be a whole numb"),
    (
        lambda d: d.fit(d.FitOptions(data="shards", set={"optim": {"epochs": 0}})),
        r"optim\.epochs must be at least 1; got 0",
    ),
    (lambda d: d.fit(d.FitOptions(data="shards", set={3: 1})), r"a setting must exist; got '3'"),
    (lambda d: d.fit(d.FitOptions(data="shards", set="dim=0")), r"dim must be between 4 and 4096"),
    (lambda d: d.search(d.SearchOptions(trials="5")), r"trials must be a whole number; got '5'"),
    (lambda d: d.search(d.SearchOptions(trials=2.5)), r"trials must be a whole number; got 2\.5"),
    (lambda d: d.search(d.SearchOptions(metric=["a"])), r"metric must be text; got \['a'\]"),
    (lambda d: d.study(d.StudyOptions(study=Path("no.toml"))), r"study must be a shipped study or"),
    (
        lambda d: d.study(d.StudyOptions(study="fusion", data="records.csv")),
        r"data must be a SHARDS folder; got the table 'records\.csv'",
    ),
    (
        lambda d: d.evaluate(d.EvaluateOptions(checkpoint=Path("nowhere"), data="shards")),
        r"checkpoint must name a run or its checkpoint folder",
    ),
    (
        lambda d: d.evaluate(d.EvaluateOptions(checkpoint="run", data="shards", prior={"a": 1})),
        r"prior must be text; got \{'a': 1\}",
    ),
    (
        lambda d: d.predict(d.PredictOptions(checkpoint="run", data=frame(), out="new")),
        r"data must be text; got a DataFrame",
    ),
    (
        lambda d: d.ingest(d.IngestOptions(table="records.csv", label=None, out="new")),
        r"label must be text; got None",
    ),
    (lambda d: d.load(3), r"checkpoint must be text; got 3"),
    (lambda d: d.load(Path("shards")), r"checkpoint must name a run or its checkpoint folder"),
    (
        lambda d: d.load("run").predict("records.csv"),
        r"rows must be a pandas DataFrame, .*; got str",
    ),
    (lambda d: d.load("run").predict([1]), r"rows must be a pandas DataFrame"),
    (
        lambda d: d.load("run").predict(pd.DataFrame()),
        r"must have columns of at least one modality",
    ),
    (
        lambda d: d.load("run").predict(frame(), images="nowhere"),
        r"images must name a folder that exists; got 'nowhere'",
    ),
    (lambda d: d.load("run").predict(frame(), images=3), r"images must be a folder, or .*; got 3"),
    (
        lambda d: d.load("run").predict(frame(), images="photos", abstain="high"),
        r"abstain must be a number; got 'high'",
    ),
    (
        lambda d: d.load("run").predict(frame(), images="photos", batch_size=2.5),
        r"batch_size must be a whole number; got 2\.5",
    ),
    (lambda d: d.Shards("shards").to_pandas("tests"), r"a split must be one of train, val, test; "),
    (lambda d: d.Shards("records.csv"), r"a SHARDS folder must hold schema\.json"),
]


@pytest.mark.parametrize(("call", "pattern"), IN_PYTHON, ids=[text for _, text in IN_PYTHON])
def test_in_python_a_mistake_is_a_value_error(
    place: Path, call: Callable[[Any], object], pattern: str
) -> None:
    with pytest.raises(ValueError, match=pattern) as caught:
        call(distributed)
    assert "\n" not in str(caught.value)
