"""What every stage shares: progress, device and seeds."""

from __future__ import annotations

import time

import torch
import transformers


def say(stage: str, text: str) -> None:
    """Print a line of progress without buffering, also through a pipe."""
    print(f"[{stage}] {text}", flush=True)


class Progress:
    """Prints a line every few seconds: stage, step, measured values, time left.

    If the number of steps is not known, `count` prints how many are done.
    """

    def __init__(self, stage: str, steps: int, every: float = 5.0) -> None:
        self.stage, self.steps, self.every = stage, steps, every
        self.start = self.last = time.monotonic()

    def __call__(self, step: int, **values: float) -> None:
        now = time.monotonic()
        if now - self.last < self.every and step < self.steps:
            return
        self.last = now
        left = (now - self.start) / max(step, 1) * (self.steps - step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        say(self.stage, f"step {step}/{self.steps}  {shown}  {left:.0f} s left")

    def count(self, done: int, what: str) -> None:
        """Print that `done` items of `what` are done, if the last line is some seconds old."""
        now = time.monotonic()
        if now - self.last >= self.every:
            self.last = now
            say(self.stage, f"{done:,} {what}")


def device() -> torch.device:
    """Return the accelerator (CUDA, MPS, XPU), or the CPU if there is none."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if accelerator is None else accelerator


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    transformers.set_seed(seed)
