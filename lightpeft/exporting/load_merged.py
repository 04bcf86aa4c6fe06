"""Load a merged model, whatever its plan keeps: the stock class, sliced before it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from lightpeft.core.errors import CheckpointError, PlanError
from lightpeft.core.names import CONFIG as ADAPTER_CONFIG
from lightpeft.core.names import PLAN
from lightpeft.core.plan import PruningPlan
from lightpeft.core.reading import check_digests, read_json
from lightpeft.exporting.record import RECORD, ExportRecord
from lightpeft.exporting.reload import ONNX_FILE
from lightpeft.modeling.fingerprint import get_in_out_features
from lightpeft.modeling.head_counts import restore_kept_heads
from lightpeft.modeling.slicing import slice_base

_CONFIG = "config.json"
_INDEX = "model.safetensors.index.json"
_REMEDY = "export again"


def from_pretrained(folder: Path | str, **options: Any) -> PreTrainedModel:
    """Load a model that `export` wrote in the format merged.

    The stock class of transformers is built from the config without memory for weights, and sliced
    as the plan says; then transformers loads the weights into it, each onto its device. No code is
    read from the folder, so `trust_remote_code` is not needed. Formats stock and padded are loaded
    as well.

    Args:
        folder: written by `export`; one that is on the hub must be downloaded first, with
            `huggingface_hub.snapshot_download`.
        options: of transformers' `from_pretrained`, such as `dtype`, `device_map`,
            `attn_implementation` and `quantization_config`.

    Returns:
        A plain model of transformers' own class, in evaluation mode.

    Raises:
        CheckpointError: a file is missing or damaged, or the files do not belong together.

    Example:
        >>> _ = lightpeft.export(pruned, folder / "merged")
        >>> merged = lightpeft.from_pretrained(folder / "merged")
        >>> type(merged).__name__
        'BertForSequenceClassification'
        >>> torch.allclose(
        ...     merged(**batches[0]).logits, pruned.eval()(**batches[0]).logits, atol=1e-5
        ... )
        True
    """
    source = Path(folder)
    rest = _read_plan(source).without_layers
    is_padded = (source / RECORD).exists() and ExportRecord.read(source).to == "padded"
    model_class = _find_class(source)
    try:
        pruned_class = model_class if is_padded else _make_pruned_class(model_class, rest)
        model, info = pruned_class.from_pretrained(
            source,
            output_loading_info=True,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            **options,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{source} can't be loaded: {error}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            raise CheckpointError(f"{source} has {problem.replace('_', ' ')}: {min(info[problem])}")
    model.__class__ = model_class
    restore_kept_heads(model, rest)
    loaded: PreTrainedModel = model
    return loaded


def _read_plan(folder: Path) -> PruningPlan:
    """Read the plan of a merged model, and check the files of its folder."""
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder on this machine; if it is an id on the hub, pass what "
            f"huggingface_hub.snapshot_download returns"
        )
    if (folder / ADAPTER_CONFIG).exists():
        raise CheckpointError(
            f"{folder} holds an adapter, not a whole model; pass its base model and it to "
            f"lightpeft.load, or load it with peft if it was exported as lifted"
        )
    if (folder / ONNX_FILE).exists() and not any(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder} holds an ONNX graph, which onnxruntime runs")
    names = (PLAN, *_list_model_files(folder))
    check_digests(folder, names, CheckpointError, remedy=_REMEDY)
    try:
        return PruningPlan.load(folder / PLAN, remedy=_REMEDY)
    except PlanError as error:
        raise CheckpointError(str(error)) from error


def _list_model_files(folder: Path) -> list[str]:
    """Return the names of the files of a model: configs, weights and their index.

    Raises:
        CheckpointError: the index names a file outside the folder.
    """
    names = [name for name in (_CONFIG, "generation_config.json") if (folder / name).exists()]
    if not (folder / _INDEX).exists():
        return [*names, "model.safetensors"]
    shards = read_json(folder / _INDEX, CheckpointError).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{folder / _INDEX} has no weight_map")
    for name in shards.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{folder / _INDEX} names {name!r}, which is no file beside it")
    return [*names, _INDEX, *sorted(set(shards.values()))]


def _find_class(folder: Path) -> type[PreTrainedModel]:
    """Return the class of transformers that a folder's config names."""
    names = read_json(folder / _CONFIG, CheckpointError).get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    found = getattr(transformers, name, None) if isinstance(name, str) else None
    if not isinstance(found, type) or not issubclass(found, PreTrainedModel):
        raise CheckpointError(f"{folder / _CONFIG} names no model class of transformers: {name!r}")
    return found


def _make_pruned_class(model_class: type[PreTrainedModel], plan: PruningPlan) -> Any:
    """Return a subclass whose models are sliced as soon as they are built.

    Args:
        model_class: of transformers.
        plan: without pruned layers, which the config says.
    """

    def build(self: PreTrainedModel, config: Any, *args: Any, **kwargs: Any) -> None:
        model_class.__init__(self, config, *args, **kwargs)
        if not _has_pruned_widths(self, plan):
            with torch.device("cpu"):  # of indices; the weights are on the meta device
                slice_base(self, plan)

    # The name and module are those of the class, by which transformers looks things up.
    names = {"__init__": build, "__module__": model_class.__module__}
    return type(model_class.__name__, (model_class,), names)


def _has_pruned_widths(model: PreTrainedModel, plan: PruningPlan) -> bool:
    """Return whether the config said what the plan keeps, and the model is built so."""
    return all(
        get_in_out_features(model.get_submodule(path)) == plan.compute_pruned_shape(path)
        for path in plan.shape.linears
    )
