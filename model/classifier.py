"""What predictions, metrics and explanations need of a trained model: a network or an ensemble.

Legend: B batch, M modalities, D embedding, R records of several variants of a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from model.batch import Batch
from model.encoders.image import ImageEncoder
from model.outputs import Outputs
from model.schema import Schema


class Classifier(nn.Module, ABC):
    """Classifies records: encodes every modality, then fuses the embeddings.

    schema: of the data. counts_C: training rows of every class.
    """

    schema: Schema
    counts_C: Tensor

    @property
    @abstractmethod
    def dim(self) -> int:
        """The embedding size D."""

    @property
    @abstractmethod
    def expert_count(self) -> int:
        """How many experts answer: the size E of Outputs.logits_BEC."""

    @property
    @abstractmethod
    def made_of(self) -> str:
        """What answers, in a few words."""

    @property
    @abstractmethod
    def learns_confidence(self) -> bool:
        """Whether the confidences of the modalities were trained."""

    @property
    @abstractmethod
    def has_novelty_limits(self) -> bool:
        """Whether a modality that is unlike the training rows would be noticed."""

    @abstractmethod
    def accept_all_modalities(self) -> None:
        """Removes the limits of the novelty gate, so that no modality counts as unfamiliar."""

    @abstractmethod
    def frozen_encoder(self, image: str) -> ImageEncoder | None:
        """Returns the encoder whose frozen part may be computed beforehand; None if there is none.

        image: the name of the image modality.
        """

    @abstractmethod
    def encode(self, batch: Batch) -> Tensor:
        """Returns the embeddings of all modalities, [B, M, D]."""

    @abstractmethod
    def encode_modality(self, m: int, content: Sequence[Tensor], present_R: Tensor) -> Tensor:
        """Returns the embeddings of one modality, [R, D].

        content: pixels, or numbers and categories. present_R: which records have the modality.
        """

    @abstractmethod
    def choose_modalities(self, embeddings_BMD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns which modalities the fusion uses, and which are unlike the training rows."""

    @abstractmethod
    def fuse(
        self, embeddings_BMD: Tensor, batch: Batch, visible_BM: Tensor | None = None
    ) -> Outputs:
        """Returns the outputs for embeddings that `encode` gave, perhaps changed ones.

        visible_BM: which modalities the fusion uses, where something else than `choose_modalities`
            decides it, such as an explanation.
        """

    @abstractmethod
    def relative_distance(self, outputs: Outputs) -> Tensor:
        """Returns the distance of each modality from the training rows, [B, M].

        It is a share of the distance from which on the modality counts as unlike training; NaN
        where that is not known.
        """

    def forward(self, batch: Batch) -> Outputs:
        """Returns logits, confidences and fusion weights of every record."""
        return self.fuse(self.encode(batch), batch)
