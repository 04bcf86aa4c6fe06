"""Jobs of experiments.gpu with tiny models, in a process of their own."""

from __future__ import annotations

from multiprocessing.connection import Connection

from helpers.tiny_shapes import make_tiny_shape

from experiments.gpu_groups import Job
from experiments.gpu_measure import run_job
from experiments.gpu_models import Case
from lightpeft.benchmark.model_sizes import MODEL_SIZES

CASES = {name: Case(name, 2, 8) for name in ("minilm", "llama-3-8b")}


def run_tiny_job(job: Job, device: str, rounds: int, connection: Connection) -> None:
    """Measure a job of tiny models."""
    for name in CASES:
        MODEL_SIZES[name] = make_tiny_shape(name)
    run_job(job, device, rounds, connection)
