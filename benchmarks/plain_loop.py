"""The training loop that one would write by hand, to compare the package's own with."""

from __future__ import annotations

import torch

from distributed.config import Config
from distributed.training.loop import TrainingSource
from distributed.training.optimisation.precision import autocast
from model.learning.augment import augment, drop_modalities
from model.learning.losses import loss_terms
from model.learning.optimisers import build_optimiser, set_learning_rates
from model.network import Network


class PlainLoop:
    """It has nothing but the steps: see benchmarks/loop.py."""

    def __init__(
        self, network: Network, source: TrainingSource, settings: Config, device: torch.device
    ) -> None:
        # torch's stubs lack memory_format.
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = network
        self.source, self.settings, self.device = source, settings, device
        self.optimiser = build_optimiser(network, settings.optim)
        self.step = self.epochs = 0

    def epoch(self) -> float:
        """Trains one epoch; returns the sum of the losses, on a CPU."""
        network, settings = self.network.train(), self.settings
        steps = settings.optim.epochs * self.source.steps
        total = 0.0
        for batch in self.source.batches(self.epochs):
            set_learning_rates(self.optimiser, settings.optim, self.step, steps)
            batch = augment(
                batch.to(self.device), network.schema.images, settings.data, 0, self.step
            )
            batch = drop_modalities(batch, settings.fusion.modality_dropout, 0, self.step)
            with autocast(settings, self.device):
                outputs = network(batch)
            terms = loss_terms(outputs, batch, network.counts_C, settings.model, self.step / steps)
            loss = sum(terms.values())
            assert isinstance(loss, torch.Tensor)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            network.update_running_confidence(outputs, batch)
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.optim.clip)
            self.optimiser.step()
            total += float(loss.detach()) if self.device.type == "cpu" else 0.0
            self.step += 1
        self.epochs += 1
        return total
