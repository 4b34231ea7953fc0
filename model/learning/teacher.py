"""What another classifier answers for the training rows, from which a network learns too.

Legend: B batch, R training rows by class and rank, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.batch import Batch
from model.learning.row_places import row_places


@dataclass(frozen=True)
class Teacher:
    """Answers for all training rows.

    answers_RC: log probabilities at the class prior of the training rows; the rows are ordered by
        class, and in a class by their ranks.
    counts_C: training rows of every class.
    """

    answers_RC: Tensor
    counts_C: Tensor

    def answer(self, batch: Batch) -> Batch:
        """Returns the batch with the answers for its rows."""
        places_B = row_places(self.counts_C, batch.labels_B, batch.ranks_B)
        return batch.replace(teacher_BC=self.answers_RC[places_B])

    def to(self, device: torch.device) -> Teacher:
        return Teacher(self.answers_RC.to(device), self.counts_C.to(device))

    @classmethod
    def of_rows(cls, answers_NC: Tensor, labels_N: Tensor, ranks_N: Tensor) -> Teacher:
        """Returns the teacher with these answers for rows in any order."""
        counts_C = torch.bincount(labels_N, minlength=answers_NC.shape[1])
        answers_RC = torch.empty_like(answers_NC)
        answers_RC[row_places(counts_C, labels_N, ranks_N)] = answers_NC
        return cls(answers_RC, counts_C)
