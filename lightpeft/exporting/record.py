"""What an export is, and what its check has shown: exported.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import TypeAdapter

from lightpeft.core.errors import CheckpointError
from lightpeft.core.reading import check_format, parse_as, read_json
from lightpeft.core.serialization import write_json

ExportFormat = Literal["compact", "lifted", "merged", "stock", "padded", "onnx", "deci"]
FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
# Those that an adapter is in, for the unpruned base model.
ADAPTER_FORMATS = ("compact", "lifted")
# Those that are read without lightpeft, and so checked where it can't be imported.
STOCK_FORMATS = ("lifted", "stock", "padded", "onnx", "deci")
RECORD = "exported.json"
_FORMAT = "lightpeft-export-1"
_REMEDY = "export again"


@dataclass(frozen=True, kw_only=True)
class Compression:
    """What compressing an adapter saves, and what it costs.

    Attributes:
        fraction: of the changes that are kept.
        bytes_before: of the file of the adapter's weights, the task head included.
        bytes_after: of the compressed one.
        max_change: largest difference that compressing makes to an output on the check's batch.
        loss_before: on the batch of `ExportDetails`, if that has labels.
        loss_after: of the compressed adapter.
    """

    fraction: float
    bytes_before: int
    bytes_after: int
    max_change: float
    loss_before: float | None = None
    loss_after: float | None = None

    def __str__(self) -> str:
        text = (
            f"compressed to the largest {100 * self.fraction:.3g} % of the changes: adapter "
            f"{self.bytes_before:,} -> {self.bytes_after:,} bytes, outputs change by up to "
            f"{self.max_change:.3g}"
        )
        if self.loss_before is None or self.loss_after is None:
            return text
        return f"{text}, loss {self.loss_before:.4g} -> {self.loss_after:.4g}"


@dataclass(frozen=True, kw_only=True)
class ExportRecord:
    """What was exported, and how far it computes the same once it is loaded again.

    Attributes:
        to: the format of the export.
        plan: digest of the plan that the model was pruned by.
        model_class: of the model, in transformers.
        max_difference: of an output of the reloaded export, from what was exported.
        largest_output: largest absolute output of what was exported.
        tolerance: the largest difference allowed, as a fraction of `largest_output`.
        without_lightpeft: whether it was loaded in a process that can't import lightpeft.
        versions: of the packages that loaded it.
        compression: of the adapter; None: it is as it was. What is checked is what was compressed.
        notes: what the format has that the model has not, such as zeros.
    """

    to: ExportFormat
    plan: str
    model_class: str
    max_difference: float
    largest_output: float
    tolerance: float
    without_lightpeft: bool
    versions: dict[str, str]
    compression: Compression | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = " without lightpeft" if self.without_lightpeft else ""
        return (
            f"{self.to}: loaded in a fresh process{where}; largest difference of an output "
            f"{self.max_difference:.2g}, of outputs up to {self.largest_output:.3g}; allowed "
            f"{self.tolerance:g} of that"
            + "".join(f"; {x}" for x in (self.compression, *self.notes) if x)
        )

    def write(self, folder: Path) -> None:
        """Write exported.json."""
        write_json(folder / RECORD, {"format": _FORMAT} | asdict(self))

    @classmethod
    def read(cls, folder: Path) -> ExportRecord:
        """Read exported.json.

        Raises:
            CheckpointError: the file is missing, damaged, or of another version of lightpeft.
        """
        path = folder / RECORD
        raw: dict[str, Any] = read_json(path, CheckpointError)
        check_format(path, raw, _FORMAT, CheckpointError, remedy=_REMEDY)
        del raw["format"]
        return parse_as(_IN_FILE, raw, path, CheckpointError)


_IN_FILE = TypeAdapter(ExportRecord)
