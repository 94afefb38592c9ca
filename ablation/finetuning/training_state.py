"""The numbers of a training run, and where it stands."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ablation.finetuning.adamw import AdamWInBackward
from ablation.finetuning.outcomes import History
from gpt_model import GPTModel


@dataclass(frozen=True)
class Schedule:
    """The numbers of a training run, each that of the flag of its name."""

    num_epochs: int
    max_steps: int | None
    accumulation_steps: int
    learning_rate: float
    weight_decay: float
    ignore_index: int
    class_weights: str
    keep_best: bool
    stop_after: int | None
    eval_freq: int
    eval_iter: int
    seed: int

    @property
    def compares_epochs(self) -> bool:
        """Whether the whole validation part is evaluated after each epoch."""
        return self.keep_best or self.stop_after is not None

    def epoch_lengths(self, batches_per_epoch: int) -> list[int]:
        """How many batches each epoch has; ``max_steps`` cuts the last one short."""
        n_steps = self.num_epochs * batches_per_epoch
        if self.max_steps is not None:
            n_steps = min(n_steps, self.max_steps)
        starts = range(0, n_steps, batches_per_epoch)
        return [min(batches_per_epoch, n_steps - start) for start in starts]


@dataclass
class TrainingState:
    """Where training stands between two updates: with PyTorch's generator, all to go on from."""

    model: GPTModel
    optimizer: AdamWInBackward
    history: History = field(default_factory=History)
    step: int = 0  # batches that were trained on
    epoch_ends: list[int] = field(default_factory=list)  # how many they are at the end of each
    # PyTorch's global generator as it was before the order of this epoch was drawn.
    epoch_generator: Tensor = field(default_factory=torch.get_rng_state)
    best: dict[str, Tensor] = field(default_factory=dict)  # what trained, after the best epoch
