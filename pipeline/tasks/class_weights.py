"""`data.class_weights: balanced`: rare classes count as much in the loss as frequent ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def balanced_weights(counts: Sequence[int]) -> tuple[float, ...]:
    """Return n / (k * n_c) for each class, as scikit-learn's `compute_class_weight` does.

    Args:
        counts: rows (or words) of train of each class; k counts those with any. A class without
            any, which no loss of train depends on, gets weight 1.
    """
    total, present = sum(counts), sum(count > 0 for count in counts)
    return tuple(total / (present * count) if count else 1.0 for count in counts)


def weighted_loss(logits: Tensor, labels: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the mean over rows (or tokens) of the cross-entropy times the weight of their class.

    Not `CrossEntropyLoss(weight=...)`, which divides by the sum of the batch's weights: a batch of
    one class would have no weight at all. Negative labels are left out, as transformers does.
    """
    losses = cross_entropy(
        logits.flatten(0, -2).float(),
        labels.flatten(),
        weight=torch.tensor(weights, device=logits.device),
        reduction="sum",
    )
    return losses / (labels >= 0).sum()
