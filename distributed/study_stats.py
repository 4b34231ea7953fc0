"""The statistics of a study as tables and sentences: scores by variant and seed, tests against the reference, claims put to the test."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from distributed.cells import PLACE, Plan, fill
from distributed.experiment import LOWER_IS_BETTER
from distributed.results import Row
from distributed.significance import Comparison, Summary, compare, paired, summarise
from distributed.study import Claim, Study
from distributed.tables import Cell, Table
from distributed.verdicts import helps, signed

SHARES = ("accuracy", "recall", "f1", "g_mean", "auroc", "auprc")
TITLES = {
    "macro_f1": "macro-F1",
    "rarest_accuracy": "accuracy of the rarest third",
    "ece": "ECE",
    "nll": "NLL",
    "macro_auroc": "macro AUROC",
    "g_mean": "G-mean",
    "mcc": "MCC",
    "brier": "Brier",
}
COLUMNS = ("macro_f1", "worst_recall", "many_shot_accuracy", "medium_shot_accuracy", "few_shot_accuracy", "accuracy", "ece")


MOST_OPEN = 60  # rows of a table that is not folded
CONFIDENCE_FACTS = ("predicted", "used", "true", "rank_correlation", "weight")
PLACES = {
    "weight": "fusion weight of {}",
    "confidence": "confidence in {}",
    "unfamiliar": "share of {} unlike training",
    "expert_weight": "weight of expert {}",
}


def name_of(metric: str) -> str:
    """balanced_accuracy as a reader writes it."""
    kind, _, place = metric.partition("/")
    if kind in PLACES and "/" not in place:
        return PLACES[kind].format(place)
    return TITLES.get(metric, metric.replace("_shot_", "-shot ").replace("_", " "))


def in_percent(metric: str) -> bool:
    return metric.startswith(("recall/", "precision/")) or metric.endswith(SHARES)


def scale_of(metric: str) -> tuple[float, str]:
    """What a difference is multiplied by, and its unit."""
    return (100.0, "points") if in_percent(metric) else (1.0, "")


def digits_of(metric: str) -> int:
    return 1 if in_percent(metric) else 3


def shown(metric: str, value: float) -> str:
    return f"{100 * value:.1f}" if in_percent(metric) else f"{value:.3f}"


@dataclass(frozen=True)
class View:
    """One data set under one condition: the rows of its finished cells, and its variants in order."""

    study: Study
    data: str
    condition: str
    variants: tuple[str, ...]
    rows: tuple[Row, ...]
    common: Mapping[str, str] = field(default_factory=dict)  # the name over data sets of a variant that is named after a modality

    @property
    def finished(self) -> dict[str, int]:
        """How many cells of each variant have finished, in the variants' order."""
        return {name: n for name in self.variants if (n := sum(row["variant"] == name for row in self.rows))}

    def scores(self, metric: str) -> dict[str, dict[int, float]]:
        """{variant: {seed: value}} of the test split, for variants that have the metric at all."""
        found: dict[str, dict[int, float]] = {name: {} for name in self.variants}
        for row in self.rows:
            value = row.get(metric if metric == "train_seconds" else f"test/{metric}")
            if isinstance(value, float) and math.isfinite(value) and row["variant"] in found:
                found[row["variant"]][row["seed"]] = value
        return {name: values for name, values in found.items() if values}

    def means(self, metric: str) -> dict[str, Summary]:
        return {name: summarise(list(values.values())) for name, values in self.scores(metric).items()}

    def comparisons(self, metric: str) -> list[Comparison]:
        """Against the reference; empty where the reference itself has no score."""
        scores = self.scores(metric)
        return compare(scores, self.study.reference) if self.study.reference in scores else []


def views(study: Study, plans: Mapping[str, Plan], rows: Iterable[Row]) -> list[View]:
    """Every data set under every condition that has a finished cell."""
    done = [row for row in rows if row["state"] == "done"]
    found = []
    for data, plan in plans.items():
        for condition in plan.conditions:
            mine = tuple(r for r in done if (r["data"], r["condition"]) == (data, condition.name))
            if mine:
                common = {v.name: v.common for v in plan.variants}
                found.append(View(study, data, condition.name, tuple(v.name for v in plan.variants), mine, common))
    return found


def mean_views(seen: Sequence[View]) -> list[View]:
    """For every condition that all data sets have: each variant's mean over the data sets, seed by seed, as if it were one more set."""
    sets = list(dict.fromkeys(v.data for v in seen))
    found = []
    for condition in dict.fromkeys(v.condition for v in seen) if len(sets) > 1 else ():
        mine = [v for v in seen if v.condition == condition]
        if len(mine) == len(sets):
            places: dict[tuple[str, int], list[Row]] = {}
            for view in mine:
                for row in view.rows:
                    places.setdefault((view.common.get(row["variant"], row["variant"]), row["seed"]), []).append(row)
            rows = tuple(_mean_row(name, rows) for (name, _), rows in places.items() if len(rows) == len(sets))
            names = tuple(mine[0].common.get(n, n) for n in mine[0].variants)
            kept = tuple(n for n in names if any(r["variant"] == n for r in rows))
            found.append(View(mine[0].study, f"mean of {len(sets)} data sets", condition, kept, rows))
    return [v for v in found if v.rows]


def _mean_row(name: str, rows: Sequence[Row]) -> Row:
    """Only the metrics that every data set has."""
    shared = [n for n in rows[0] if n.startswith("test/") and all(isinstance(r.get(n), float) for r in rows)]
    return {"variant": name, "seed": rows[0]["seed"], **{n: sum(r[n] for r in rows) / len(rows) for n in shared}}


def score_table(seen: Sequence[View], metrics: Sequence[str], caption: str) -> Table:
    """Mean ± sd of every metric; the best mean of each data set and condition is bold."""
    labels = _place_columns(seen)
    head = [*labels, "variant", "seeds", *(f"{name_of(m)}{' %' if in_percent(m) else ''}" for m in metrics)]
    rows = []
    for view in seen:
        means = {m: view.means(m) for m in metrics}
        best = {m: _best(values, m) for m, values in means.items()}
        for name, count in view.finished.items():
            cells = [_mean_cell(means[m].get(name), m, name in best[m]) for m in metrics]
            rows.append([*_place_cells(view, labels), name, count, *cells])
    return Table(columns=tuple(head), rows=rows, caption=caption)


def _place_columns(seen: Sequence[View]) -> list[str]:
    """data and condition only where they vary."""
    parts = {"data": {v.data for v in seen}, "condition": {v.condition for v in seen}}
    return [name for name, values in parts.items() if len(values) > 1]


def _place_cells(view: View, labels: Sequence[str]) -> list[str]:
    return [{"data": view.data, "condition": view.condition}[name] for name in labels]


def _best(means: Mapping[str, Summary], metric: str) -> set[str]:
    """The best as they are shown; nobody where all are alike, and where more is not better."""
    known = {name: shown(metric, s.mean) for name, s in means.items() if s.mean is not None}
    if len(set(known.values())) < 2 or metric.partition("/")[0] in PLACES:
        return set()
    top = (min if metric in LOWER_IS_BETTER else max)(known.values(), key=float)
    return {name for name, text in known.items() if text == top}


def _mean_cell(summary: Summary | None, metric: str, strong: bool) -> Cell | None:
    if summary is None or summary.mean is None:
        return None
    spread = "" if summary.sd is None else f" ± {shown(metric, summary.sd)}"
    return Cell(text=f"{shown(metric, summary.mean)}{spread}", value=summary.mean, strong=strong)


def confidence_table(seen: Sequence[View]) -> Table:
    """Every modality's confidence in every variant against the truth that it speaks of, and how the seeds agree on it."""
    labels = _place_columns(seen)
    rows = []
    for view in seen:
        facts = sorted({n.removeprefix("test/") for r in view.rows for n in r if n.startswith("test/confidence/") and n.count("/") == 4})
        means = {fact: view.means(fact) for fact in facts}
        for name in view.finished:
            for place in dict.fromkeys(fact.rpartition("/")[0] for fact in facts if name in means[fact]):
                _, modality, group = place.split("/")
                told = [_mean_cell(means.get(f"{place}/{fact}", {}).get(name), fact, False) for fact in CONFIDENCE_FACTS]
                rows.append([*_place_cells(view, labels), name, modality, group, *told])
    caption = (
        "Confidence against the truth, over all classes and over the few-shot ones: what was predicted, what of it the fusion uses "
        "(drawn towards the mean of its class), the true-class probability that came, the rank correlation of the first with it over the "
        "records, and the fusion weight. The standard deviation over seeds says how stable each is."
    )
    columns = (*labels, "variant", "modality", "classes", "predicted", "used", "true", "rank correlation", "weight")
    return Table(columns=columns, rows=rows, caption=caption, folded=len(rows) > MOST_OPEN)


def gap_columns(seen: Sequence[View], metric: str, prefix: str = "") -> tuple[tuple[str, str], list[list[Cell | None]]]:
    """Difference to the reference with its interval, and Holm's p, for each row of `score_table`."""
    scale, _ = scale_of(metric)
    digits = digits_of(metric)
    rows: list[list[Cell | None]] = []
    for view in seen:
        found = {c.name: c for c in view.comparisons(metric)}
        for name in view.finished:
            c = found.get(name)
            rows.append([None, None] if c is None or c.difference is None else [_gap_cell(c, scale, digits), _p_cell(c.t_holm)])
    return (f"{prefix}difference", f"{prefix}Holm p"), rows


TIDY = ("data", "condition", "variant", "metric", "seeds", "mean", "sd", "low", "high", "reference", "difference", "difference_low")
TIDY += ("difference_high", "hedges_g", "t_p", "t_holm", "wilcoxon_p", "wilcoxon_holm")


def tidy_table(seen: Sequence[View], metrics: Sequence[str]) -> Table:
    """For programs: a line a data set, condition, variant and metric, shares as shares, with everything that is known of it."""
    rows = []
    for view in seen:
        for metric in metrics:
            against = {c.name: c for c in view.comparisons(metric)}
            for name, s in view.means(metric).items():
                c = against.get(name)
                tested = [None] * 8 if c is None else [c.reference, c.difference, c.low, c.high, c.effect, c.t_p, c.t_holm, c.wilcoxon_p]
                last = None if c is None else c.wilcoxon_holm
                rows.append([view.data, view.condition, name, metric, s.n, s.mean, s.sd, s.low, s.high, *tested, last])
    return Table(columns=TIDY, rows=rows)


def _gap_cell(c: Comparison, scale: float, digits: int) -> Cell:
    assert c.difference is not None
    between = "" if c.low is None or c.high is None else f" ({signed(c.low * scale, digits)} to {signed(c.high * scale, digits)})"
    return Cell(text=f"{signed(c.difference * scale, digits)}{between}", value=c.difference)


def _p_cell(p: float | None) -> Cell | None:
    return None if p is None else Cell(text="< 0.001" if p < 0.001 else f"{p:.3f}", value=p)


def test_table(seen: Sequence[View], metric: str, caption: str) -> Table:
    """Each variant against the reference: difference, interval, effect, both tests before and after Holm's correction, the verdict."""
    scale, _ = scale_of(metric)
    digits = digits_of(metric)
    labels = _place_columns(seen)
    head = [*labels, "variant", "difference", "95 % interval", "shown", "Hedges g", "t p", "Holm", "Wilcoxon p", "Holm "]
    rows = []
    for view in seen:
        for c in view.comparisons(metric):
            low, high = (None if v is None else signed(v * scale, digits) for v in (c.low, c.high))
            gap = None if c.difference is None else Cell(text=signed(c.difference * scale, digits), value=c.difference)
            between = None if low is None else f"{low} to {high}"
            p_values = [_p_cell(p) for p in (c.t_p, c.t_holm, c.wilcoxon_p, c.wilcoxon_holm)]
            effect = None if c.effect is None else Cell(text=f"{c.effect:.2f}".replace("-", "−"), value=c.effect)
            rows.append([*_place_cells(view, labels), c.name, gap, between, verdict(c, metric), effect, *p_values])
    return Table(columns=tuple(head), rows=rows, caption=caption)


def verdict(c: Comparison, metric: str) -> str:
    good = (c.verdict == "higher") != (metric in LOWER_IS_BETTER)
    words = {"noise": "inside the noise", "equal": "equal", "untested": f"not tested: {c.reason}"}
    return words.get(c.verdict) or ("better" if good else "worse")


def summary_lines(seen: Sequence[View], metric: str) -> list[str]:
    """One line a data set and condition: who is better, who is worse, who is inside the noise."""
    lines = []
    for view in seen:
        groups: dict[str, list[str]] = {}
        for c in view.comparisons(metric):
            kind = verdict(c, metric).split(":")[0]
            gap = "" if c.difference is None or kind == "equal" else f" ({signed(c.difference * scale_of(metric)[0], digits_of(metric))})"
            groups.setdefault(kind, []).append(f"{c.name}{gap}")
        order = ("better", "worse", "inside the noise", "equal", "not tested")
        said = "; ".join(f"{kind}: {', '.join(groups[kind])}" for kind in order if kind in groups)
        if said:
            lines.append(f"{_where(view, seen)}{name_of(metric)[0].upper()}{name_of(metric)[1:]}. {said[0].upper()}{said[1:]}.")
    return lines


def _where(view: View, seen: Sequence[View]) -> str:
    """Data set and condition, as far as they vary."""
    words = ", ".join(_place_cells(view, _place_columns(seen)))
    return f"{words}: " if words else ""


def answers(study: Study, plans: Mapping[str, Plan], seen: Sequence[View]) -> tuple[list[str], Table | None]:
    """The study's claims: sentences for `does it help?`, a table of limits with what was measured."""
    lines, rows = [], []
    labels = _place_columns(seen)
    for claim in study.claims:
        for view in seen:
            for words in _bindings(claim, view, plans.get(view.data)):
                bound = replace(claim, **{n: fill(getattr(claim, n), words) for n in ("text", "variant", "metric", "against")})
                asked = {fill(name, words) for name in claim.conditions}
                scores = view.scores(bound.metric)
                if (
                    (asked and view.condition not in asked)
                    or bound.variant not in scores
                    or (bound.against and bound.against not in scores)
                ):
                    continue
                if claim.at_least is None and claim.at_most is None:
                    lines.append(f"{_where(view, seen)}{_helps(bound, view)}")
                else:
                    rows.append([bound.text, *_place_cells(view, labels), *_limit(bound, scores)])
    columns = ("claim", *labels, "measured", "95 % interval", "seeds", "verdict")
    return lines, Table(columns=columns, rows=rows, caption="Claims with limits, and what was measured.") if rows else None


def _bindings(claim: Claim, view: View, plan: Plan | None) -> list[Mapping[str, str]]:
    """What {modality} stands for: the condition's own, else each modality of the data set in turn."""
    own = next((c.bound for c in plan.conditions if c.name == view.condition), {}) if plan else {}
    if own or not PLACE.search(claim.text + claim.variant + claim.metric + claim.against):
        return [own]
    return [{"modality": m} for m in plan.modalities] if plan else []


def _helps(claim: Claim, view: View) -> str:
    """Against the reference, by the corrected test of the study's tables; against another variant, by the one test that was planned."""
    metric = claim.metric
    scores = view.scores(metric)
    family = scores if claim.against == view.study.reference else {name: scores[name] for name in (claim.variant, claim.against)}
    tested = next(c for c in compare(family, claim.against) if c.name == claim.variant)
    scale, unit = scale_of(metric)
    return helps(claim.text, tested, name_of(metric), scale=scale, unit=unit, lower_is_better=metric in LOWER_IS_BETTER)


def _limit(claim: Claim, scores: Mapping[str, Mapping[int, float]]) -> list[Any]:
    """Measured, interval, seeds, verdict: whether the mean lies where the claim puts it, and whether its whole interval does."""
    scale, digits = scale_of(claim.metric)[0], digits_of(claim.metric)
    if claim.against:
        gap = paired(scores[claim.variant], scores[claim.against])
        found = Summary(n=gap.n, mean=gap.difference, low=gap.low, high=gap.high, reason=gap.reason)
    else:
        found = summarise(list(scores[claim.variant].values()))
    if found.mean is None:
        return [None, None, found.n, f"not measured: {found.reason}"]

    def write(value: float) -> str:
        return signed(value * scale, digits) if claim.against else f"{value * scale:.{digits}f}"

    lowest, highest = (-math.inf if claim.at_least is None else claim.at_least), (math.inf if claim.at_most is None else claim.at_most)
    measured = Cell(text=write(found.mean), value=found.mean)
    if not lowest <= found.mean <= highest:
        verdict = "does not hold"
    elif found.low is None or found.high is None:
        verdict = f"holds on the mean, untested: {found.reason}"
    else:
        verdict = "holds" if lowest <= found.low and found.high <= highest else "holds on the mean, the interval reaches past the limit"
    between = None if found.low is None or found.high is None else f"{write(found.low)} to {write(found.high)}"
    return [measured, between, found.n, verdict]
