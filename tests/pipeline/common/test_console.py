import io
import random
import sys

import numpy as np
import pytest
import torch

from lightpeft.benchmark.run import choose_device
from pipeline.common.console import Progress, find_device, log, seed_everything


@pytest.mark.parametrize(
    ("accelerator", "chosen"), [("mps", "mps"), ("xpu", "xpu"), ("cuda", "cuda"), (None, "cpu")]
)
def test_stages_and_benchmark_use_the_accelerator_where_there_is_one(
    accelerator, chosen, monkeypatch
):
    current = accelerator and torch.device(accelerator)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: current)

    assert find_device() == choose_device("auto") == torch.device(chosen)
    assert choose_device("cpu") == torch.device("cpu")


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_log_line_names_its_stage(capsys):
    log("prune light", "7 -> 5 parameters")

    assert capsys.readouterr().out == "[prune light] 7 -> 5 parameters\n"


def test_progress_through_a_pipe_is_a_line_now_and_then_and_at_the_end(capsys):
    progress = Progress("estimate", 3)
    for step in (1, 2, 3):
        progress(step, loss=0.5)

    assert capsys.readouterr().out == "[estimate] step 3/3  loss 0.5  0 s left\n"


def test_progress_in_a_terminal_is_one_bar_and_log_lines_stand_above_it(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    progress = Progress("estimate", 3)
    progress(1, loss=0.5)
    log("estimate", "a line")
    progress(3, loss=0.25)

    lines = terminal.getvalue().split("\n")
    assert len(lines) == 3
    assert lines[0].endswith("[estimate] a line")
    assert "3/3" in lines[1]
    assert "loss 0.25" in lines[1]
    assert lines[2] == ""


def test_tracked_items_are_counted_as_they_are_done(capsys):
    tracked = Progress("evaluate light", 3, every=0, unit="batch").track("abc")

    assert next(tracked) == "a"
    assert capsys.readouterr().out == ""
    assert [*tracked] == ["b", "c"]
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("[evaluate light] batch 1/3  ")
    assert second == "[evaluate light] batch 2/3  0 s left"


def test_items_tracked_in_a_terminal_leave_no_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)

    assert [*Progress("evaluate light", 3).track("abc")] == ["a", "b", "c"]

    assert "[evaluate light]" in terminal.getvalue()
    assert terminal.getvalue().split("\r")[-2].isspace()


def test_counts_of_an_unknown_total_are_shown_as_a_bar_in_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)

    Progress("prepare", 0).count(1200, "rows")

    assert "rows" in terminal.getvalue()


def test_the_same_seed_draws_the_same_numbers_everywhere():
    def draw() -> tuple[float, float, float]:
        seed_everything(3)
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    assert draw() == draw()


def test_seeding_promises_deterministic_kernels_only_if_it_chooses_them():
    seed_everything(3)

    promised = "deterministic" in (seed_everything.__doc__ or "")
    assert promised == torch.are_deterministic_algorithms_enabled()
