"""Result of the estimation: the importance of every unit, and the weights that it trained."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor

from lightpeft.core.errors import ScoresError
from lightpeft.core.names import SCORES, WEIGHTS
from lightpeft.core.peft_settings import get_peft_type, read_peft_config
from lightpeft.core.reading import read_bytes
from lightpeft.core.scores_file import SCORES_FORMAT, read_scores_file
from lightpeft.core.serialization import replace_directory, write_digests, write_json
from lightpeft.core.shape import ModelShape
from lightpeft.core.tensors import check_finite, read_tensors, write_tensors

CRITERIA = ("mask", "taylor", "magnitude", "energy")
CURVE_COLUMNS = (
    "step",
    "task_loss",
    "head_movement",
    "head_movement_max",
    "neuron_movement",
    "neuron_movement_max",
)
OVERLAP_COLUMNS = ("heads_overlap", "neurons_overlap")


@dataclass(frozen=True, kw_only=True, repr=False)
class Scores:
    """The result of `lightpeft.estimate`: non-negative scores, the higher the more important.

    Attributes:
        shape: of the unpruned model.
        fingerprint: of the unpruned model's weights; prefixed `quantized-` if they were quantized.
        peft: the PEFT method that was attached.
        layers: path of a stack of layers -> float32 scores, shape `(layers,)`; of the stacks with
            prunable layers.
        heads: criterion -> attention block path -> float32 scores, shape `(query heads,)`.
        neurons: criterion -> feed-forward block path -> float32 scores, shape `(neurons,)`.
        modules: path of the linear that a PEFT module sits on -> its importance.
        ranks: the same paths -> float32 scores, shape `(r,)`.
        adapter: PEFT weights and task head as the estimation trained them, under peft's names.
        curve: a row per measured step, with the columns of `CURVE_COLUMNS`: the loss, and mean and
            largest distance of the masks from 1. If the estimation could stop early, with those of
            `OVERLAP_COLUMNS` where it was checked: the fraction of the units to prune that were so
            at the check before, NaN in other rows once the scores are loaded.
        steps: optimizer steps that were done, one batch each.

    Example:
        >>> scores
        Scores(bert: 8 heads, 128 neurons, 12 PEFT modules of rank 4, after 4 steps)
        >>> scores.save(folder / "estimate")
        >>> lightpeft.Scores.load(folder / "estimate").digest == scores.digest
        True
    """

    shape: ModelShape
    fingerprint: str
    peft: PeftConfig
    layers: dict[str, Tensor]
    heads: dict[str, dict[str, Tensor]]
    neurons: dict[str, dict[str, Tensor]]
    modules: dict[str, float]
    ranks: dict[str, Tensor]
    adapter: dict[str, Tensor]
    curve: list[dict[str, float]]
    steps: int

    def __post_init__(self) -> None:
        for group, blocks in (("heads", self.shape.heads), ("neurons", self.shape.neurons)):
            for criterion in CRITERIA:
                rows = getattr(self, group).get(criterion, {})
                if {block: tuple(row.shape) for block, row in rows.items()} != {
                    block: (units,) for block, units in blocks.items()
                }:
                    raise ScoresError(f"the {criterion} scores of {group} are not of this model")
        stacks = {stack.path: (stack.layers,) for stack in self.shape.stacks if stack.prunable}
        if {path: tuple(row.shape) for path, row in self.layers.items()} != stacks:
            raise ScoresError("the scores of layers are not of this model")
        if not self.modules or self.modules.keys() != self.ranks.keys():
            raise ScoresError("the scores of PEFT modules and of their ranks must have one set")
        if any(tuple(row.shape) != (self.peft.r,) for row in self.ranks.values()):
            raise ScoresError(f"the scores of ranks must have shape ({self.peft.r},)")
        for name, tensor in self._collect_tensors().items():
            if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
                raise ScoresError(f"the score {name} is not a number; estimate again")
        check_finite(self.adapter, ScoresError, "the estimation's weight ")

    def __repr__(self) -> str:
        return (
            f"Scores({self.shape.model_type}: {sum(self.shape.heads.values()):,} heads, "
            f"{sum(self.shape.neurons.values()):,} neurons, {len(self.modules)} PEFT modules of "
            f"rank {self.peft.r}, after {self.steps} steps)"
        )

    @property
    def peft_type(self) -> str:
        """The PEFT method, as a plan has it."""
        return get_peft_type(self.peft)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with any score or trained weight."""
        digest = hashlib.sha256(self.fingerprint.encode())
        for name, tensor in sorted((self._collect_tensors() | self.adapter).items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write scores, curve and adapter; stock peft can load the folder as an adapter."""
        meta = {
            "format": SCORES_FORMAT,
            "fingerprint": self.fingerprint,
            "digest": self.digest,
            "steps": self.steps,
            "modules": self.modules,
            "shape": asdict(self.shape),
        }
        tensors = self._collect_tensors()
        del tensors["modules"]  # scores.json has them
        with replace_directory(folder) as temporary:
            write_tensors(temporary / "scores.safetensors", tensors)
            write_tensors(temporary / WEIGHTS, self.adapter)
            self.peft.save_pretrained(temporary)
            with (temporary / "curve.csv").open("w", encoding="utf-8", newline="") as file:
                columns = _list_curve_columns(self.curve)
                writer = csv.DictWriter(file, columns, restval=math.nan, lineterminator="\n")
                writer.writeheader()
                writer.writerows(self.curve)
            write_json(temporary / SCORES, meta)
            write_digests(temporary)

    @classmethod
    def load(cls, folder: Path) -> Scores:
        """Read what `save` wrote.

        Raises:
            ScoresError: a file is missing, damaged, or of another estimation.
        """
        file = read_scores_file(folder)
        groups: dict[str, Any] = {"layers": {}, "heads": {}, "neurons": {}, "ranks": {}}
        for name, tensor in read_tensors(folder / "scores.safetensors", ScoresError).items():
            group, _, rest = name.partition("/")
            if group in ("layers", "ranks"):
                groups[group][rest] = tensor
            elif group in groups:
                criterion, _, path = rest.partition("/")
                groups[group].setdefault(criterion, {})[path] = tensor
        try:
            scores = cls(
                shape=file.shape,
                fingerprint=file.fingerprint,
                peft=read_peft_config(folder, ScoresError),
                modules=file.modules,
                adapter=read_tensors(folder / WEIGHTS, ScoresError),
                curve=_read_curve(folder / "curve.csv"),
                steps=file.steps,
                **groups,
            )
        except ScoresError as error:
            raise ScoresError(f"{folder}: {error}") from error
        if scores.digest != file.digest:
            raise ScoresError(f"the tensors in {folder} are not of scores.json beside them")
        return scores

    def _collect_tensors(self) -> dict[str, Tensor]:
        tensors = {f"ranks/{path}": tensor for path, tensor in self.ranks.items()}
        tensors |= {f"layers/{path}": tensor for path, tensor in self.layers.items()}
        for group, criteria in (("heads", self.heads), ("neurons", self.neurons)):
            for criterion, blocks in criteria.items():
                tensors |= {f"{group}/{criterion}/{path}": t for path, t in blocks.items()}
        tensors["modules"] = torch.tensor([self.modules[n] for n in sorted(self.modules)])
        return tensors


def _list_curve_columns(curve: list[dict[str, float]]) -> tuple[str, ...]:
    """Return the columns of a curve; those of overlaps only if there are any."""
    has_overlaps = any(OVERLAP_COLUMNS[0] in row for row in curve)
    return CURVE_COLUMNS + OVERLAP_COLUMNS if has_overlaps else CURVE_COLUMNS


def _read_curve(path: Path) -> list[dict[str, float]]:
    text = io.StringIO(read_bytes(path, ScoresError).decode(errors="replace"), newline="")
    try:
        rows = csv.DictReader(text, strict=True)
        columns = tuple(rows.fieldnames or ())
        if columns not in (CURVE_COLUMNS, CURVE_COLUMNS + OVERLAP_COLUMNS):
            raise ValueError("its columns are others")
        return [{str(key): float(cell) for key, cell in row.items()} for row in rows]
    except (ValueError, TypeError, csv.Error) as error:  # an empty file, a cell too few or too many
        raise ScoresError(f"{path.name} is damaged: {error}") from error
