"""Where each stage reads and writes: the file names of dvc.yaml, and no others."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """Files and folders of one run of the pipeline.

    Attributes:
        root: folder with params.yaml; the current folder when stages run under DVC.
    """

    root: Path = Path()

    @property
    def params(self) -> Path:
        """Settings of all stages."""
        return self.root / "params.yaml"

    @property
    def prepared(self) -> Path:
        """Encoded rows, tokenizer and data card."""
        return self.root / "data" / "prepared"

    @property
    def scores(self) -> Path:
        """Importance scores and warm weights."""
        return self.root / "artifacts" / "estimate"

    @property
    def estimate_timing(self) -> Path:
        """Duration of the estimation; apart from the scores, which repeat to the byte."""
        return self.root / "artifacts" / "timing" / "estimate.json"

    def locate_plan(self, method: str) -> Path:
        """Return the pruning plan of a method."""
        return self._locate_plans(method) / "plan.json"

    def locate_unpruned(self, method: str) -> Path:
        """Return what a method without a plan trains."""
        return self._locate_plans(method) / "unpruned.json"

    def locate_cost(self, method: str) -> Path:
        """Return the parameters and FLOPs of a method's plan."""
        return self._locate_plans(method) / "cost.json"

    def locate_latency(self, method: str) -> Path:
        """Return the latency table that a method's plan was made by, if it was."""
        return self._locate_plans(method) / "latency.json"

    def locate_model(self, method: str) -> Path:
        """Return the folder of a method's trained adapter and training curve."""
        return self.root / "artifacts" / "models" / method

    def locate_curve(self, method: str) -> Path:
        """Return the training curve of a method."""
        return self.locate_model(method) / "curve.csv"

    def locate_timing(self, method: str) -> Path:
        """Return the duration of a method's fine-tuning."""
        return self.root / "artifacts" / "timing" / f"{method}.json"

    def locate_evaluation(self, method: str) -> Path:
        """Return the metrics of a method on the test split."""
        return self._locate_results(method) / "eval.json"

    def locate_predictions(self, method: str) -> Path:
        """Return the predictions of a method for the test split."""
        return self._locate_results(method) / "predictions.csv"

    @property
    def benchmark(self) -> Path:
        """Time and memory of all methods."""
        return self.root / "results" / "benchmark.json"

    @property
    def export(self) -> Path:
        """One method in a form that others load."""
        return self.root / "results" / "export"

    @property
    def metrics(self) -> Path:
        """Summary of all methods, the one result that is tracked by Git."""
        return self.root / "metrics.json"

    @property
    def plots(self) -> Path:
        """Plot data and pictures."""
        return self.root / "results" / "plots"

    @property
    def report(self) -> Path:
        """The report page."""
        return self.root / "results" / "report.html"

    def locate_output(self, stage: str, method: str) -> Path:
        """Return the main file or folder that a stage writes, for a method if it runs for each."""
        return {
            "prepare": self.prepared,
            "estimate": self.scores,
            "prune": self._locate_plans(method),
            "finetune": self.locate_model(method),
            "evaluate": self._locate_results(method),
            "benchmark": self.benchmark,
            "report": self.report,
            "export": self.export,
        }[stage]

    def remove_other_methods(self, methods: Iterable[str]) -> None:
        """Remove what former methods left: a stage that depends on all of them would hash it."""
        keep = {*methods, self.estimate_timing.stem}
        for output in (
            self._locate_plans("x"),
            self.locate_model("x"),
            self.locate_timing("x"),
            self._locate_results("x"),
        ):
            for path in output.parent.glob("*"):
                if path.stem in keep:
                    continue
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def _locate_plans(self, method: str) -> Path:
        return self.root / "artifacts" / "plans" / method

    def _locate_results(self, method: str) -> Path:
        return self.root / "results" / "eval" / method
