"""Recognize what a file or folder is by its names, and read it without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from lightpeft.core.adapter_layout import find_adapter_file
from lightpeft.core.errors import CheckpointError, PlanError
from lightpeft.core.names import (
    COMPRESSED,
    CONFIG,
    DIGESTS,
    EXPANDED_ENTRY,
    PLAN,
    PLAN_ENTRY,
    SCORES,
    WEIGHTS,
)
from lightpeft.core.plan import PruningPlan
from lightpeft.core.reading import check_digests, parse_as, read_bytes, read_json
from lightpeft.core.safetensors_header import SafetensorsHeader, read_header
from lightpeft.core.scores_file import ScoresInFile, read_scores_file
from lightpeft.exporting.record import RECORD, ExportRecord
from lightpeft.exporting.reload import ONNX_FILE

_MODEL_CONFIG = "config.json"
_REMEDY = "make it again with this version"
Kind = Literal[
    "result",
    "compressed result",
    "plan",
    "scores",
    "expanded adapter",
    "adapter",
    "checkpoint",
    "graph",
    "weights",
]


class AdapterConfig(BaseModel):
    """What is shown of adapter_config.json, of any method of peft."""

    model_config = ConfigDict(extra="ignore")
    peft_type: str
    task_type: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    r: int | None = None
    lora_alpha: int | float | None = None
    use_rslora: bool | None = None
    use_dora: bool | None = None
    placement: str | None = None
    non_linearity: str | None = None
    scaling: int | float | None = None
    modules_to_save: list[str] | None = None


class CheckpointConfig(BaseModel):
    """What is shown of a model's config.json."""

    model_config = ConfigDict(extra="ignore")
    model_type: str
    architectures: list[str] | None = None


_ADAPTER = TypeAdapter(AdapterConfig)
_CHECKPOINT = TypeAdapter(CheckpointConfig)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a file or folder holds.

    Attributes:
        kind: what it is.
        path: as it was given.
        plan: of a result, of a plan.json, or beside a checkpoint.
        scores: of a folder of scores.
        adapter: config of an adapter.
        checkpoint: config of a model.
        weights: headers of the files of safetensors.
        export: what was exported, and how it was checked.
        checked: names of the files that have their digests.
    """

    kind: Kind
    path: Path
    plan: PruningPlan | None = None
    scores: ScoresInFile | None = None
    adapter: AdapterConfig | None = None
    checkpoint: CheckpointConfig | None = None
    weights: tuple[SafetensorsHeader, ...] = ()
    export: ExportRecord | None = None
    checked: tuple[str, ...] = ()


def read_contents(path: Path) -> Contents:
    """Read what a file or folder holds, without its base model and without torch.

    Args:
        path: a folder of `lightpeft.save`, `lightpeft.export`, `Scores.save`, `expand_adapter`,
            of peft's or of transformers' `save_pretrained`; a plan.json or its folder; or a file
            of safetensors.

    Raises:
        LightPeftError: it is none of these, or a file is missing or damaged.
    """
    if not path.is_dir():
        return _read_file(path)
    for name, read in (
        (SCORES, _read_scores),
        (CONFIG, _read_adapter),
        (_MODEL_CONFIG, _read_checkpoint),
        (PLAN, _read_plan_folder),
    ):
        if (path / name).exists():
            return read(path)
    if headers := _read_headers(path):
        return Contents(kind="weights", path=path, weights=headers, checked=_check_digests(path))
    names = (CONFIG, PLAN, SCORES, _MODEL_CONFIG)
    raise CheckpointError(f"{path} holds none of {', '.join(names)}, and no safetensors")


def _read_file(path: Path) -> Contents:
    if path.suffix == ".safetensors":
        return Contents(kind="weights", path=path, weights=(read_header(path, CheckpointError),))
    if path.exists() and path.suffix != ".json":
        raise CheckpointError(f"{path} is neither a folder, nor a plan.json, nor safetensors")
    value = read_json(path, CheckpointError)
    if not str(value.get("format")).startswith("lightpeft-plan-"):
        raise CheckpointError(f"{path} is no plan; if it is one file of several, give their folder")
    return Contents(kind="plan", path=path, plan=_read_plan(path))


def _read_plan_folder(folder: Path) -> Contents:
    return Contents(kind="plan", path=folder, plan=_read_plan(folder / PLAN))


def _read_plan(path: Path) -> PruningPlan:
    return PruningPlan.load(path, remedy=_REMEDY)


def _read_scores(folder: Path) -> Contents:
    return Contents(
        kind="scores",
        path=folder,
        scores=read_scores_file(folder),
        adapter=_read_adapter_config(folder),
        weights=_read_headers(folder),
        checked=_list_digested(folder),
    )


def _read_adapter(folder: Path) -> Contents:
    """Read a result, or the adapter of an unpruned model."""
    has_plan, weights = (folder / PLAN).exists(), find_adapter_file(folder)
    if has_plan:
        check_digests(folder, (CONFIG, weights, PLAN), CheckpointError, remedy=_REMEDY)
    elif not (folder / weights).exists():
        found = (folder / "adapter_model.bin").exists()
        hint = "; adapter_model.bin is a pickle, which is not read" if found else ""
        raise CheckpointError(f"{folder} has a {CONFIG} but no {WEIGHTS}{hint}")
    header = read_header(folder / weights, CheckpointError)
    expanded = EXPANDED_ENTRY in header.metadata
    plan = _read_plan(folder / PLAN) if has_plan else None
    pruned_by = header.metadata.get(PLAN_ENTRY)
    if pruned_by != (plan and plan.digest):
        raise PlanError(
            f"{folder / weights} was not saved with the {PLAN} beside it"
            if plan
            else f"{folder / weights} was pruned by the plan {pruned_by}, but there is no {PLAN}"
        )
    kind: Kind = "expanded adapter" if expanded else "adapter"
    if plan:
        kind = "compressed result" if weights == COMPRESSED else "result"
    return Contents(
        kind=kind,
        path=folder,
        plan=plan,
        adapter=_read_adapter_config(folder),
        weights=(header,),
        export=_read_export(folder),
        checked=_check_digests(folder),
    )


def _read_checkpoint(folder: Path) -> Contents:
    raw = read_json(folder / _MODEL_CONFIG, CheckpointError)
    weights = _read_headers(folder)
    is_graph = not weights and (folder / ONNX_FILE).exists()
    if not weights and not is_graph:
        raise CheckpointError(f"{folder} has a {_MODEL_CONFIG}, but no safetensors")
    return Contents(
        kind="graph" if is_graph else "checkpoint",
        path=folder,
        plan=_read_plan(folder / PLAN) if (folder / PLAN).exists() else None,
        checkpoint=parse_as(_CHECKPOINT, raw, folder / _MODEL_CONFIG, CheckpointError),
        weights=weights,
        export=_read_export(folder),
        checked=_check_digests(folder),
    )


def _read_adapter_config(folder: Path) -> AdapterConfig:
    raw: dict[str, Any] = read_json(folder / CONFIG, CheckpointError)
    return parse_as(_ADAPTER, raw, folder / CONFIG, CheckpointError)


def _read_export(folder: Path) -> ExportRecord | None:
    return ExportRecord.read(folder) if (folder / RECORD).exists() else None


def _read_headers(folder: Path) -> tuple[SafetensorsHeader, ...]:
    paths = sorted(folder.glob("*.safetensors"))
    return tuple(read_header(path, CheckpointError) for path in paths)


def _check_digests(folder: Path) -> tuple[str, ...]:
    """Check the files that a folder has digests of, if it has digests."""
    names = _list_digested(folder)
    if names:
        check_digests(folder, names, CheckpointError, remedy=_REMEDY)
    return names


def _list_digested(folder: Path) -> tuple[str, ...]:
    """Return the names in a file of digests; none of them leaves the folder."""
    if not (folder / DIGESTS).exists():
        return ()
    lines = read_bytes(folder / DIGESTS, CheckpointError).decode(errors="replace").splitlines()
    names = tuple(line.partition("  ")[2] for line in lines)
    for name in names:
        if name in ("", "..") or "/" in name or "\\" in name or "\0" in name:
            raise CheckpointError(f"{folder / DIGESTS} must hold names of files, got {name!r}")
    return names
