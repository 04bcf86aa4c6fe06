"""The command `lightpeft export`: from a result on disk to an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoProcessor
from transformers.utils import cached_file, logging

from lightpeft.core.errors import CheckpointError, ModelError
from lightpeft.exporting.base_model import BaseModelSource, load_base_model
from lightpeft.exporting.card import ExportDetails
from lightpeft.exporting.export import export
from lightpeft.exporting.record import ADAPTER_FORMATS, ExportFormat, ExportRecord
from lightpeft.pruning.checkpoint import load
from lightpeft.pruning.compression import check_fraction

# One of them is there for every tokenizer and image processor.
_PROCESSOR_FILES = (
    *("tokenizer_config.json", "tokenizer.json", "vocab.txt", "vocab.json"),
    *("preprocessor_config.json", "processor_config.json"),
)


def export_result(
    result: Path,
    out: Path,
    to: ExportFormat,
    source: BaseModelSource,
    *,
    license: str = "",
    compress: float | None = None,
) -> ExportRecord:
    """Load a result onto its base model, and export it with the base model's tokenizer.

    Args:
        result: written by `save`.
        out: as `folder` of `export`.
        to: the format.
        source: of the base model.
        license: of the base model, for the model card.
        compress: as in `export`.

    Raises:
        LightPeftError: as `load_base_model`, `load` and `export`.
        OSError: `out` can't be written.
    """
    if compress is not None:
        check_fraction(compress)
    if not result.is_dir():
        raise CheckpointError(f"{result} is no folder of a result")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model: PeftModel = load(load_base_model(result, source), result)
    name = str(model.config._name_or_path)
    details = ExportDetails(
        processor=_load_processor(name, source.revision),
        base="" if Path(name).is_dir() else name,
        revision=source.revision,
        license=license,
    )
    base = load_base_model(result, source) if to in ADAPTER_FORMATS else None
    return export(model, out, format=to, base=base, details=details, compress=compress)


def _load_processor(name: str, revision: str) -> Any:
    """Load the tokenizer or image processor of a base model; None if it has none.

    Without the check for its files, transformers makes a tokenizer that knows no word.
    """
    where: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        if not any(
            cached_file(name, file, _raise_exceptions_for_missing_entries=False, **where)
            for file in _PROCESSOR_FILES
        ):
            return None
        return AutoProcessor.from_pretrained(name, trust_remote_code=False, **where)
    except Exception as error:  # transformers and tokenizers raise whatever they like
        raise ModelError(f"the tokenizer of {name} can't be loaded: {error}") from error
