"""The slope falls with the share of broken records; without evidence no pair is broken."""

from __future__ import annotations

import pytest
import torch

from model.fusion import cross_modal
from model.fusion.cross_modal import (
    MAX_EXPECTED_CLASSES,
    MIN_PAIR_ROWS,
    MIN_VALIDATION_ROWS,
    CrossModalModel,
    CrossModalStats,
)

EVEN = (0.2, 0.2, 0.2, 0.2, 0.2)
TAIL = (0.5, 0.25, 0.15, 0.07, 0.03)
UNKNOWN = 1.5  # deviation of the noise in the logits of a modality


def posteriors(
    rows: int,
    seed: int = 0,
    prior: tuple[float, ...] = EVEN,
    modalities: int = 2,
    only_first: bool = False,
) -> torch.Tensor:
    """Returns [B, M, C]: each modality gives the class with noise of its own.

    only_first: the second modality distinguishes class 0 from the others and no more.
    """
    g = torch.Generator().manual_seed(seed)
    labels_B = torch.multinomial(torch.tensor(prior), rows, True, generator=g)
    logits_BMC = (
        2.5
        * torch.nn.functional.one_hot(labels_B, len(prior))[:, None]
        .repeat(1, modalities, 1)
        .float()
    )
    if only_first:
        logits_BMC[:, 1, 1:] = 0
    return (logits_BMC + UNKNOWN * torch.randn(rows, modalities, len(prior), generator=g)).softmax(
        -1
    )


def fit_model(posterior_BMC: torch.Tensor) -> CrossModalModel:
    model = CrossModalModel.fit(posterior_BMC, everywhere(posterior_BMC))
    assert model is not None
    return model


def everywhere(posterior_BMC: torch.Tensor) -> torch.Tensor:
    return torch.ones(posterior_BMC.shape[:2], dtype=torch.bool)


def broken_pairs(
    model: CrossModalModel, posterior_BMC: torch.Tensor
) -> list[tuple[int, int, float]]:
    return model.compare(posterior_BMC, everywhere(posterior_BMC)).broken_pairs(model)


def shuffled(posterior_BMC: torch.Tensor, modality: int, share: float = 1.0) -> torch.Tensor:
    """Some records with another record's modality."""
    rows, shuffled_BMC = int(share * len(posterior_BMC)), posterior_BMC.clone()
    shuffled_BMC[:rows, modality] = posterior_BMC[:rows, modality].roll(1, 0)
    return shuffled_BMC


@pytest.mark.parametrize(("share", "left"), [(1.0, 0.0), (0.5, 0.5), (0.0, None)])
@pytest.mark.parametrize("prior", [EVEN, TAIL])
def test_agreement_falls_by_the_share_of_records_that_are_joined_to_others(
    share: float, left: float | None, prior: tuple[float]
) -> None:
    broken = broken_pairs(
        fit_model(posteriors(800, prior=prior)), shuffled(posteriors(1200, 1, prior), 1, share)
    )
    assert [(i, j) for i, j, _ in broken] == ([] if left is None else [(0, 1)])
    if left is not None:
        assert broken[0][2] == pytest.approx(left, abs=0.15)


def test_of_three_modalities_the_broken_one_is_in_every_broken_pair() -> None:
    broken = broken_pairs(
        fit_model(posteriors(800, modalities=3)), shuffled(posteriors(900, 1, modalities=3), 2)
    )
    assert [(i, j) for i, j, _ in broken] == [(0, 2), (1, 2)]


def test_a_modality_that_always_decides_the_same_class_is_broken_too() -> None:
    now_BMC = posteriors(900, 1)
    now_BMC[:, 0] = torch.tensor([0.6, 0.1, 0.1, 0.1, 0.1])
    assert [(i, j) for i, j, _ in broken_pairs(fit_model(posteriors(800)), now_BMC)] == [(0, 1)]


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
        ),  # the only class that the second distinguishes is gone
        (TAIL, TAIL[::-1], True),
    ],
)
def test_another_mix_of_classes_is_no_broken_modality(
    before: tuple[float], after: tuple[float], only_first: bool
) -> None:
    reported = 0
    for seed in range(20):
        model = fit_model(posteriors(500, seed, before, only_first=only_first))
        reported += bool(
            broken_pairs(model, posteriors(500, 100 + seed, after, only_first=only_first))
        )
    assert reported <= 1


def test_the_error_is_that_of_repeated_draws() -> None:
    model = fit_model(posteriors(2000, prior=TAIL))
    draws = [
        model.compare(p, everywhere(p)).slope()
        for p in (posteriors(300, seed, TAIL) for seed in range(1, 61))
    ]
    spread = torch.stack([slope_MM[0, 1] for slope_MM, _ in draws]).std()
    mean_error = torch.stack([error_MM[0, 1] for _, error_MM in draws]).mean()
    assert 0.8 * spread < mean_error < 3 * spread  # both ways are added as if they were one


def test_too_few_records_are_not_judged() -> None:
    model = fit_model(posteriors(800))
    assert broken_pairs(model, shuffled(posteriors(MIN_PAIR_ROWS - 1, 1), 1)) == []
    now_BMC = shuffled(posteriors(900, 1), 1)
    assert (
        model.compare(now_BMC, torch.tensor([[True, False]]).expand(900, 2)).broken_pairs(model)
        == []
    )
    few_BMC = posteriors(MIN_VALIDATION_ROWS - 1)
    assert CrossModalModel.fit(few_BMC, everywhere(few_BMC)) is None
    one_BMC = posteriors(800, modalities=1)
    assert CrossModalModel.fit(one_BMC, everywhere(one_BMC)) is None
    many_BMC = torch.rand(MIN_VALIDATION_ROWS, 2, MAX_EXPECTED_CLASSES + 1)
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
        whole.compare(p, q, fitted_on_these_rows=True)
        for p, q in zip(posterior_BMC.split(7), present_BM.split(7), strict=True)
    ]
    once = whole.compare(posterior_BMC, present_BM, fitted_on_these_rows=True)
    for name, tensor in sum(rows[1:], rows[0]).state_dict().items():
        torch.testing.assert_close(tensor, once.state_dict()[name], rtol=1e-11, atol=1e-11)


def test_modalities_that_never_agreed_are_not_judged() -> None:
    assert (
        broken_pairs(fit_model(shuffled(posteriors(600), 1)), shuffled(posteriors(900, 1), 1)) == []
    )


def test_sums_add_up_and_come_back_and_what_is_absent_does_not_count() -> None:
    model, posterior_BMC, present_BM = (
        fit_model(posteriors(800)),
        posteriors(300, 1),
        torch.ones(300, 2, dtype=torch.bool),
    )
    present_BM[::3, 1] = False
    posterior_BMC[::3, 1] = torch.nan
    whole = model.compare(posterior_BMC, present_BM)
    parts = model.compare(posterior_BMC[:100], present_BM[:100]) + model.compare(
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
        whole.slope()[0][0, 1], model.compare(kept_BMC, everywhere(kept_BMC)).slope()[0][0, 1]
    )
    holed = CrossModalModel.fit(posterior_BMC, present_BM)
    assert holed is not None
    assert all(
        torch.isfinite(tensor).all()
        for name, tensor in holed.state_dict().items()
        if name.endswith("C")
    )
