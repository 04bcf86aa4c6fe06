"""What every stage shares: log lines, progress, device and seeds."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import transformers
from tqdm import tqdm

from pipeline.common.ranks import is_main_process

_LOGGER = logging.getLogger("pipeline")
_Item = TypeVar("_Item")


class _StdoutHandler(logging.Handler):
    """Write lines to what is stdout at that time, above a progress bar if one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


if not _LOGGER.handlers:
    _LOGGER.addHandler(_StdoutHandler())
    _LOGGER.setLevel(logging.INFO)


def log(stage: str, text: str) -> None:
    """Log a line of a stage; it is seen at once, also through a pipe.

    Of several processes of a stage, one logs.
    """
    if is_main_process():
        _LOGGER.info("[%s] %s", stage, text)


def note(text: str) -> None:
    """Log a line of the stage prepare on how it reads the data; it belongs in the data card too."""
    _LOGGER.info("[prepare] %s", text, extra={"note": text})


@contextmanager
def collect_notes() -> Iterator[list[str]]:
    """Collect what `note` logs meanwhile, each text once."""
    notes: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = getattr(record, "note", None)
            if text is not None and text not in notes:
                notes.append(text)

    collector = Collector()
    _LOGGER.addHandler(collector)
    try:
        yield notes
    finally:
        _LOGGER.removeHandler(collector)


class Progress:
    """A progress bar in a terminal; through a pipe, a line every few seconds.

    Args:
        stage: name, and method if there is one.
        steps: their number; 0 if it is not known.
        every: seconds between lines.
        unit: what is counted.
    """

    def __init__(self, stage: str, steps: int, *, every: float = 5.0, unit: str = "step") -> None:
        self.stage, self.steps, self.every, self.unit = stage, steps, every, unit
        self.start = self.last = time.monotonic()
        self.bar: tqdm[None] | None = None

    def __call__(self, step: int, **values: float) -> None:
        """Show the step that has been reached, with what was measured and the time left."""
        if not is_main_process():
            return
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if sys.stdout.isatty():
            self._show(step, shown)
            return
        now = time.monotonic()
        if now - self.last < self.every and step < self.steps:
            return
        self.last = now
        left = (now - self.start) / max(step, 1) * (self.steps - step)
        parts = (f"{self.unit} {step}/{self.steps}", shown, f"{left:.0f} s left")
        log(self.stage, "  ".join(filter(None, parts)))

    def track(self, items: Sequence[_Item]) -> Iterator[_Item]:
        """Yield items, and show after each how many are done, but for the last: a result follows.

        A bar in a terminal disappears at the end.
        """
        try:
            for done, item in enumerate(items):
                if done:
                    self(done)
                yield item
        finally:
            if self.bar is not None:
                self.bar.leave = False
                self.bar.close()

    def count(self, done: int, unit: str) -> None:
        """Show how many units have been processed, where their total is not known."""
        if sys.stdout.isatty():
            self._show(done, unit)
            return
        now = time.monotonic()
        if now - self.last >= self.every:
            self.last = now
            log(self.stage, f"{done:,} {unit}")

    def close(self) -> None:
        """Leave the bar as it is, also before the last step."""
        if self.bar is not None:
            self.bar.close()

    def _show(self, done: int, text: str) -> None:
        if self.bar is None:
            self.bar = tqdm(
                total=self.steps or None, desc=f"[{self.stage}]", file=sys.stdout, mininterval=0.1
            )
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(done - self.bar.n)
        if self.steps and done >= self.steps:
            self.bar.close()


def find_device() -> torch.device:
    """Return the accelerator (CUDA, MPS, XPU), or the CPU if there is none."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if accelerator is None else accelerator


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch.

    On a CPU the same seed gives the same bytes. On a GPU some kernels add in an order that
    varies, and results differ in the last digits.
    """
    transformers.set_seed(seed)
