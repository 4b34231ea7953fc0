"""Facts about the agreement of modalities: it falls with the share of broken records, and is silent where nothing can be told."""

from __future__ import annotations

import pytest
import torch

from model.agreement import LEAST_ROWS, Agreement

CLASSES = 5


def posteriors(rows: int, seed: int = 0, only: int | None = None, modalities: int = 2) -> torch.Tensor:
    """[B, M, C]: each modality sees the class through noise of its own."""
    g = torch.Generator().manual_seed(seed)
    labels_B = torch.randint(CLASSES, (rows,), generator=g) if only is None else torch.full((rows,), only)
    evidence_BMC = 1.5 * torch.randn(rows, modalities, CLASSES, generator=g)
    return (evidence_BMC + 2.0 * torch.nn.functional.one_hot(labels_B, CLASSES)[:, None]).softmax(-1)


def agreement(posterior_BMC: torch.Tensor, present_BM: torch.Tensor | None = None) -> Agreement:
    return Agreement.of(posterior_BMC, torch.ones(posterior_BMC.shape[:2], dtype=torch.bool) if present_BM is None else present_BM)


def shuffled(posterior_BMC: torch.Tensor, modality: int, share: float = 1.0) -> torch.Tensor:
    """Some records with another record's modality."""
    rows, found_BMC = int(share * len(posterior_BMC)), posterior_BMC.clone()
    found_BMC[:rows, modality] = posterior_BMC[:rows, modality].roll(1, 0)
    return found_BMC


@pytest.mark.parametrize(("share", "left"), [(1.0, 0.0), (0.5, 0.5), (0.0, None)])
def test_agreement_falls_by_the_share_of_records_that_are_joined_to_others(share: float, left: float | None) -> None:
    known, now = agreement(posteriors(600)), agreement(shuffled(posteriors(900, seed=1), 1, share))
    found = now.fallen(known)
    assert [(i, j) for i, j, _ in found] == ([] if left is None else [(0, 1)])
    if left is not None:
        assert found[0][2] == pytest.approx(left, abs=0.12)


def test_of_three_modalities_the_broken_one_is_in_every_pair_that_is_told() -> None:
    known, now = agreement(posteriors(600, modalities=3)), agreement(shuffled(posteriors(900, seed=1, modalities=3), 2))
    assert [(i, j) for i, j, _ in now.fallen(known)] == [(0, 2), (1, 2)]


def test_noise_that_always_says_the_same_is_told_too() -> None:
    known, now_BMC = agreement(posteriors(600)), posteriors(900, seed=1)
    now_BMC[:, 0] = torch.tensor([0.6, 0.1, 0.1, 0.1, 0.1])
    assert [(i, j) for i, j, _ in agreement(now_BMC).fallen(known)] == [(0, 1)]


def test_records_of_one_class_and_too_few_records_tell_nothing() -> None:
    known = agreement(posteriors(600))
    assert agreement(posteriors(900, seed=1, only=2)).fallen(known) == []
    few = shuffled(posteriors(LEAST_ROWS - 1, seed=1), 1)
    assert agreement(few).fallen(known) == []
    alone = agreement(shuffled(posteriors(900, seed=1), 1), torch.tensor([[True, False]]).expand(900, 2))
    assert alone.fallen(known) == []


def test_modalities_that_never_agreed_tell_nothing() -> None:
    known = agreement(shuffled(posteriors(600), 1))
    assert agreement(shuffled(posteriors(900, seed=1), 1)).fallen(known) == []


def test_sums_add_up_and_come_back_and_what_is_absent_does_not_count() -> None:
    posterior_BMC, present_BM = posteriors(300), torch.ones(300, 2, dtype=torch.bool)
    present_BM[::3, 1] = False
    posterior_BMC[::3, 1] = torch.nan
    whole = agreement(posterior_BMC, present_BM)
    parts = agreement(posterior_BMC[:100], present_BM[:100]) + agreement(posterior_BMC[100:], present_BM[100:])
    kept = agreement(posterior_BMC[present_BM[:, 1]])
    again = Agreement.from_state_dict({name: tensor.tolist() for name, tensor in whole.state_dict().items()})
    for other in (parts, again):
        for a, b in zip(whole.tensors(), other.tensors(), strict=True):
            torch.testing.assert_close(a, b)
    assert whole.rows_MM.tolist() == [[300, 200], [200, 200]]
    pair_MM = torch.tensor([[False, True], [True, False]])
    torch.testing.assert_close(whole.covariance()[0][pair_MM], kept.covariance()[0][pair_MM])
    x_BC, y_BC = posterior_BMC[present_BM[:, 1]].double().unbind(1)
    expected = ((x_BC - x_BC.mean(0)) * (y_BC - y_BC.mean(0))).mean(0).sum()
    assert float(whole.covariance()[0][0, 1]) == pytest.approx(float(expected), abs=1e-9)
