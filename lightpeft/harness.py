"""Results as a model of lm-evaluation-harness: `lightpeft lm-eval run --model lightpeft ...`

The harness finds models in its own registry only, so the class is registered before its command
line runs; from Python, importing this module does the same.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel

from lightpeft.core.errors import CheckpointError, ConfigError, ModelError
from lightpeft.core.names import CONFIG
from lightpeft.core.peft_settings import read_peft_config
from lightpeft.exporting.base_model import BaseModelSource, load_base_model
from lightpeft.exporting.load_merged import from_pretrained
from lightpeft.pruning.checkpoint import load


@register_model("lightpeft")
class LightPeftLM(HFLM):  # type: ignore[misc]  # the harness has no types
    """A pruned model with its adapter, or one that was exported as merged.

    Args:
        path: folder of `lightpeft.save`, or of `lightpeft.export` in the format merged.
        base: name or folder of the unpruned base model; empty: what the result names.
        revision: of the base model on the hub.
        tokenizer: name or folder; None: that of the base model, or of the exported one.
        device: such as cuda; None: the accelerator, or the CPU if there is none.
        dtype: of the weights; `auto`: that of the checkpoint.
        options: of the harness's own model `hf`.

    Raises:
        LightPeftError: a file is missing or damaged, the base model is another one, or it is no
            language model.
    """

    def __init__(
        self,
        path: str = "",
        base: str = "",
        revision: str = "",
        tokenizer: str | None = None,
        device: str | None = None,
        dtype: str = "auto",
        **options: Any,
    ) -> None:
        if not path:
            raise ConfigError("--model lightpeft needs --model_args path=RESULT")
        source = BaseModelSource(name=base, revision=revision, dtype=dtype)
        model, name = _load(Path(path), source)
        if not model.can_generate():
            raise ModelError(f"{path} is a {type(model).__name__}, which computes no next token")
        target = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
        options = {"tokenizer": tokenizer or name, "revision": revision or "main"} | options
        super().__init__(pretrained=model.to(target), **options)


def _load(path: Path, source: BaseModelSource) -> tuple[PreTrainedModel, str]:
    """Return a model, and the name of what has its tokenizer."""
    if not (path / CONFIG).exists():
        return from_pretrained(path, dtype=source.dtype), str(path)
    name = source.name or read_peft_config(path, CheckpointError).base_model_name_or_path or ""
    base = load_base_model(path, source)
    return load(base, path).get_base_model(), name


def main(arguments: Sequence[str]) -> None:
    """Run the command line of the harness, which has the model `lightpeft` too."""
    sys.argv = ["lightpeft lm-eval", *arguments]
    cli_evaluate()
