"""Class weights in the loss: their values, and that training and estimation both use them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.data_cards import make_data_card
from helpers.stage_workspace import set_params, write_workspace
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from lightpeft.core.scores import Scores
from pipeline.common.data_card import DataCard
from pipeline.common.paths import Paths
from pipeline.stages import estimate, finetune, prune
from pipeline.tasks.class_weights import (
    compute_balanced_weights,
    compute_positive_weights,
    compute_weighted_cross_entropy,
)
from pipeline.tasks.multi_label_classification import MultiLabelClassification
from pipeline.tasks.registry import TASKS
from pipeline.tasks.text_classification import TextClassification

PATHS = Paths()


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.repeat([0, 1, 3], [5, 30, 7])
    expected = compute_class_weight("balanced", classes=np.unique(labels), y=labels)

    first, second, absent, last = compute_balanced_weights(np.bincount(labels).tolist())

    assert (first, second, last) == tuple(expected)
    assert absent == 1


@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_the_loss_is_the_mean_of_weighted_rows_or_tokens(shape):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*shape, 2, generator=generator)
    labels = torch.tensor([0, 1, 1, -100, 1, 0]).reshape(shape)
    weights = (3.0, 0.5)
    kept = labels.flatten() != -100
    each = cross_entropy(logits.flatten(0, -2)[kept], labels.flatten()[kept], reduction="none")
    factors = torch.tensor(weights)[labels.flatten()[kept]]

    torch.testing.assert_close(
        compute_weighted_cross_entropy(logits, labels, weights), (each * factors).mean()
    )
    one = compute_weighted_cross_entropy(logits, labels, (1.0, 1.0))
    torch.testing.assert_close(one, each.mean())


def test_a_card_without_weights_leaves_the_models_own_loss():
    loss = torch.tensor(0.25)
    output = SimpleNamespace(loss=loss, logits=None)

    assert TextClassification(make_data_card()).compute_loss(output, {}) is loss


def test_estimation_training_and_validation_have_the_weights_of_the_card(tmp_path, monkeypatch):
    monkeypatch.chdir(write_workspace(tmp_path))
    set_params(
        tmp_path,
        estimate={"steps": 2, "lr": 1e-9},
        finetune={"steps": 12, "evaluate_every": 12, "lr": 1e-9},
    )
    losses = []
    for weights in ((), (4.0, 4.0)):
        card = DataCard.read(PATHS.prepared).model_copy(update={"class_weights": weights})
        card.write(PATHS.prepared)
        estimate.main(PATHS)
        prune.main("vanilla", PATHS)
        finetune.main("vanilla", PATHS)
        curve = pd.read_csv(PATHS.locate_curve("vanilla"))
        measured = [curve[name].dropna().iloc[-1] for name in ("loss", "validation_loss")]
        losses.append([Scores.load(PATHS.scores).curve[0]["task_loss"], *measured])

    np.testing.assert_allclose(losses[1], 4 * np.array(losses[0]), rtol=1e-4)


def test_rows_with_and_without_a_class_weigh_the_same():
    truth = np.array([[1, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1], [0, 1, 0, 1], [0, 1, 0, 1]])
    weights = compute_positive_weights(truth.sum(axis=0).tolist(), len(truth))
    assert weights == (4.0, 0.25, 1.0, 1.0)

    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor(truth, dtype=torch.float32)
    each = binary_cross_entropy_with_logits(logits, labels, reduction="none")
    for column in (0, 1):
        one, other = compute_class_weight("balanced", classes=np.array([0, 1]), y=truth[:, column])
        assert weights[column] == pytest.approx(other / one)
    expected = (each * torch.where(labels == 1, torch.tensor(weights), 1.0)).mean()
    task = MultiLabelClassification(make_data_card(labels=list("abcd"), class_weights=weights))
    output = SimpleNamespace(loss=torch.tensor(0.0), logits=logits)
    torch.testing.assert_close(task.compute_loss(output, {"labels": labels}), expected)


def test_weights_are_for_classes():
    supported = [name for name, task in TASKS.items() if task.supports_class_weights]

    assert supported == [
        "text-classification",
        "multi-label-classification",
        "entity-recognition",
        "token-classification",
        "image-classification",
    ]
