"""Doubts: validation rows lower the trust in a modality that spoils their answers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from distributed.training.fusion_limits import learn_doubts
from distributed.training.scoring import Evaluator
from model.batch import Batch
from model.config import ModelConfig
from model.fusion.doubt import fit_doubts, true_class_answers
from model.fusion.mixture import subsets
from model.network import Network
from tests.model import samples
from tests.model.cases import random_case

ROWS = 200
MEMBERS = subsets(2)  # both modalities, the first, the second


def fit(
    answers_S: list[float], rows: int = ROWS, visible: tuple[bool, bool] = (True, True)
) -> Tensor:
    """Doubts where every row's true class has these probabilities by the three subsets."""
    return fit_doubts(
        torch.tensor(answers_S).log().expand(rows, -1),
        torch.full((rows, 2), 2.0),
        torch.tensor(visible).expand(rows, -1),
        torch.arange(rows) % 4,
        MEMBERS,
        temperature=1.0,
    )


def network_and_complete_records(rows: int, seed: int) -> tuple[Network, Batch]:
    torch.manual_seed(seed)
    schema = samples.schema()
    batch = samples.batch(schema, rows)
    network = Network(schema, ModelConfig(dim=16)).eval()
    return network, batch.replace(present_BM=torch.ones_like(batch.present_BM))


def test_a_modality_that_spoils_the_answers_is_doubted() -> None:
    doubt = fit([0.5, 0.9, 0.2])
    assert doubt[0] < 0.01
    assert doubt[1] > 2


def test_modalities_that_help_are_not_doubted_and_trust_is_never_raised() -> None:
    assert fit([0.9, 0.5, 0.5]).amax() < 0.01


def test_few_rows_say_less() -> None:
    assert fit([0.5, 0.9, 0.2], rows=4)[1] < fit([0.5, 0.9, 0.2])[1]


def test_rows_with_one_modality_say_nothing() -> None:
    assert not fit([0.5, 0.9, 0.2], visible=(True, False)).any()


def test_every_class_counts_alike() -> None:
    # Of the first class, which has nearly all rows, the first modality alone is right; of the
    # other classes, the second one.
    labels_N = torch.tensor([0] * 190 + [1, 2, 3, 4] * 5)
    first_N1 = (labels_N == 0)[:, None]
    answers_NS = torch.where(
        first_N1, torch.tensor([[0.5, 0.9, 0.1]]), torch.tensor([[0.5, 0.1, 0.9]])
    ).log()
    odds_NM = torch.full((len(labels_N), 2), 2.0)
    visible_NM = torch.ones(len(labels_N), 2, dtype=torch.bool)
    doubt = fit_doubts(answers_NS, odds_NM, visible_NM, labels_N, MEMBERS, 1.0)
    assert doubt[0] > doubt[1]


def test_a_modality_that_is_doubted_leaves_the_answer_of_the_others() -> None:
    network, batch = network_and_complete_records(8, seed=0)
    only_photo = batch.replace(present_BM=torch.tensor([[True, False]]).expand(8, -1))
    with torch.no_grad():
        before, alone = network(batch), network(only_photo)
        assert network.mixture is not None
        network.mixture.doubt_M.copy_(torch.tensor([0.0, 60.0]))
        after = network(batch)
    assert not torch.allclose(before.logits_BEC.softmax(-1), alone.logits_BEC.softmax(-1))
    torch.testing.assert_close(after.logits_BEC.softmax(-1), alone.logits_BEC.softmax(-1))
    assert after.weights_BM[:, 1].amax() < 1e-6
    assert before.subsets is not None
    assert after.subsets is not None
    assert torch.equal(after.subsets.odds_BM, before.subsets.odds_BM)


def test_doubts_are_learned_from_all_batches_of_a_source() -> None:
    network, batch = network_and_complete_records(400, seed=5)
    with torch.no_grad():
        for parameter in network.experts.parameters():  # answers that differ
            parameter.mul_(5)
        outputs = network(batch)
    assert outputs.subsets is not None
    # The labels are what the picture alone says.
    batch = batch.replace(labels_B=outputs.subsets.logits_BSEC[:, 1].mean(1).argmax(1))

    class Rows:
        def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
            yield batch.select(slice(0, 250))
            yield batch.select(slice(250, 400))

    mixture = network.mixture
    assert mixture is not None
    expected = fit_doubts(
        true_class_answers(outputs.subsets, batch.labels_B),
        outputs.subsets.odds_BM,
        batch.present_BM,
        batch.labels_B,
        mixture.members_SM,
        mixture.temperature,
    )
    assert expected[1] > 0.1
    learn_doubts(Evaluator(torch.device("cpu")), network, mixture, Rows())
    torch.testing.assert_close(mixture.doubt_M, expected, rtol=0.01, atol=0.01)


def test_the_answers_are_the_mean_probability_of_the_true_class() -> None:
    outputs, batch = random_case(0)
    answers = outputs.subsets
    assert answers is not None
    expected = answers.logits_BSEC.softmax(-1).mean(2)
    of_labels = true_class_answers(answers, batch.labels_B).exp()
    for b, label in enumerate(batch.labels_B.tolist()):
        torch.testing.assert_close(of_labels[b], expected[b, :, label])


def test_a_doubt_that_only_one_rare_row_asks_for_is_not_made() -> None:
    """Its class counts as much as the others, whose rows say the contrary."""
    rows = 60
    labels_N = torch.arange(rows) % 3
    answers_NS = torch.tensor([0.6, 0.5, 0.5]).log().repeat(rows, 1)
    rare_NS = torch.tensor([[1e-6, 0.9, 1e-6]]).log()

    def doubts(rare_rows: int) -> Tensor:
        return fit_doubts(
            torch.cat([answers_NS, rare_NS.expand(rare_rows, -1)]),
            torch.full((rows + rare_rows, 2), 2.0),
            torch.ones(rows + rare_rows, 2, dtype=torch.bool),
            torch.cat([labels_N, torch.full((rare_rows,), 3)]),
            MEMBERS,
            temperature=1.0,
        )

    assert doubts(rare_rows=10)[1] > 1
    assert doubts(rare_rows=1).eq(0).all()
