"""Facts about cross-fitting, shrinkage and the running class-balanced means."""

from __future__ import annotations

import torch
from torch import Tensor

from model.config import FusionConfig
from model.fusion.confidence import RunningConfidence, held_out_logits


def test_folds_are_the_same_whatever_the_batch_order() -> None:
    auxiliary_BMFC = torch.randn(10, 2, 3, 4)
    ranks_B = torch.tensor([7, 3, 0, 12, 5, 9, 1, 2, 4, 8])
    order = torch.randperm(10)
    assert torch.equal(
        held_out_logits(auxiliary_BMFC, ranks_B)[order],
        held_out_logits(auxiliary_BMFC[order], ranks_B[order]),
    )
    assert torch.equal(held_out_logits(auxiliary_BMFC, ranks_B)[0], auxiliary_BMFC[0, :, 7 % 3])


def test_ranks_within_a_class_make_exactly_stratified_folds() -> None:
    ranks_B = torch.arange(11)
    sizes = torch.bincount(ranks_B % 4)
    assert sizes.max() - sizes.min() <= 1


def running(shrinkage: float = 20.0, momentum: float = 0.5) -> RunningConfidence:
    return RunningConfidence(2, 3, FusionConfig(shrinkage=shrinkage, momentum=momentum))


def same(tensor: Tensor) -> Tensor:
    return tensor


def test_running_means_by_hand() -> None:
    means = running()
    true_BM = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]])
    present_BM = torch.tensor([[True, True], [True, False], [True, True]])
    labels_B = torch.tensor([0, 0, 2])
    means.update(true_BM, present_BM, labels_B, same)
    assert torch.allclose(means.mean_MC, torch.tensor([[0.7, 0.0, 0.1], [0.2, 0.0, 0.9]]))
    assert torch.allclose(
        means.balanced_mean(), torch.tensor([0.4, 0.55])
    )  # class 1 has not been seen and does not count
    means.update(torch.tensor([[0.2, 0.6]]), torch.ones(1, 2).bool(), torch.tensor([0]), same)
    assert torch.allclose(
        means.mean_MC[:, 0], torch.tensor([0.45, 0.4])
    )  # one observation at momentum 0.5: half way


def test_shrinkage_by_hand() -> None:
    means = running(shrinkage=20.0)
    means.mean_MC[:] = torch.tensor([[0.9, 0.9, 0.9], [0.3, 0.3, 0.3]])
    means.rows_MC[:] = 1
    counts_C = torch.tensor([180.0, 20.0, 0.0])
    posterior_BMC = torch.tensor(
        [[[1.0, 0, 0], [1.0, 0, 0]], [[0, 1.0, 0], [0, 1.0, 0]], [[0, 0, 1.0], [1.0, 0, 0]]]
    )
    present_BM = torch.tensor([[True, True], [True, True], [True, False]])
    shrunk_BM = means.shrink(torch.full((3, 2), 0.5), posterior_BMC, present_BM, counts_C)
    assert torch.allclose(
        shrunk_BM[0], torch.tensor([0.9 * 0.5 + 0.1 * 0.9, 0.9 * 0.5 + 0.1 * 0.3])
    )  # s = 180 / 200
    assert torch.allclose(
        shrunk_BM[1], torch.tensor([0.5 * 0.5 + 0.5 * 0.9, 0.5 * 0.5 + 0.5 * 0.3])
    )  # s = 20 / 40
    assert torch.allclose(
        shrunk_BM[2], torch.tensor([0.9, 0.3])
    )  # only the present modality's posterior counts: s = 0


def test_no_shrinkage_keeps_each_sample_s_own_confidence() -> None:
    confidence_BM = torch.rand(4, 2)
    shrunk_BM = running(shrinkage=0.0).shrink(
        confidence_BM,
        torch.full((4, 2, 3), 1 / 3),
        torch.ones(4, 2).bool(),
        torch.tensor([5.0, 5, 5]),
    )
    assert torch.allclose(shrunk_BM, confidence_BM)


def test_validation_corrects_the_level_and_the_bias_by_hand() -> None:
    means = running(shrinkage=1.0)
    means.update(
        torch.full((3, 2), 0.9), torch.ones(3, 2, dtype=torch.bool), torch.tensor([0, 1, 2]), same
    )
    confidence_NM = torch.tensor([[0.5, 0.9], [0.7, 0.9], [0.4, 0.9], [0.0, 0.0]])
    true_NM = torch.tensor([[0.4, 0.5], [0.6, 0.5], [0.2, 0.2], [1.0, 1.0]])
    present_NM = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    means.correct_on_validation(
        confidence_NM, true_NM, present_NM, torch.tensor([0, 0, 1, -1])
    )  # no row of class 2; the last has no label
    assert torch.allclose(means.balanced_mean(), torch.tensor([(0.5 + 0.2) / 2, (0.5 + 0.2) / 2]))
    assert torch.allclose(means.bias_M, torch.tensor([(0.1 + 0.2) / 2, (0.4 + 0.7) / 2]))
    posterior_BMC = torch.eye(3)[torch.tensor([[0, 0]])]
    shrunk_BM = means.shrink(
        torch.tensor([[0.8, 0.1]]),
        posterior_BMC,
        torch.ones(1, 2, dtype=torch.bool),
        torch.tensor([3.0, 2.0, 1.0]),
    )
    assert torch.allclose(
        shrunk_BM, torch.tensor([[0.75 * 0.65 + 0.25 * 0.35, 0.75 * 0.0 + 0.25 * 0.35]])
    ), "half above nothing is nothing"
    before_M = means.balanced_mean()
    means.correct_on_validation(
        confidence_NM, true_NM, torch.zeros_like(present_NM), torch.tensor([0, 0, 1, 2])
    )
    assert torch.equal(means.balanced_mean(), before_M), (
        "validation without the modality says nothing of it"
    )


def test_means_over_two_workers_equal_those_of_one() -> None:
    true_BM, labels_B = torch.rand(20, 2), torch.randint(0, 3, (20,))
    present_BM = torch.rand(20, 2) < 0.8
    one = running()
    one.update(true_BM, present_BM, labels_B, same)
    caught: list[Tensor] = []
    for part in (slice(0, 7), slice(7, 20)):
        running().update(
            true_BM[part],
            present_BM[part],
            labels_B[part],
            lambda sums: caught.append(sums) or sums,
        )  # type: ignore[func-returns-value]
    two = running()
    two.update(true_BM[:7], present_BM[:7], labels_B[:7], lambda sums: caught[0] + caught[1])
    assert torch.allclose(one.mean_MC, two.mean_MC)
    assert torch.equal(one.rows_MC, two.rows_MC)
