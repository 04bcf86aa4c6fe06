import pytest
import torch

from pipeline.common.console import device


@pytest.mark.parametrize(
    ("accelerator", "chosen"), [("mps", "mps"), ("xpu", "xpu"), ("cuda", "cuda"), (None, "cpu")]
)
def test_the_accelerator_is_used_where_there_is_one(accelerator, chosen, monkeypatch):
    current = accelerator and torch.device(accelerator)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: current)

    assert device() == torch.device(chosen)
