"""Facts about the agreement of modalities: it falls with the share of broken records, and is silent where nothing can be told."""

from __future__ import annotations

import pytest
import torch

from model.fusion import cross_modal
from model.fusion.cross_modal import (
    MAX_CLASSES,
    MIN_ROWS,
    MIN_VALIDATION_ROWS,
    CrossModalModel,
    CrossModalStats,
)

EVEN = (0.2, 0.2, 0.2, 0.2, 0.2)
TAIL = (0.5, 0.25, 0.15, 0.07, 0.03)
UNKNOWN = 1.5  # deviation of what a modality sees beside the class


def posteriors(
    rows: int,
    seed: int = 0,
    prior: tuple[float, ...] = EVEN,
    modalities: int = 2,
    only_first: bool = False,
) -> torch.Tensor:
    """[B, M, C]: each modality sees the class through noise of its own; only_first: the second tells class 0 from the rest and no more."""
    g = torch.Generator().manual_seed(seed)
    labels_B = torch.multinomial(torch.tensor(prior), rows, True, generator=g)
    seen_BMC = (
        2.5
        * torch.nn.functional.one_hot(labels_B, len(prior))[:, None]
        .repeat(1, modalities, 1)
        .float()
    )
    if only_first:
        seen_BMC[:, 1, 1:] = 0
    return (seen_BMC + UNKNOWN * torch.randn(rows, modalities, len(prior), generator=g)).softmax(-1)


def known(posterior_BMC: torch.Tensor) -> CrossModalModel:
    found = CrossModalModel.fit(posterior_BMC, everywhere(posterior_BMC))
    assert found is not None
    return found


def everywhere(posterior_BMC: torch.Tensor) -> torch.Tensor:
    return torch.ones(posterior_BMC.shape[:2], dtype=torch.bool)


def fallen(
    expectation: CrossModalModel, posterior_BMC: torch.Tensor
) -> list[tuple[int, int, float]]:
    return expectation.compare(posterior_BMC, everywhere(posterior_BMC)).broken_pairs(expectation)


def shuffled(posterior_BMC: torch.Tensor, modality: int, share: float = 1.0) -> torch.Tensor:
    """Some records with another record's modality."""
    rows, found_BMC = int(share * len(posterior_BMC)), posterior_BMC.clone()
    found_BMC[:rows, modality] = posterior_BMC[:rows, modality].roll(1, 0)
    return found_BMC


@pytest.mark.parametrize(("share", "left"), [(1.0, 0.0), (0.5, 0.5), (0.0, None)])
@pytest.mark.parametrize("prior", [EVEN, TAIL])
def test_agreement_falls_by_the_share_of_records_that_are_joined_to_others(
    share: float, left: float | None, prior: tuple[float]
) -> None:
    found = fallen(
        known(posteriors(800, prior=prior)), shuffled(posteriors(1200, 1, prior), 1, share)
    )
    assert [(i, j) for i, j, _ in found] == ([] if left is None else [(0, 1)])
    if left is not None:
        assert found[0][2] == pytest.approx(left, abs=0.15)


def test_of_three_modalities_the_broken_one_is_in_every_pair_that_is_told() -> None:
    found = fallen(
        known(posteriors(800, modalities=3)), shuffled(posteriors(900, 1, modalities=3), 2)
    )
    assert [(i, j) for i, j, _ in found] == [(0, 2), (1, 2)]


def test_noise_that_always_says_the_same_is_told_too() -> None:
    now_BMC = posteriors(900, 1)
    now_BMC[:, 0] = torch.tensor([0.6, 0.1, 0.1, 0.1, 0.1])
    assert [(i, j) for i, j, _ in fallen(known(posteriors(800)), now_BMC)] == [(0, 1)]


@pytest.mark.parametrize(
    ("before", "after", "only_first"),
    [
        (TAIL, EVEN, False),
        (TAIL, TAIL[::-1], False),
        (TAIL, (0.0, 0.0, 1.0, 0.0, 0.0), False),
        (
            (0.4, 0.15, 0.15, 0.15, 0.15),
            (0.0, 0.25, 0.25, 0.25, 0.25),
            True,
        ),  # all that the second tells is gone
        (TAIL, TAIL[::-1], True),
    ],
)
def test_another_mix_of_classes_is_no_broken_modality(
    before: tuple[float], after: tuple[float], only_first: bool
) -> None:
    told = 0
    for seed in range(20):
        expectation = known(posteriors(500, seed, before, only_first=only_first))
        told += bool(fallen(expectation, posteriors(500, 100 + seed, after, only_first=only_first)))
    assert told <= 1


def test_the_error_is_that_of_repeated_draws() -> None:
    expectation = known(posteriors(2000, prior=TAIL))
    draws = [
        expectation.compare(p, everywhere(p)).slope()
        for p in (posteriors(300, seed, TAIL) for seed in range(1, 61))
    ]
    spread = torch.stack([slope_MM[0, 1] for slope_MM, _ in draws]).std()
    said = torch.stack([error_MM[0, 1] for _, error_MM in draws]).mean()
    assert 0.8 * spread < said < 3 * spread  # both ways are added as if they were one


def test_too_few_records_tell_nothing() -> None:
    expectation = known(posteriors(800))
    assert fallen(expectation, shuffled(posteriors(MIN_ROWS - 1, 1), 1)) == []
    now_BMC = shuffled(posteriors(900, 1), 1)
    assert (
        expectation.compare(now_BMC, torch.tensor([[True, False]]).expand(900, 2)).broken_pairs(
            expectation
        )
        == []
    )
    few_BMC = posteriors(MIN_VALIDATION_ROWS - 1)
    assert CrossModalModel.fit(few_BMC, everywhere(few_BMC)) is None
    one_BMC = posteriors(800, modalities=1)
    assert CrossModalModel.fit(one_BMC, everywhere(one_BMC)) is None
    many_BMC = torch.rand(MIN_VALIDATION_ROWS, 2, MAX_CLASSES + 1)
    assert CrossModalModel.fit(many_BMC, everywhere(many_BMC)) is None


def test_what_is_learned_does_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    posterior_BMC, present_BM = (
        posteriors(800, modalities=3),
        torch.rand(800, 3, generator=torch.Generator().manual_seed(0)) < 0.9,
    )
    whole = CrossModalModel.fit(posterior_BMC, present_BM)
    monkeypatch.setattr(cross_modal, "CHUNK", 7)
    parts = CrossModalModel.fit(posterior_BMC, present_BM)
    assert whole is not None
    assert parts is not None
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, rtol=1e-6, atol=0)
    rows = [
        whole.compare(p, q, learned=True)
        for p, q in zip(posterior_BMC.split(7), present_BM.split(7), strict=True)
    ]
    once = whole.compare(posterior_BMC, present_BM, learned=True)
    for name, tensor in sum(rows[1:], rows[0]).state_dict().items():
        torch.testing.assert_close(tensor, once.state_dict()[name], rtol=1e-11, atol=1e-11)


def test_modalities_that_never_agreed_tell_nothing() -> None:
    assert fallen(known(shuffled(posteriors(600), 1)), shuffled(posteriors(900, 1), 1)) == []


def test_sums_add_up_and_come_back_and_what_is_absent_does_not_count() -> None:
    expectation, posterior_BMC, present_BM = (
        known(posteriors(800)),
        posteriors(300, 1),
        torch.ones(300, 2, dtype=torch.bool),
    )
    present_BM[::3, 1] = False
    posterior_BMC[::3, 1] = torch.nan
    whole = expectation.compare(posterior_BMC, present_BM)
    parts = expectation.compare(posterior_BMC[:100], present_BM[:100]) + expectation.compare(
        posterior_BMC[100:], present_BM[100:]
    )
    again = CrossModalStats.from_state_dict(
        {name: tensor.tolist() for name, tensor in whole.state_dict().items()}
    )
    for other in (parts, again):
        for a, b in zip(whole.state_dict().values(), other.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b)
    assert whole.rows_MM.tolist() == [[300, 200], [200, 200]]
    kept_BMC = posterior_BMC[present_BM[:, 1]]
    torch.testing.assert_close(
        whole.slope()[0][0, 1], expectation.compare(kept_BMC, everywhere(kept_BMC)).slope()[0][0, 1]
    )
    holed = CrossModalModel.fit(posterior_BMC, present_BM)
    assert holed is not None
    assert all(
        torch.isfinite(tensor).all()
        for name, tensor in holed.state_dict().items()
        if name.endswith("C")
    )
