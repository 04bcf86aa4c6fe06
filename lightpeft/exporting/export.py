"""Write a pruned model in a form that others can load, once it is shown that it loads."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path

from accelerate.utils import send_to_device
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from lightpeft.core.errors import CheckpointError, ConfigError, ModelError
from lightpeft.core.names import BOTTLENECK, CONFIG, DIGESTS, PLAN
from lightpeft.core.reading import read_json
from lightpeft.core.serialization import replace_whole_directory, write_digests, write_json
from lightpeft.exporting.card import ExportDetails, find_base, write_card
from lightpeft.exporting.check import Expected, check_export
from lightpeft.exporting.compressing import write_compressed
from lightpeft.exporting.deci import check_deci, make_deci, write_deci
from lightpeft.exporting.lifting import make_lifted_model
from lightpeft.exporting.merging import check_stock_config, merge_adapter, pad_merged
from lightpeft.exporting.onnx_graph import write_onnx
from lightpeft.exporting.record import (
    ADAPTER_FORMATS,
    FORMATS,
    RECORD,
    STOCK_FORMATS,
    ExportFormat,
    ExportRecord,
)
from lightpeft.exporting.reload import compute_outputs
from lightpeft.profiling.random_batches import (
    count_image_tokens,
    drop_labels,
    find_max_batch_length,
    find_model_kind,
    make_random_batch,
)
from lightpeft.pruning.checkpoint import expand_adapter, save
from lightpeft.pruning.compression import check_fraction
from lightpeft.pruning.prune import check_plan_matches_model, get_config_of_full_widths, get_plan

_LOGGER = logging.getLogger(__name__)
_MAX_SHARD = "5GB"
_ROWS, _LENGTH = 2, 16


def export(
    model: PeftModel,
    folder: Path | str,
    *,
    format: ExportFormat = "merged",
    base: PreTrainedModel | None = None,
    details: ExportDetails | None = None,
    compress: float | None = None,
) -> ExportRecord:
    """Write a pruned model for others to load, and check that it loads and computes the same.

    A fresh process loads what was written and computes its outputs for one batch; for all formats
    but compact and merged one in which lightpeft can't be imported. Only then `folder` is replaced,
    as a whole: after a failure it is what it was. The result is kept in `exported.json`, and
    README.md is a model card.

    Formats:
        - compact: adapter and plan, as `save` writes them, for `load`.
        - lifted: the adapter at full size, for stock peft on the unpruned base model. The check
          compares with that base model plus the change of its weights.
        - merged: the pruned base model with the adapter folded in, for `from_pretrained` of
          lightpeft; any plan.
        - stock: the same for transformers' `from_pretrained`, where the config can say what the
          plan keeps.
        - padded: for transformers' `from_pretrained`, with zeros where heads and neurons were.
        - onnx: a graph for onnxruntime, without pruned heads and neurons as well.
        - deci: for vLLM and llama.cpp, which read a feed-forward width per layer of a Llama; zeros
          stand for pruned heads, and fill widths up to multiples of 256. The check loads it by
          their formulas into transformers' layers.

    Args:
        model: from `prune` or `load`; left as it is.
        folder: created, or replaced if it holds an export.
        format: one of the above.
        base: the unpruned base model, on which compact and lifted are checked; a copy of it is
            written to a temporary folder.
        details: the batch, a tokenizer to write beside the model, and what the model card says
            about base, data and quality.
        compress: of format compact, the fraction of the largest changes that LoRA makes to the base
            model to keep, in (0, 1]: small adapters that compute something else. What that saves
            and changes is in the record, with the loss before and after if `details` has a batch
            with labels; see `lightpeft.pruning.compression.compress_adapter`.

    Returns:
        What `exported.json` holds.

    Raises:
        ConfigError: `format` is unknown, `base` is missing, or `compress` is not allowed.
        ModelError: the model has no plan, is quantized, can't run on the batch, or has bottleneck
            adapters, for which only compact is, not compressed.
        PlanError: the config can't say what the plan keeps (stock, deci), or `base` is another
            model.
        CheckpointError: `folder` holds something else than an export, or the fresh process can't
            load what was written, or it computes something else.
        OSError: `folder` can't be written.

    Example:
        >>> record = lightpeft.export(pruned, folder / "padded", format="padded")
        >>> record.max_difference < 1e-4
        True
        >>> from transformers import AutoModelForSequenceClassification
        >>> plain = AutoModelForSequenceClassification.from_pretrained(folder / "padded")
    """
    plan, details = get_plan(model), details or ExportDetails()
    _check_request(model, format, base, compress)
    with replace_whole_directory(Path(folder), RECORD) as temporary:
        batch = dict(details.batch or _make_batch(model))
        notes: tuple[str, ...] = ()
        if compress is None:
            notes = _write_format(model, temporary, format, batch, base)
        expected, compression = _compute_expected(model, format, base, batch), None
        if compress is not None:
            with_loss = "labels" in (details.batch or {})
            expected, compression = write_compressed(
                model, temporary, compress, expected, with_loss=with_loss
            )
        if format in ADAPTER_FORMATS:
            _name_base(temporary, *find_base(model, details))
        difference = check_export(temporary, format, expected)
        record = ExportRecord(
            to=format,
            plan=plan.digest,
            model_class=type(model.get_base_model()).__name__,
            max_difference=difference.largest,
            largest_output=difference.scale,
            tolerance=expected.tolerance,
            without_lightpeft=format in STOCK_FORMATS,
            versions=difference.versions,
            compression=compression,
            notes=notes,
        )
        record.write(temporary)
        if details.processor is not None:
            details.processor.save_pretrained(temporary)
        write_card(temporary, Path(folder).name, model, record, details)
    _LOGGER.info("%s: %s", folder, record)
    return record


def _check_request(
    model: PeftModel, to: ExportFormat, base: PreTrainedModel | None, compress: float | None
) -> None:
    """Refuse what can't be exported, before anything is written."""
    plan = get_plan(model)
    if to not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, got {to!r}")
    if plan.peft_type == BOTTLENECK and to != "compact":
        raise ModelError(
            f"format {to}: bottleneck adapters can't be merged, and peft alone can't load "
            f"them; take format compact"
        )
    if to == "deci":
        check_deci(type(model.get_base_model()).__name__, get_config_of_full_widths(model))
    if compress is not None:
        check_fraction(compress)
        if to != "compact":
            raise ConfigError(f"compress is for format compact, got {to}")
    if to in ADAPTER_FORMATS:
        if base is None:
            raise ConfigError(f"format {to} is checked on the unpruned base model: pass base=")
        check_plan_matches_model(plan, base, model.peft_config[model.active_adapter])


def _write_format(
    model: PeftModel,
    folder: Path,
    to: ExportFormat,
    batch: Mapping[str, Tensor],
    base: PreTrainedModel | None,
) -> tuple[str, ...]:
    """Write the files of a format, and their digests; return the notes of its record."""
    plan, notes = get_plan(model), tuple[str, ...]()
    if to == "compact":
        save(model, folder)
        return notes
    if to == "lifted":
        compact = folder.with_name("compact")
        save(model, compact)
        expand_adapter(compact, folder, model=base)
    else:
        notes = _write_merged(merge_adapter(model), model, folder, to, batch)
        plan.save(folder / PLAN)
    write_digests(folder)
    return notes


def _name_base(folder: Path, base: str, revision: str) -> None:
    """Let adapter_config.json name the base model on the hub, where it has an id there."""
    if base:
        path = folder / CONFIG
        changes = {"base_model_name_or_path": base, "revision": revision or None}
        (folder / DIGESTS).unlink()
        write_json(path, read_json(path, CheckpointError) | changes)
        write_digests(folder)


def _write_merged(
    merged: PreTrainedModel,
    model: PeftModel,
    folder: Path,
    to: ExportFormat,
    batch: Mapping[str, Tensor],
) -> tuple[str, ...]:
    plan, weights = get_plan(model), None
    if to == "onnx":
        write_onnx(merged, folder, batch)
        return ()
    if to == "deci":
        deci = make_deci(merged, plan, get_config_of_full_widths(model))
        write_deci(deci, folder, max_shard=_MAX_SHARD)
        return deci.notes
    if to == "stock":
        check_stock_config(merged, plan)
    if to == "padded":
        merged, weights = pad_merged(merged, plan, get_config_of_full_widths(model))
    merged.save_pretrained(folder, state_dict=weights, max_shard_size=_MAX_SHARD)
    return ()


def _compute_expected(
    model: PeftModel,
    to: ExportFormat,
    base: PreTrainedModel | None,
    batch: Mapping[str, Tensor],
) -> Expected:
    """Compute what the export must compute: the model's outputs, in float32."""
    if to == "lifted":
        assert base is not None
        reference = make_lifted_model(model, base)
    else:
        reference = copy.deepcopy(model).float().eval()
    try:
        outputs = compute_outputs(reference, send_to_device(batch, reference.device))
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise ModelError(
            f"the model does not run on the batch of the check, which ExportDetails(batch=...) "
            f"sets: {error}"
        ) from error
    return Expected(
        batch=batch,
        outputs=outputs,
        attention=model.config._attn_implementation,
        dtype=model.dtype,
        base=base if to in ADAPTER_FORMATS else None,
    )


def _make_batch(model: PeftModel) -> dict[str, Tensor]:
    """Return random inputs: always the same ones for a model."""
    kind = find_model_kind(model)
    if kind == "image":
        length = count_image_tokens(model.config)
    else:
        limit = find_max_batch_length(model.config, kind)
        length = min(_LENGTH, limit or _LENGTH)
    batch = make_random_batch(model, batch_size=_ROWS, length=length)
    # No loss is compared. Labels are only of use where an encoder-decoder makes its input of them.
    return batch if kind == "seq2seq" else drop_labels(batch)
