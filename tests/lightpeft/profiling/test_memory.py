import os
import signal
import sys
import time
from functools import partial

import pytest
import torch
from helpers.tiny_shapes import LENGTH, make_tiny_shape

from lightpeft.benchmark.model_sizes import MODEL_SIZES
from lightpeft.benchmark.run import BenchmarkConfig, build_method_model
from lightpeft.core.errors import LightPeftError, ModelError
from lightpeft.profiling.memory import can_measure_memory, measure_peak_memory, run_in_subprocess

CPU = torch.device("cpu")
linux_only = pytest.mark.skipif(not can_measure_memory(CPU), reason="Linux only")


@linux_only
def test_peak_memory_of_a_fresh_process_holds_the_weights_and_training_holds_more(monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", ["error"])  # in the process
    config = BenchmarkConfig(shape="minilm", batch_sizes=(4,), length=16)
    make_model = partial(build_method_model, config, "pruned", CPU)

    peak = run_in_subprocess(partial(measure_peak_memory, make_model, config.profiling, device=CPU))

    assert 0.95 < peak.phase_bytes["inference"] / peak.model_bytes < 1.3
    assert peak.phase_bytes["training"] > peak.phase_bytes["inference"]
    assert peak.batch_size == 4


@linux_only
def test_memory_of_a_decoder_is_that_of_its_phases(monkeypatch):
    monkeypatch.setitem(MODEL_SIZES, "opt-1.3b", make_tiny_shape("opt-1.3b"))
    config = BenchmarkConfig(shape="opt-1.3b", batch_sizes=(1, 3), length=LENGTH)
    make_model = partial(build_method_model, config, "pruned", CPU)

    peak = measure_peak_memory(make_model, config.profiling, device=CPU)

    assert list(peak.phase_bytes) == ["training", "prefill", "decode"]


def test_the_fresh_process_has_the_settings_of_the_allocator_and_this_one_keeps_its_own():
    before = dict(os.environ)

    assert run_in_subprocess(partial(os.getenv, "MALLOC_MMAP_THRESHOLD_")) == "65536"
    assert dict(os.environ) == before


def _run_code(text):
    """Return a call that imports no more in the process than it needs."""
    return partial(exec, text)


def test_a_failure_in_the_fresh_process_is_passed_on_as_one_line(monkeypatch):
    refuse = "from lightpeft.core.errors import ModelError; raise ModelError('no such model')"
    with pytest.raises(ModelError, match=r"^no such model$"):
        run_in_subprocess(_run_code(refuse))
    failed = r"^the memory measurement failed: ZeroDivisionError: division by zero$"
    with pytest.raises(LightPeftError, match=failed):
        run_in_subprocess(_run_code(r"raise ZeroDivisionError('division\nby zero')"))
    killed = r"^the memory measurement process was killed \(out of memory\?\)$"
    with pytest.raises(LightPeftError, match=killed):
        run_in_subprocess(partial(signal.raise_signal, signal.SIGKILL))


def test_a_signal_does_not_wait_for_the_fresh_process():
    def stop(number, frame):
        raise SystemExit(143)

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        start = time.monotonic()
        with pytest.raises(SystemExit, match="143"):
            run_in_subprocess(partial(time.sleep, 60))
        assert time.monotonic() - start < 30
    finally:
        signal.signal(signal.SIGALRM, before)
