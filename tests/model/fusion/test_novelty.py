"""A modality that is unlike the training rows counts as absent."""

from __future__ import annotations

import pytest
import torch

from model.fusion.novelty import MIN_VALIDATION_ROWS, NoveltyGate, weighted_moments


def learned(rows: int = 400, dim: int = 6) -> tuple[NoveltyGate, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    mix_DD = torch.randn(dim, dim, generator=g)
    z_NMD = torch.randn(rows, 2, dim, generator=g) @ mix_DD + 3
    gate = NoveltyGate(2, dim)
    gate.fit_distance(
        *weighted_moments(z_NMD, torch.ones(rows, 2, dtype=torch.bool), torch.ones(rows))
    )
    return gate, z_NMD


def test_the_distance_of_training_rows_is_about_one_whatever_their_scale() -> None:
    gate, z_NMD = learned()
    assert gate.distance(z_NMD).mean(0).tolist() == pytest.approx([1, 1], abs=0.15)
    assert (gate.distance(z_NMD + 100) > 100).all()


def test_everything_is_familiar_before_anything_is_learned_and_with_few_rows_of_validation() -> (
    None
):
    present = torch.tensor([[True, True], [True, False]])
    far = torch.full((2, 2, 6), 1e3)
    assert not NoveltyGate(2, 6)(far, present).any()
    gate, _ = learned()
    gate.set_limits(
        torch.tensor([1.0, 1.0]), torch.tensor([MIN_VALIDATION_ROWS - 1, MIN_VALIDATION_ROWS])
    )
    assert (gate.limit_M > 0).tolist() == [False, True]


def test_a_far_modality_is_unfamiliar() -> None:
    gate, z_NMD = learned()
    gate.set_limits(gate.distance(z_NMD).amax(0), torch.tensor([400, 400]))
    present_NM = torch.ones(400, 2, dtype=torch.bool)
    assert not gate(z_NMD, present_NM).any(), "no row that set the limit is beyond it"
    z_NMD[0, 0] += 100
    z_NMD[1] += 100
    z_NMD[2, 0] += 100
    present_NM[2, 1] = False
    unfamiliar_NM = gate(z_NMD, present_NM)
    assert unfamiliar_NM[:3].tolist() == [[True, False], [True, True], [True, False]]
    assert not unfamiliar_NM[3:].any()


def test_classes_count_alike_in_the_moments() -> None:
    g = torch.Generator().manual_seed(1)
    often, rare = (
        torch.randn(990, 1, 2, generator=g) * 0.1,
        torch.randn(10, 1, 2, generator=g) * 0.1 + 5,
    )
    z_NMD, weights_N = torch.cat([often, rare]), torch.tensor([1 / 990] * 990 + [1 / 10] * 10)
    gate = NoveltyGate(1, 2)
    gate.fit_distance(*weighted_moments(z_NMD, torch.ones(1000, 1, dtype=torch.bool), weights_N))
    assert gate.mean_MD[0].tolist() == pytest.approx([2.5, 2.5], abs=0.1)
    ratio = gate.distance(rare).mean() / gate.distance(often).mean()
    assert 0.5 < float(ratio) < 2, "a rare class is no farther away than a frequent one"


def test_rows_without_the_modality_and_a_modality_that_nobody_has_do_no_harm() -> None:
    z_NMD, present_NM = torch.randn(50, 2, 3), torch.ones(50, 2, dtype=torch.bool)
    present_NM[:, 1] = False
    z_NMD[:, 1] = torch.nan
    gate = NoveltyGate(2, 3)
    gate.fit_distance(*weighted_moments(z_NMD, present_NM, torch.ones(50)))
    assert torch.isfinite(gate.whiten_MDD).all()
    assert torch.isfinite(gate.mean_MD).all()
