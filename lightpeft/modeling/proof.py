"""Prove on a small model that what was found by structure can be pruned; remember the result."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from lightpeft.core.block_shape import KEPT_WHOLE, AttentionBlock, find_layer, find_stack
from lightpeft.core.errors import LightPeftError, ModelError
from lightpeft.core.reading import read_json
from lightpeft.core.serialization import write_json
from lightpeft.core.shape import ModelShape
from lightpeft.modeling.blocks import mask_numbers
from lightpeft.modeling.equivalence import find_difference, find_unused
from lightpeft.modeling.families import KV_SHARING
from lightpeft.modeling.small_model import Batch, build_small_models, make_batches, shrink_config
from lightpeft.modeling.structure import Reading

_LOGGER = logging.getLogger(__name__)
_PATIENCE = 10.0  # seconds
_PROVED = "(proved on a small model)"


def prove_reading(model: PreTrainedModel) -> Reading:
    """Match a model of a type that is not registered, and prove the reading on a small model.

    Pruned must equal masked for a model of the same class and structure. The result, also that
    they differ, is kept in `$XDG_CACHE_HOME/lightpeft` (`~/.cache/lightpeft`), by the class, the
    small model's config, and the code of lightpeft and of the class.

    Raises:
        ModelError: nothing can be matched, or the proof failed; one line that says why.
    """
    layers = count_needed_layers(model)
    path = _make_cache_path(model, layers)
    try:
        result = read_json(path, LightPeftError)
        reading = Reading(**result["reading"]) if "reading" in result else None
    except (LightPeftError, TypeError):  # none, or damaged: it is proved again
        reading, result = None, {}
    if not result:
        with (
            warnings.catch_warnings(),
            torch.random.fork_rng(devices=[]),
            torch.device("cpu"),
            _tell_if_slow(model.config.model_type),
        ):
            warnings.simplefilter("ignore")
            try:
                reading, blocks = _find_reading(model, layers)
                result = {"reading": asdict(reading), "blocks": blocks}
            except ModelError as error:
                result = {"refused": str(error)}
        # A model that could not be built or run now, for lack of memory or so, may be another time.
        if reading is not None or _PROVED in result["refused"]:
            with suppress(OSError):  # a folder that can't be written: it is proved again next time
                write_json(path, result)
    try:
        if reading is None:
            raise ModelError(result["refused"])
        if _describe_blocks(reading.read(model)) != result["blocks"]:
            raise ModelError("its blocks are not those of the small model that was proved")
    except ModelError as error:
        raise ModelError(
            f"model type {model.config.model_type!r} can't be pruned: {error}"
        ) from None
    return reading


@contextmanager
def _tell_if_slow(model_type: str) -> Iterator[None]:
    """Log what takes so long, if it does; a terminal shows it."""
    text = "proving that %s can be pruned: takes a minute or more, once for this class and config"
    timer = threading.Timer(_PATIENCE, _LOGGER.warning, (text, model_type))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _find_reading(model: PreTrainedModel, layers: int) -> tuple[Reading, list[str]]:
    """Return the first reading that a small model proves, and its kinds of blocks."""
    reasons: list[str] = []
    for small in build_small_models(model, layers=layers):
        batch, reached = _find_batch(small)
        if not batch:
            reasons.append(f"a small model of its class does not run: {reached[0]}")
            continue
        start = _skip_unused(small, batch, reached)
        if _describe_blocks(start.read(model)) != _describe_blocks(start.read(small)):
            reasons.append("a small model of its class has other blocks")
            continue
        seen: list[Any] = []
        reasons.clear()
        for reading in start.list_alternatives():
            shape = reading.read(small)
            if shape.blocks not in seen:
                seen.append(shape.blocks)
                difference = find_difference(small, shape, batch)
                if difference is None:
                    reading = _keep_layers_unless_proved(reading, small, batch, start.read(model))
                    return reading, _describe_blocks(shape)
                reasons.append(f"{difference} {_PROVED}")
        break
    raise ModelError(reasons[0])


def _keep_layers_unless_proved(
    reading: Reading, small: PreTrainedModel, batch: Batch, full: ModelShape
) -> Reading:
    """Return a reading that prunes no layers if the small model fails without one, or can't try."""
    shape = reading.read(small)
    tried = {stack.path for stack in shape.stacks if stack.prunable}
    needed = {stack.path for stack in full.stacks if stack.prunable}
    if not needed:
        return reading
    why = "a small model of its class has no two such layers"
    if needed <= tried:
        difference = find_difference(small, shape, batch, layers=True)
        why = f"{difference} {_PROVED}" if difference else ""
    return replace(reading, keeps_layers=why)


def _skip_unused(model: PreTrainedModel, batch: Batch, reached: list[str]) -> Reading:
    """Return a reading without what a batch does not go through: a vision tower, an encoder."""
    stacks = {find_stack(path) for path, _ in model.named_parameters() if find_layer(path)}
    shares = bool(getattr(model.config.get_text_config(), KV_SHARING, 0))
    reading = Reading(keeps_heads=shares, skipped=tuple(sorted(stacks - set(reached))))
    shape = reading.read(model)
    unused = find_unused(model, shape, batch)
    used = {mask_numbers(block.path) for block in shape.blocks if block.path not in unused}
    skipped = {mask_numbers(path) for path in unused} - used
    reading = replace(reading, skipped=(*reading.skipped, *sorted(skipped)))
    shape = reading.read(model)
    rules = {block.head_count_rule for block in shape.attention_blocks}
    if not shape.neurons and rules <= {KEPT_WHOLE}:
        raise ModelError("its heads can't be cut exactly, and it has no neurons outside experts")
    return reading


def _find_batch(model: PreTrainedModel) -> tuple[Batch, list[str]]:
    """Return inputs that the model takes, and the stacks of layers that they go through."""
    reasons: list[str] = []
    for batch in make_batches(model):
        reached: set[str] = set()
        handles = [
            module.register_forward_pre_hook(_add_to(reached, find_stack(path)))
            for path, module in model.named_modules()
            if find_layer(path) == path
        ]
        try:
            with torch.no_grad():
                model(**batch)
            return batch, sorted(reached)
        except Exception as error:  # whatever the model's code raises
            reasons.append(" ".join(str(error).split())[:150])
        finally:
            for handle in handles:
                handle.remove()
    return {}, reasons


def _add_to(names: set[str], name: str) -> Any:
    return lambda *_: names.add(name)


def count_needed_layers(model: PreTrainedModel) -> int:
    """Return how many layers of each stack show all kinds of layers that the model has."""
    stacks: dict[str, dict[str, set[str]]] = {}
    for path, weight in model.named_parameters():
        layer = find_layer(path)
        if layer:
            kinds = stacks.setdefault(find_stack(path), {}).setdefault(layer, set())
            kinds.add(f"{path.removeprefix(layer)} {weight.dim()}")
    needed = 2
    for layers in stacks.values():
        listed = [x for x in _find_lists(model.config.to_dict()) if len(x) == len(layers)]
        seen: list[Any] = []
        for index, names in enumerate(layers.values()):
            kind = (names, [values[index] for values in listed])
            if kind not in seen:
                seen.append(kind)
                needed = max(needed, index + 1)
    return needed


def _find_lists(values: dict[str, Any]) -> Iterator[list[str]]:
    """Yield all lists of names in a config, such as `layer_types`."""
    for value in values.values():
        if isinstance(value, dict):
            yield from _find_lists(value)
        elif isinstance(value, list) and value and all(isinstance(x, str) for x in value):
            yield value


def _describe_blocks(shape: ModelShape) -> list[str]:
    """Return the kinds of blocks of a model, without numbers of layers and sizes."""
    kinds = set()
    for block in shape.blocks:
        linears = [
            f"{path.removeprefix(block.path)} {'+'.join(linear.segments)} {linear.bias}"
            for path, linear in block.linears.items()
        ]
        rule = block.head_count_rule if isinstance(block, AttentionBlock) else ""
        text = (
            f"{block.kind} {block.path} {rule} {block.heads_per_kv_group > 1} {', '.join(linears)}"
        )
        kinds.add(mask_numbers(text))
    return sorted(kinds)


def _make_cache_path(model: PreTrainedModel, layers: int) -> Path:
    kind, config = type(model), model.config
    with suppress(Exception):  # sizes that its class refuses: the proof will say it
        config = shrink_config(config, layers=layers)
    key = [
        f"{kind.__module__}.{kind.__qualname__}",
        _hash_code(inspect.getsourcefile(kind) or ""),
        transformers.__version__,
        str(getattr(model.config, "_attn_implementation", "")),
        config.to_dict() | {"label2id": {}, "id2label": len(config.id2label or ())},
    ]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "lightpeft" / f"{model.config.model_type}-{digest[:16]}.json"


@cache
def _hash_code(source: str) -> str:
    """Return a digest of the code of lightpeft, and of a model's class."""
    digest = hashlib.sha256()
    for file in (*sorted(Path(__file__).parents[1].rglob("*.py")), Path(source)):
        with suppress(OSError):  # a class made in an interactive session has no file
            digest.update(file.read_bytes())
    return digest.hexdigest()
