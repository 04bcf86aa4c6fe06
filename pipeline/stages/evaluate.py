"""Stage `evaluate`: a trained model and the test split -> metrics and predictions."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import transformers
from peft import PeftModel

from lightpeft.core.errors import CheckpointError
from lightpeft.pruning import checkpoint
from pipeline.common.artefacts import Evaluation
from pipeline.common.console import find_device, log
from pipeline.common.data_card import DataCard, read_rows
from pipeline.common.errors import DataError
from pipeline.common.files import write_text
from pipeline.common.methods import has_plan
from pipeline.common.params import EvaluateParams, EvaluateSection, ModelSection
from pipeline.common.paths import Paths
from pipeline.metrics.scoring import ExampleStatistics, count_confusion, score
from pipeline.tasks import method_models
from pipeline.tasks.base import Predictions, Task
from pipeline.tasks.model_loading import load_model, load_processor
from pipeline.tasks.registry import make_task


def main(method: str, paths: Paths) -> None:
    """Measure one method on the test split, and its expanded adapter on the unpruned base."""
    transformers.logging.set_verbosity_error()
    params, data, folder = (
        EvaluateParams.load(paths.params),
        paths.prepared,
        paths.locate_model(method),
    )
    card, size = _read_card(data, params.evaluate), params.evaluate.batch_size
    stage = f"evaluate {method}"
    task = make_task(card, title=stage)
    rows, processor = read_rows(data, "test"), load_processor(params.model, task)
    base, _ = load_model(params.model, task, params.seed)
    task.check_metric(task.card.metric, params.evaluate, base.config)
    model = method_models.load(base, folder).to(find_device())
    predictions = task.predict(model, rows, processor, batch_size=size)
    evaluation = measure(
        task,
        predictions,
        method_models.count_parameters(model),
        resamples=params.evaluate.bootstrap,
        seed=params.seed,
    )
    del base, model  # frees memory for the unpruned base
    if params.evaluate.lifted and has_plan(method):
        expanded_model = load_expanded_model(params.model, task, folder, seed=params.seed)
        expanded_model.to(find_device())
        task = make_task(card, title=f"{stage}, on the unpruned base")
        expanded_predictions = task.predict(expanded_model, rows, processor, batch_size=size)
        lifted = score(task.card, expanded_predictions)
        _require_finite({f"{name} of the lifted adapter": value for name, value in lifted.items()})
        evaluation = evaluation.model_copy(update={"lifted": lifted})
    table = task.make_table(predictions)
    text = table.to_csv(index_label="row", float_format="%.6g", lineterminator="\n")
    write_text(paths.locate_predictions(method), text)
    evaluation.write(paths.locate_evaluation(method))
    shown = task.card.describe_metric(evaluation.metric)
    log(stage, f"test {shown} {evaluation.metrics[evaluation.metric]:.4f}")


def _read_card(data: Path, section: EvaluateSection) -> DataCard:
    """Return the data card, with `max_new_tokens` of params.yaml if it is set."""
    card, limit = DataCard.read(data), section.max_new_tokens
    return card if limit is None else card.model_copy(update={"max_new_tokens": limit})


def measure(
    task: Task, predictions: Predictions, parameters: dict[str, int], *, resamples: int, seed: int
) -> Evaluation:
    """Return every metric, the interval of the main one, and for classes the confusion matrix.

    Args:
        task: bound to the data card.
        predictions: for the test split.
        parameters: what `count_parameters` returned.
        resamples, seed: of the bootstrap.

    Raises:
        DataError: a metric is not finite, as the perplexity of a model that diverged.
    """
    card = task.card
    statistics = ExampleStatistics.compute(card, predictions)
    values = _require_finite(statistics.compute_values())
    limits = statistics.compute_interval(card.metric, resamples=resamples, seed=seed)
    _require_finite({f"{card.metric} (of resampled rows)": limit for limit in limits})
    matrix = None
    if card.labels and predictions.scores is not None and predictions.labels.ndim == 1:
        matrix = tuple(map(tuple, count_confusion(card, predictions)))
    return Evaluation(
        split="test",
        rows=len(predictions.labels),
        metric=card.metric,
        metrics=values,
        interval=limits,
        labels=card.labels,
        positive_class=card.positive_class,
        confusion=matrix,
        **parameters,
        lifted=None,
    )


def _require_finite(values: dict[str, float]) -> dict[str, float]:
    """Return the values; refuse NaN and infinity, which JSON can't hold."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise DataError(f"test {name} must be finite, got {value}; lower finetune.lr")
    return values


def load_expanded_model(section: ModelSection, task: Task, folder: Path, *, seed: int) -> PeftModel:
    """Load the unpruned base with the expanded adapter, by stock peft."""
    base, _ = load_model(section, task, seed)
    with tempfile.TemporaryDirectory() as full:
        try:
            checkpoint.expand_adapter(folder, full, model=base)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; or set evaluate.lifted: false") from error
        return PeftModel.from_pretrained(base, full)
