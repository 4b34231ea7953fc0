"""Which networks answer together: model/decisions/selection.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.decisions.selection import (
    SINGLE,
    combine,
    greedy_picks,
    log_losses,
    select_members,
)

CLASSES = 5
UNIFORM = torch.full((CLASSES,), 1 / CLASSES)


def rows(count: int, seed: int) -> Tensor:
    """Labels with a long tail."""
    shares = torch.tensor([0.6, 0.2, 0.1, 0.07, 0.03])
    return torch.multinomial(
        shares, count, replacement=True, generator=torch.Generator().manual_seed(seed)
    )


def noisy_answers(labels_V: Tensor, networks: int, seed: int, noise: float = 2.0) -> Tensor:
    """Networks that are right on the mean and err independently of each other."""
    g = torch.Generator().manual_seed(seed)
    truth_VC = 2.0 * torch.nn.functional.one_hot(labels_V, CLASSES)
    noise_KVC = noise * torch.randn(networks, len(labels_V), CLASSES, generator=g)
    return (truth_VC + noise_KVC).log_softmax(-1)


def balanced_loss(answers_VC: Tensor, labels_V: Tensor) -> float:
    losses_V = log_losses(answers_VC, labels_V)
    return float(torch.stack([losses_V[labels_V == c].mean() for c in labels_V.unique()]).mean())


def test_networks_that_err_differently_are_averaged_and_it_helps_on_other_rows() -> None:
    for seed in range(3):
        labels_V, labels_N = rows(400, seed), rows(4000, 100 + seed)
        both = noisy_answers(torch.cat([labels_V, labels_N]), 12, seed)
        chosen = select_members(both[:, :400], labels_V, UNIFORM, limit=10)
        single = select_members(both[:, :400], labels_V, UNIFORM, limit=1)
        assert chosen.strategy != SINGLE
        assert len(set(chosen.picks)) > 3
        assert chosen.gain > chosen.error > 0
        together = balanced_loss(combine(both[list(chosen.picks), 400:]), labels_N)
        assert together < 0.7 * balanced_loss(both[single.picks[0], 400:], labels_N)


def test_equal_networks_stay_one() -> None:
    labels_V = rows(400, 0)
    answers = noisy_answers(labels_V, 1, 0).expand(8, -1, -1)
    chosen = select_members(answers, labels_V, UNIFORM, limit=5)
    assert chosen.strategy == SINGLE
    assert len(chosen.picks) == 1
    assert chosen.gain == 0


def test_a_few_useful_networks_among_useless_ones_are_found() -> None:
    labels_V = rows(600, 1)
    good, bad = noisy_answers(labels_V, 4, 1), noisy_answers(labels_V.flip(0), 16, 2)
    chosen = select_members(torch.cat([bad, good]), labels_V, UNIFORM, limit=10)
    assert set(chosen.picks) <= {16, 17, 18, 19}
    assert len(set(chosen.picks)) >= 3


def test_the_limit_bounds_the_number_of_networks() -> None:
    labels_V = rows(500, 2)
    answers = noisy_answers(labels_V, 20, 3)
    for limit in (2, 4):
        chosen = select_members(answers, labels_V, UNIFORM, limit=limit)
        assert 1 < len(set(chosen.picks)) <= limit
    best = int(torch.tensor([balanced_loss(a, labels_V) for a in answers]).argmin())
    assert select_members(answers, labels_V, UNIFORM, limit=1).picks == (best,)


def test_classes_count_by_the_prior_and_not_by_their_rows() -> None:
    """Network 0 knows the frequent classes, network 1 the rare ones."""
    labels_V = rows(2000, 4)
    truth_VC = torch.nn.functional.one_hot(labels_V, CLASSES).float()
    frequent, rare = 3.0 * truth_VC, 3.0 * truth_VC
    frequent[labels_V >= 2] = 0
    rare[labels_V < 2] = 0
    answers = torch.stack([frequent, rare]).log_softmax(-1)
    counts = torch.tensor([0.6, 0.2, 0.1, 0.07, 0.03])
    assert select_members(answers, labels_V, UNIFORM, limit=1).picks == (1,)
    assert select_members(answers, labels_V, counts, limit=1).picks == (0,)


def test_greedy_selection_lowers_the_loss_with_every_pick_that_it_keeps() -> None:
    labels_V = rows(300, 5)
    answers, weights_V = noisy_answers(labels_V, 10, 5), torch.full((300,), 1 / 300)
    picks = greedy_picks(answers, labels_V, weights_V, 12)
    losses = [
        float(log_losses(combine(answers[picks[:n]]), labels_V).mean())
        for n in range(1, len(picks) + 1)
    ]
    assert losses[-1] == min(losses)
    assert losses[-1] < losses[0]
    first = min(range(10), key=lambda k: float(log_losses(answers[k], labels_V).mean()))
    assert picks[0] == first


def test_rows_without_a_label_and_too_many_rows_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels_V = rows(500, 6)
    answers = noisy_answers(labels_V, 6, 6)
    expected = select_members(answers, labels_V, UNIFORM, limit=5)
    unlabelled = torch.cat([labels_V, torch.full((40,), -1)])
    padded = torch.cat([answers, answers[:, :40].flip(0)], 1)
    assert select_members(padded, unlabelled, UNIFORM, limit=5) == expected
    monkeypatch.setattr("model.decisions.selection.MAX_CELLS", 6 * CLASSES * 60)
    few = select_members(answers, labels_V, UNIFORM, limit=5)
    assert few.picks
    rare = labels_V == 4
    only = select_members(answers[:, rare][:, :1], labels_V[rare][:1], UNIFORM, limit=5)
    assert len(only.picks) == 1


def test_of_strategies_that_are_equally_good_the_one_of_more_kinds_is_used() -> None:
    """Ten networks of one kind share their mistakes; two of other kinds are a little weaker."""
    labels_V = rows(500, 7)
    g = torch.Generator().manual_seed(7)
    shared_VC = torch.randn(500, CLASSES, generator=g)
    truth_VC = 2.0 * torch.nn.functional.one_hot(labels_V, CLASSES)
    alike = torch.stack(
        [truth_VC + shared_VC + 0.8 * torch.randn(500, CLASSES, generator=g) for _ in range(10)]
    )
    others = truth_VC + 1.4 * torch.randn(2, 500, CLASSES, generator=g)
    answers = torch.cat([alike, others]).log_softmax(-1)
    kinds = ["a"] * 10 + ["b", "c"]
    chosen = select_members(answers, labels_V, UNIFORM, limit=10, kinds=kinds)
    assert {10, 11} <= set(chosen.picks)
    of_one = select_members(answers[:10], labels_V, UNIFORM, limit=10)
    together, alone = (
        balanced_loss(combine(answers[list(found.picks)]), labels_V) for found in (chosen, of_one)
    )
    assert together < alone
