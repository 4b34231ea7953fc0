"""The network that has learned from a search's model, for its terminal and its report."""

from __future__ import annotations

from distributed.runtime import shell
from distributed.runtime.storage import join
from distributed.searches.state.model_files import DISTILLED_FOLDER
from distributed.searches.state.records import SearchRecord, is_finite
from distributed.searches.state.standings import Standings
from model.metrics import names


def distilled_sentence(standings: Standings, out: str) -> str:
    """Where the network is, and how much of the model's gain it has kept; "" where there is none.

    The gain is over the best settings, on test rows where these were scored, else on validation.
    """
    if standings.distilled() is None:
        return ""
    place = shell.shown_location(join(out, DISTILLED_FOLDER))
    text = (
        f"{place} holds one network of ordinary size that has learned from the answers of the"
        " model, ready for use."
    )
    tested, model, runs = standings.distilled_test(), standings.model_test(), standings.tests()
    split = "test"
    if tested is None or model is None or not runs:
        winner = standings.winner()
        assert winner is not None
        tested, model, runs = standings.distilled(), standings.model(), [winner.record]
        split = "validation"
    assert tested is not None
    assert model is not None
    kept = [
        sentence
        for name in dict.fromkeys([standings.metric, "balanced_nll"])
        if (sentence := _kept(name, tested, model, runs))
    ]
    return " ".join([text, f"On {split} rows:", "; ".join(kept) + "."]) if kept else text


def _kept(
    name: str, distilled: SearchRecord, model: SearchRecord, single: list[SearchRecord]
) -> str:
    """A metric of the three, and which share of the gain is kept, where there is a gain."""
    values = [run.metrics.get(name) for run in single]
    found = [value for value in values if is_finite(value)]
    own, best = distilled.metrics.get(name), model.metrics.get(name)
    if not found or not is_finite(own) or not is_finite(best):
        return ""
    metric, start = names.metric(name), sum(found) / len(found)
    text = (
        f"{metric.title} {metric.text(own)}, the model {metric.text(best)}, the best settings"
        f" {metric.text(start)}"
    )
    gain = start - best if metric.lower_is_better else best - start
    own_gain = start - own if metric.lower_is_better else own - start
    return f"{text} ({100 * own_gain / gain:.0f} % of the gain kept)" if gain > 0 else text
