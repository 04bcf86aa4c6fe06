"""Stage `export`: the trained model of one method -> a form that others load, or nothing."""

from __future__ import annotations

import transformers

from lightpeft.core.serialization import replace_whole_directory
from lightpeft.exporting.card import ExportDetails
from lightpeft.exporting.export import export
from lightpeft.exporting.record import ADAPTER_FORMATS, RECORD
from lightpeft.profiling.speedup import BASELINE
from lightpeft.pruning import checkpoint
from pipeline.common.artefacts import Evaluation, RunSummary
from pipeline.common.console import log
from pipeline.common.data_card import DataCard
from pipeline.common.files import write_json
from pipeline.common.params import ExportParams
from pipeline.common.paths import Paths
from pipeline.tasks.base import Task
from pipeline.tasks.model_loading import load_model, load_processor
from pipeline.tasks.registry import make_task

# What the built-in models are on the hub, and under which licence.
_PUBLISHED = {
    "minilm": ("sentence-transformers/all-MiniLM-L6-v2", "apache-2.0"),
    "smollm2": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
}


def main(paths: Paths) -> None:
    """Export one method, once a fresh process has loaded it and computed the same."""
    params = ExportParams.load(paths.params)
    form, method = params.export.format, params.export.method
    if form == "none":
        # DVC wants an output, and the next export replaces a folder with this file.
        with replace_whole_directory(paths.export, RECORD) as folder:
            write_json(folder / RECORD, {"to": form})
        return
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    task = make_task(DataCard.read(paths.prepared))
    base, _ = load_model(params.model, task, params.seed)
    model = checkpoint.load(base, paths.locate_model(method))
    unpruned = None
    if form in ADAPTER_FORMATS:
        unpruned, _ = load_model(params.model, task, params.seed)
    name = params.model.name
    published, license_name = _PUBLISHED.get(name, ("" if task.card.model.files else name, ""))
    details = ExportDetails(
        processor=load_processor(params.model, task),
        base=published,
        revision=task.card.model.revision or "",
        license=license_name,
        data=f"data.task {task.card.task}",
        metrics=_collect_metrics(paths, task, method),
    )
    record = export(model, paths.export, format=form, base=unpruned, details=details)
    log("export", f"{paths.export}: {record}")


def _collect_metrics(paths: Paths, task: Task, method: str) -> dict[str, float | str]:
    """Return what was measured of the method and of the baseline, for the model card."""
    summary, found = RunSummary.read(paths.metrics).methods, dict[str, float | str]()
    for name in dict.fromkeys((method, BASELINE)):
        evaluation, values = Evaluation.read(paths.locate_evaluation(name)), summary[name]
        low, high = evaluation.interval
        value = evaluation.metrics[evaluation.metric]
        title = task.card.describe_metric(evaluation.metric)
        interval = f"95 % interval {low:.4f} to {high:.4f}"
        found[f"test {title}, {name}"] = f"{value:.4f} ({interval})"
        for phase in ("train", "inference", "prefill", "decode"):
            speedup = getattr(values, f"{phase}_speedup")
            if name != BASELINE and speedup is not None:
                found[f"{phase} speed-up over {BASELINE}"] = f"{speedup:.2f}x"
    return found
