"""Load the base model of a result: the class and the labels that its adapter was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftConfig
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from lightpeft.core.adapter_layout import find_adapter_file, parse_adapter_key
from lightpeft.core.errors import CheckpointError, LightPeftError, ModelError
from lightpeft.core.names import COMPRESSED_PREFIX, PEFT_PREFIX
from lightpeft.core.peft_settings import read_peft_config
from lightpeft.core.safetensors_header import read_header

# peft's name of a task -> the class that has a head for it.
_AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoModel",
}


@dataclass(frozen=True, kw_only=True)
class BaseModelSource:
    """Where the base model of a result comes from.

    Attributes:
        name: a folder or a Hub id; empty: what adapter_config.json names.
        revision: commit, branch or tag on the hub; empty: the latest.
        model_class: of transformers; empty: by the task that adapter_config.json names, or else
            the class that the base model's config names.
        dtype: of the weights; `auto`: that of the checkpoint.
    """

    name: str = ""
    revision: str = ""
    model_class: str = ""
    dtype: str = "auto"


def load_base_model(result: Path, source: BaseModelSource) -> PreTrainedModel:
    """Load the unpruned base model that a result was made from.

    A head is of the size that the adapter holds, whose weights replace the new ones.

    Args:
        result: written by `save`.
        source: what to load.

    Raises:
        CheckpointError: the result is damaged, or names no base model.
        ModelError: the base model can't be loaded, or its class is unknown.
    """
    adapter = read_peft_config(result, CheckpointError)
    name = source.name or adapter.base_model_name_or_path
    if not name:
        raise CheckpointError(f"{result} names no base model: pass --base")
    where = {"revision": source.revision} if source.revision else {}
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **where)
        model_class = _find_class(source, adapter, config)
        _set_labels(config, model_class, _read_head_shapes(result))
        model: PreTrainedModel = model_class.from_pretrained(
            name,
            config=config,
            dtype=source.dtype,
            ignore_mismatched_sizes=True,  # of a head for other labels
            use_safetensors=True,
            trust_remote_code=False,
            **where,
        )
    except LightPeftError:
        raise
    except Exception as error:  # transformers and safetensors raise whatever they like
        raise ModelError(f"base model {name} can't be loaded: {error}") from error
    return model.eval()


def _find_class(source: BaseModelSource, adapter: PeftConfig, config: PreTrainedConfig) -> Any:
    """Return the class of transformers, an Auto class among them."""
    by_task = _AUTO_CLASSES.get(adapter.task_type or "")
    name = source.model_class or by_task or (config.architectures or [""])[0]
    found = getattr(transformers, name, None)
    if not any(hasattr(found, x) for x in ("from_config", "_from_config")):
        raise ModelError(f"--class must be a model class of transformers, got {name!r}")
    return found


def _read_head_shapes(result: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what the adapter holds in full: the task head."""
    tensors = read_header(result / find_adapter_file(result), CheckpointError).tensors
    return {
        name.removeprefix(PEFT_PREFIX): tensor.shape
        for name, tensor in tensors.items()
        if not parse_adapter_key(name) and not name.startswith(COMPRESSED_PREFIX)
    }


def _set_labels(
    config: PreTrainedConfig, model_class: Any, head: Mapping[str, tuple[int, ...]]
) -> None:
    """Set the number of labels with which a class builds the head that the adapter holds.

    Raises:
        ModelError: there is none.
    """
    build = getattr(model_class, "from_config", None) or model_class._from_config
    counts = [config.num_labels, *sorted({shape[0] for shape in head.values() if shape})]
    for count in counts:
        if count != config.num_labels:
            config.num_labels = count
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            weights = build(config).state_dict()
        if all(name in weights and weights[name].shape == head[name] for name in head):
            return
    raise ModelError(
        f"{model_class.__name__} has no head like that of the adapter, with {min(head)} of shape "
        f"{head[min(head)]}; name the class that was trained as --class"
    )
