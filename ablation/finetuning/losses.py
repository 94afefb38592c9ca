"""The loss that is trained, and printed."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ablation.finetuning.training_state import Schedule


@dataclass(frozen=True)
class Loss:
    """Cross-entropy of texts: a mean over those whose class is not ``ignore_index``.

    With ``class_weights`` (C,), each text counts as much as the weight of its class. The sum is
    divided by the number of texts, not by their weights as ``F.cross_entropy`` does it: otherwise
    weights would cancel out in a batch of one text, and a mean over small batches would not be
    that of a large one.
    """

    ignore_index: int = -100
    class_weights: Tensor | None = None

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar, of logits (B, C) and labels (B,); not a number if all are ignored."""
        ignored = {"ignore_index": self.ignore_index}
        if self.class_weights is None:
            return F.cross_entropy(logits, labels, **ignored)
        weights = self.class_weights.to(logits)
        total = F.cross_entropy(logits, labels, weights, reduction="sum", **ignored)
        return total / (labels != self.ignore_index).sum()


def make_loss(schedule: Schedule, labels: Tensor, n_classes: int) -> Loss:
    """The loss of a schedule of training, on training texts with these labels (N,)."""
    if schedule.class_weights == "none":
        return Loss(schedule.ignore_index)
    weights = balanced_weights(labels, n_classes, schedule.ignore_index)
    return Loss(schedule.ignore_index, weights)


def balanced_weights(labels: Tensor, n_classes: int, ignore_index: int = -100) -> Tensor:
    """The weight of each class (C,), n / (n_classes * n_class), by which all classes together count
    as much, and texts 1 on average.

    Source: scikit-learn's ``class_weight="balanced"``, after G. King and L. Zeng, "Logistic
    Regression in Rare Events Data" (2001).

    Args:
        labels: of the training texts (N,).
        ignore_index: a class that takes no part in the loss, nor here; its weight is 0.
    """
    counts = labels.bincount(minlength=n_classes).float()
    takes_part = torch.arange(n_classes) != ignore_index
    n_texts = counts[takes_part].sum()
    return takes_part * n_texts / (takes_part.sum() * counts.clamp(min=1))
