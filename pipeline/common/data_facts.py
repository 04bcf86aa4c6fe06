"""Lines on what was read, for the log of the stage prepare and for the report."""

from __future__ import annotations

from pipeline.common.data_card import DataCard
from pipeline.common.text import inflect, join_some, quantify


def describe_data(card: DataCard) -> list[str]:
    """Return a line each on columns, the first row, images, messages and unknown tokens."""
    lines = [describe_columns(card)]
    if card.first_row:
        lines.append(f"first row: {card.first_row.describe()}")
    if card.image_modes:
        modes = [f"{name} {count:,}" for name, count in card.image_modes.items()]
        lines.append(f"image modes in train: {join_some(modes)}")
    if card.unused_message_fields:
        lines.append(f"message fields not used: {join_some(card.unused_message_fields)}")
    lines += [
        f"{split.only_unknown:,} of {quantify(split.rows, 'row')} of {name} "
        f"{inflect(split.only_unknown, 'holds', 'hold')} nothing but unknown tokens"
        for name, split in card.splits.items()
        if split.only_unknown
    ]
    return lines


def describe_columns(card: DataCard) -> str:
    """Return which columns were read for which field, and which were ignored."""
    read = [
        name if columns == (name,) else f"{name} from {join_some(columns, ' + ')}"
        for name, columns in card.columns.items()
    ]
    ignored = f"; ignored: {join_some(card.ignored_columns)}" if card.ignored_columns else ""
    return f"columns: {', '.join(read) or 'not known'}{ignored}"
