"""`data.class_weights: balanced`: rare classes count as much in the loss as frequent ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy


def compute_balanced_weights(counts: Sequence[int]) -> tuple[float, ...]:
    """Return n / (k * n_c) for each class, as scikit-learn's `compute_class_weight` does.

    Args:
        counts: rows (or words) of train of each class; k counts those with any. A class without
            any, which no loss of train depends on, gets weight 1.
    """
    total, present = sum(counts), sum(count > 0 for count in counts)
    return tuple(total / (present * count) if count else 1.0 for count in counts)


def compute_positive_weights(counts: Sequence[int], rows: int) -> tuple[float, ...]:
    """Return the weight of the rows with each class against those without it: (n - n_c) / n_c.

    With it, both count equally much in the loss of a class, as `compute_balanced_weights` of two
    classes does. A class that no row has, or that each has, gets weight 1.

    Args:
        counts: rows of train with each class.
        rows: rows of train.
    """
    return tuple((rows - n) / n if 0 < n < rows else 1.0 for n in counts)


def compute_weighted_binary_cross_entropy(
    logits: Tensor, labels: Tensor, weights: Sequence[float]
) -> Tensor:
    """Return the mean over rows and classes of the binary cross-entropy, where labels 1 weigh more.

    Args:
        logits: shape (rows, classes).
        labels: 1 where a row has a class, else 0; same shape.
        weights: of the labels 1, by class.
    """
    return binary_cross_entropy_with_logits(
        logits.float(), labels.float(), pos_weight=torch.tensor(weights, device=logits.device)
    )


def compute_weighted_cross_entropy(
    logits: Tensor, labels: Tensor, weights: Sequence[float]
) -> Tensor:
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
