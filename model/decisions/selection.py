"""Which of several trained networks answer together: greedy ensemble selection, and its guard.

Greedy selection (Caruana et al. 2004) adds, with replacement, the network that lowers the log-loss
of the mean answer most. A few rows of a rare class are soon overfitted, so it is run on several
random halves of the candidates, and it must prove itself: every strategy is carried out on four
fifths of the validation rows and judged on the last fifth, in turn. Of those whose held-out loss is
within a standard error of the lowest one, the strategy is used that spreads the answer over the
most kinds of networks, and then over the most networks: the validation rows have also chosen each
network's epoch, so that they flatter the one that was lucky there, and networks of one kind make
the same mistakes. The best single network is kept where several are not better on those rows
by LEAST_GAIN. To ask for more than the standard error would give away what averaging gives nearly
always (docs/results/search.md).

All answers are log probabilities; their mean, scaled to sum to 1, is the answer of several. Every
class counts by its share of a target prior, whatever its number of rows.

Legend: K candidates, V validation rows, C classes, P picks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.decisions.calibration import row_weights
from model.decisions.guard import first_of_classes, rank_in_class

FOLDS = 5
BAGS = 8  # random halves of the candidates
STEPS = 12  # picks on each of them
PICKS_FOR_EACH = 2  # an ensemble of at most N networks has at most so many times N picks
MAX_CELLS = 4_000_000  # numbers of all candidates' answers that the selection looks at
LEAST_GAIN = 0.002  # of log-loss, for which several networks are worth their cost
SINGLE = "the best single network"

Picks = dict[str, tuple[int, ...]]  # of every strategy, by its name


@dataclass(frozen=True)
class Selection:
    """The picked networks.

    picks: their places among the candidates, each as often as it counts.
    strategy: how they were found, for people.
    gain: by how much the log-loss is lower than that of the best single network, on rows that
        neither was chosen on; error: the standard error of that. Both 0 for the single network.
    """

    picks: tuple[int, ...]
    strategy: str
    gain: float = 0.0
    error: float = 0.0


def select_members(
    answers_KVC: Tensor,
    labels_V: Tensor,
    prior_C: Tensor,
    *,
    limit: int,
    kinds: Sequence[str] = (),
    seed: int = 0,
) -> Selection:
    """Chooses at most `limit` of the candidates.

    answers_KVC: calibrated log probabilities at the prior prior_C, by which the classes count.
    kinds: of the candidates, such as their image encoders; empty: all are of one kind.
    """
    kinds = kinds or [""] * len(answers_KVC)
    answers_KVC, labels_V = _usable(answers_KVC, labels_V)
    weights_V = row_weights(labels_V, prior_C).float()
    most = min(limit, len(kinds))
    picks = _picks(answers_KVC, labels_V, weights_V, most, seed)
    held_out = _held_out_losses(answers_KVC, labels_V, weights_V, most, seed)
    if most == 1 or not held_out:  # nothing to choose, or too few rows to hold any out
        return Selection(picks[SINGLE], SINGLE)
    lowest_V = min(held_out.values(), key=lambda loss_V: float(loss_V @ weights_V))
    as_good = [
        name
        for name, loss_V in held_out.items()
        if _is_within_error(loss_V - lowest_V, weights_V) and name != SINGLE
    ]
    name = max(as_good, key=lambda name: _spreads(picks[name], kinds), default=SINGLE)
    gain, error = _mean_and_error(held_out[SINGLE] - held_out[name], weights_V)
    if gain < LEAST_GAIN:
        return Selection(picks[SINGLE], SINGLE)
    return Selection(picks[name], name, gain=gain, error=error)


def _mean_and_error(difference_V: Tensor, weights_V: Tensor) -> tuple[float, float]:
    """Returns the weighted mean of a difference over rows, and its standard error."""
    mean = float(difference_V @ weights_V)
    return mean, float((weights_V * (difference_V - mean)).square().sum().sqrt())


def _is_within_error(difference_V: Tensor, weights_V: Tensor) -> bool:
    mean, error = _mean_and_error(difference_V, weights_V)
    return mean <= error


def _spreads(picks: Sequence[int], kinds: Sequence[str]) -> tuple[float, float]:
    """Returns over how many kinds, and over how many networks, an answer is spread.

    It is their number where all count alike.
    """
    of_kinds, of_networks = (
        len(picks) ** 2 / sum(count**2 for count in counts.values())
        for counts in (Counter(kinds[k] for k in picks), Counter(picks))
    )
    return round(of_kinds, 3), of_networks


def combine(answers_PVC: Tensor) -> Tensor:
    """Returns the log probabilities of several answers together, [V, C]."""
    return answers_PVC.mean(0).log_softmax(-1)


def log_losses(answers_VC: Tensor, labels_V: Tensor) -> Tensor:
    """Returns the log-loss of every row, [V]."""
    return -answers_VC.gather(1, labels_V[:, None])[:, 0]


def _usable(answers_KVC: Tensor, labels_V: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the labelled rows; of very many those of every class that come first."""
    known_V = labels_V >= 0
    answers_KVC, labels_V = answers_KVC[:, known_V].float(), labels_V[known_V]
    rows = max(1, MAX_CELLS // max(1, answers_KVC[:, 0].numel()))
    if rows < len(labels_V):
        chosen_V = first_of_classes(labels_V, rows)
        answers_KVC, labels_V = answers_KVC[:, chosen_V], labels_V[chosen_V]
    return answers_KVC, labels_V


def _stratified_folds(labels_V: Tensor, seed: int) -> Tensor:
    """Returns the fold of every row, [V]: those of a class are spread over all folds."""
    generator = torch.Generator().manual_seed(seed)
    shuffled_V = torch.randperm(len(labels_V), generator=generator)
    fold_V = torch.empty_like(labels_V)
    # Classes begin at different folds, or all rows of classes with one row would share a fold.
    fold_V[shuffled_V] = (rank_in_class(labels_V[shuffled_V]) + labels_V[shuffled_V]) % FOLDS
    return fold_V


def _held_out_losses(
    answers_KVC: Tensor, labels_V: Tensor, weights_V: Tensor, most: int, seed: int
) -> dict[str, Tensor]:
    """Returns the log-loss of every row under picks that were made without its fold, [V].

    By the name of the strategy.
    """
    fold_V = _stratified_folds(labels_V, seed)
    losses: dict[str, Tensor] = {}
    for fold in range(FOLDS):
        held_V = fold_V == fold
        if not held_V.any() or held_V.all():
            continue
        seen_V = ~held_V
        picks = _picks(answers_KVC[:, seen_V], labels_V[seen_V], weights_V[seen_V], most, seed)
        for name, chosen in picks.items():
            together_VC = combine(answers_KVC[list(chosen)][:, held_V])
            loss_V = losses.setdefault(name, torch.zeros(len(labels_V)))
            loss_V[held_V] = log_losses(together_VC, labels_V[held_V])
    return losses


def _picks(answers_KVC: Tensor, labels_V: Tensor, weights_V: Tensor, most: int, seed: int) -> Picks:
    """Returns the picks of every strategy; the best single network is always among them."""
    order = _losses(answers_KVC, labels_V, weights_V).argsort(stable=True).tolist()
    found: Picks = {SINGLE: (order[0],)}
    if most == 1:
        return found
    for count in sorted({count for count in (3, 5, 10, 20) if count <= most} | {most}):
        found[f"the best {count}"] = tuple(sorted(order[:count]))
    greedy = _greedy(answers_KVC, labels_V, weights_V, most, seed)
    found["greedy selection"] = tuple(greedy)
    found["greedy selection, all alike"] = tuple(sorted(set(greedy)))
    return found


def _losses(answers_KVC: Tensor, labels_V: Tensor, weights_V: Tensor) -> Tensor:
    """Returns the weighted log-loss of every candidate, [K]."""
    label_KV = labels_V.expand(len(answers_KVC), -1)
    return -(answers_KVC.gather(2, label_KV[:, :, None])[:, :, 0] @ weights_V)


def _greedy(
    answers_KVC: Tensor, labels_V: Tensor, weights_V: Tensor, limit: int, seed: int
) -> list[int]:
    """Greedy selection on random halves of the candidates, whose picks count together."""
    generator = torch.Generator().manual_seed(seed)
    candidates, counts = len(answers_KVC), Counter[int]()
    size = max(2, (candidates + 1) // 2)
    for _ in range(BAGS):
        bag = torch.randperm(candidates, generator=generator)[:size].sort().values
        found = greedy_picks(answers_KVC[bag], labels_V, weights_V, STEPS)
        counts.update(bag[found].tolist())
    return _scaled(counts, limit)


def greedy_picks(answers_KVC: Tensor, labels_V: Tensor, weights_V: Tensor, steps: int) -> list[int]:
    """Returns the picks of one greedy selection, up to the best of its steps."""
    picks: list[int] = []
    total_VC = torch.zeros_like(answers_KVC[0])
    lowest, best_size = torch.inf, 1
    for step in range(1, steps + 1):
        together_KVC = ((total_VC + answers_KVC) / step).log_softmax(-1)
        loss_K = _losses(together_KVC, labels_V, weights_V)
        chosen = int(loss_K.argmin())
        picks.append(chosen)
        total_VC = total_VC + answers_KVC[chosen]
        if float(loss_K[chosen]) < lowest:
            lowest, best_size = float(loss_K[chosen]), step
    return picks[:best_size]


def _scaled(counts: Counter[int], limit: int) -> list[int]:
    """Returns the most frequent candidates, repeated by their shares."""
    leading = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:limit]
    total = sum(count for _, count in leading)
    picks = PICKS_FOR_EACH * len(leading)
    repeated: Sequence[list[int]] = [
        [place] * max(1, round(picks * count / total)) for place, count in leading
    ]
    return sorted(place for places in repeated for place in places)
