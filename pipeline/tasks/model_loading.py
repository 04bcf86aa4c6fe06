"""Load models and tokenizers: a built-in model, a folder, or an id on the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from pipeline.common.errors import ConfigError
from pipeline.common.hub_access import CLIENT_ERRORS, Repository, open_repository
from pipeline.common.params import ModelSection, ModelSource
from pipeline.common.text import join_lines
from pipeline.tasks import labels
from pipeline.tasks.base import Task
from pipeline.tasks.model_files import find_folder

# Numbered blocks and embeddings hold what was pretrained: a checkpoint without them is damaged.
_PRETRAINED = re.compile(r"\.\d+\.|(^|\.)(embeddings|embed_tokens|wte|wpe|shared)\.")
# What the libraries raise for a missing, unreachable, damaged or unsupported model. Others, such as
# TypeError or KeyError, are bugs and keep their traceback. An ImportError names a missing package.
_FAILURES = (*CLIENT_ERRORS, ImportError, SafetensorError)
_SMALL = ["*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken"]


def load_config(section: ModelSource) -> PretrainedConfig:
    """Load the model's configuration.

    Raises:
        ConfigError: as `load_model`.
    """
    return _load(AutoConfig, section.name, section.revision)


def _find_revision(section: ModelSource, task: Task) -> str | None:
    """Return the commit that the rows were prepared with, or else what params.yaml names."""
    model = task.card.model
    return (model.revision if model.name == section.name else None) or section.revision


def load_processor(section: ModelSource, task: Task) -> Any:
    """Load the tokenizer of the model, or the image processor where rows are images.

    A tokenizer without a padding token, as many decoders have, pads with its EOS token. Padding is
    on the right, where it shifts no token: some models count positions from the left, whatever
    the attention mask.

    Raises:
        ConfigError: it does not exist, can't be reached, is damaged, or has no token to pad with.
    """
    revision = _find_revision(section, task)
    processor = _load(task.processor_class, section.name, revision, **task.processor_options)
    if task.processor_class is AutoTokenizer:
        processor.padding_side = "right"
        # How it was loaded is saved otherwise, and an offline run would differ from an online one.
        for key in ("is_local", "local_files_only"):
            processor.init_kwargs.pop(key, None)
        if processor.pad_token_id is None:
            if processor.eos_token_id is None:
                raise ConfigError(
                    f"model.name {section.name} has a tokenizer without padding token"
                )
            processor.pad_token = processor.eos_token
    return processor


def build_empty_model(section: ModelSource, task: Task, config: PretrainedConfig) -> Any:
    """Build the model that `load_model` would load, without weights: on the meta device.

    Raises:
        ConfigError: transformers can't build it.
    """
    with _shorten_errors(section.name), torch.device("meta"):
        return task.model_class.from_config(deepcopy(config))


def load_model(section: ModelSection, task: Task, seed: int) -> tuple[PreTrainedModel, list[str]]:
    """Load the pretrained model with a head for the task, on the CPU.

    The same seed gives the same new weights. A trained head of other classes, or of classes in
    another order, is replaced by a new one.

    Returns:
        The model, and the names of the modules to train and save completely: the head, and others
        that the checkpoint has no weights for.

    Raises:
        ConfigError: it does not exist, can't be reached, is damaged or not supported.
    """
    options = task.make_model_options()
    # The checkpoint's own names are compared with these, unless their numbers differ.
    names: dict[str, Any] = {k: options.pop(k) for k in ("id2label", "label2id") if k in options}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, info = _load(
            task.model_class,
            section.name,
            _find_revision(section, task),
            dtype=choose_dtype(section.dtype),
            ignore_mismatched_sizes=True,  # of a head for another number of classes
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        new_keys = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
        head = find_head_modules(model, new_keys) if task.new_head else []
        if names:
            _fit_head(model, head, names, new_keys)
    damaged = sorted(key for key in new_keys if _PRETRAINED.search(key))
    if damaged:
        raise ConfigError(
            f"model.name {section.name} has no fitting weights for {damaged[0]} "
            f"and {len(damaged) - 1} more; the file is damaged or of another model"
        )
    if new_keys and not task.new_head:
        raise ConfigError(
            f"model.name {section.name} has no weights for {min(new_keys)}, and {task.describe()} "
            "trains no head; take a checkpoint with its language head"
        )
    _set_padding(model, section, task)
    return model, head


def _fit_head(
    model: PreTrainedModel, head: list[str], names: dict[str, Any], new_keys: Set[str]
) -> None:
    """Give a head that was trained for other classes new weights, and set the classes' names."""
    classes, trained = list(names["id2label"].values()), list(model.config.id2label.values())
    is_new = any(key.startswith(tuple(f"{name}." for name in head)) for key in new_keys)
    if not is_new and labels.order_like(classes, trained) != classes:
        for name in head:
            for part in model.get_submodule(name).modules():
                for unit in (part, *part.parameters(recurse=False)):
                    unit._is_hf_initialized = False
        model.initialize_weights()  # of what is not marked as initialized
    model.config.update(names)


def _set_padding(model: PreTrainedModel, section: ModelSection, task: Task) -> None:
    """Set the padding token of the model, and disable its cache for training."""
    config = model.config.get_text_config()
    # A head on the last token, `score`, finds the last token that is not the configuration's
    # padding token, which may differ from the one that the tokenizer pads with.
    must_set = getattr(config, "pad_token_id", None) is None or hasattr(model, "score")
    if task.processor_class is AutoTokenizer and must_set:
        config.pad_token_id = load_processor(section, task).pad_token_id
    if hasattr(config, "use_cache"):
        config.use_cache = False


def find_head_modules(model: PreTrainedModel, new_keys: Set[str]) -> list[str]:
    """Return the names of the modules to train and save completely.

    These are the modules outside the pretrained body, and the largest ones whose weights are all
    in `new_keys`.
    """
    heads: list[str] = []
    for name, module in model.named_modules():
        in_head = any(name.startswith(f"{head}.") for head in heads)
        weights = {f"{name}.{key}" for key, _ in module.named_parameters()}
        outside_body = "." not in name and name != model.base_model_prefix
        if name and weights and not in_head and (outside_body or weights <= new_keys):
            heads.append(name)
    return heads


def _load(auto: Any, name: str, revision: str | None, **options: Any) -> Any:
    """Load from a folder or from the Hub."""
    folder = find_folder(name)
    if folder is not None and revision is not None:
        raise ConfigError(
            f"model.revision must be auto for model.name {name}, which is no model of the Hub, "
            f"got {revision}"
        )
    if folder is not None:
        return _call_from_pretrained(auto, name, folder, **options)
    repository = Repository(
        repo_type="model", name=name, revision=revision, setting=f"model.name {name}"
    )
    local = "use model.name: minilm or smollm2, give the path of a folder"
    with open_repository(repository, local=local) as access, _silence_transformers():
        commit = access.commit
        if access.failure is None:
            # transformers goes on without a small file that it can't download.
            small = snapshot_download(name, revision=revision or "main", allow_patterns=_SMALL)
            commit = Path(small).name
        return _call_from_pretrained(
            auto, name, name, revision=commit or revision or "main", **options
        )


def _call_from_pretrained(auto: Any, name: str, source: str | Path, **options: Any) -> Any:
    with _shorten_errors(name):
        return auto.from_pretrained(source, trust_remote_code=False, **options)


@contextmanager
def _shorten_errors(name: str) -> Iterator[None]:
    """Call transformers without progress bars or reports; put an error in one line."""
    with _silence_transformers():
        try:
            yield
        except _FAILURES as error:
            raise ConfigError(f"model.name {name} can't be loaded: {join_lines(error)}") from error


def choose_dtype(name: str) -> torch.dtype:
    """Return the type of weights that `model.dtype` stands for on this machine.

    Raises:
        ConfigError: float16 without a GPU.
    """
    has_gpu = torch.cuda.is_available()
    if name == "float16" and not has_gpu:
        raise ConfigError("model.dtype: float16 needs a GPU; take float32 or bfloat16")
    if name == "auto":
        name = "bfloat16" if has_gpu and torch.cuda.is_bf16_supported() else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(name, torch.float16)


@contextmanager
def _silence_transformers() -> Iterator[None]:
    """Hide progress bars and the report of new weights: they are expected, and returned."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
