"""report.html: one self-contained page; every text from outside is escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.common.data_card import DataCard
from pipeline.common.data_facts import describe_data
from pipeline.report import summary_text as text
from pipeline.report.plot_style import Picture, get_colour
from pipeline.report.run_results import RunResults

_TEMPLATES = Path(__file__).parent / "templates"


class Tile(NamedTuple):
    """A number at the top of the page, with its name and what it is compared with."""

    name: str
    value: str
    note: str


def render_page(results: RunResults, pictures: Mapping[str, Picture]) -> str:
    """Return the page.

    Args:
        results: of the run.
        pictures: name -> figure, embedded in the page.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "value_of": text.format_value,
        "count": text.format_count,
        "percent": text.format_percent,
        "factor": text.format_factor,
        "seconds": text.format_seconds,
        "bytes": text.format_bytes,
        "data_uri": _encode_picture,
    }
    splits = results.card.splits.values()
    return environment.get_template("report.html").render(
        results=results,
        card=results.card,
        benchmark=results.benchmark,
        highlighted=results.highlighted,
        metric=results.metric,
        headline=text.write_headline(results),
        sentences=text.write_summary(results),
        selection=text.write_selection_paragraph(results),
        tiles=_make_tiles(results),
        data_facts=[*describe_data(results.card), *results.card.notes],
        labels=list(dict.fromkeys(name for split in splits for name in split.labels)),
        origins=_flatten(_list_origins(results.card)),
        settings=_flatten(results.params.model_dump()),
        pictures=pictures,
        colours={name: get_colour(name) for name in results.methods},
    )


def _list_origins(card: DataCard) -> dict[str, Any]:
    """Return what model and data were read from, with their revisions on the hub if known."""
    entries = card.to_json()
    origins = {key: entries[key] for key in ("model", "hub_dataset") if key in entries}
    return {**origins, **entries["sources"]}


def _encode_picture(picture: Picture) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.png).decode()


def _make_tiles(results: RunResults) -> list[Tile]:
    method, vanilla, metric = results.highlighted, results.vanilla, results.metric
    value = text.format_value(metric, method.quality)
    if results.plan.is_identity:
        return [Tile(results.metric_title, value, "nothing pruned")]
    change = text.format_change(metric, method.quality - vanilla.quality)
    before, after = (x.evaluation.base_parameters for x in (vanilla, method))
    speeds = [
        Tile(
            f"{phase} speed",
            text.format_factor(results.get_speedup(method.name, phase).median),
            "vanilla's",
        )
        for phase in results.benchmark.phases
    ]
    memory = text.format_percent(results.get_memory_ratio(method.name, "training"))
    return [
        Tile(
            results.metric_title,
            value,
            f"{change}, vanilla {text.format_value(metric, vanilla.quality)}",
        ),
        *speeds,
        Tile("training memory", memory, "of vanilla's peak"),
        Tile("base parameters", text.format_count(after), f"of {text.format_count(before)}"),
    ]


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Return a nested value as `section.key` -> text; None reads `auto`, as in params.yaml."""
    if isinstance(value, Mapping):
        flat: dict[str, str] = {}
        for key, inner in value.items():
            flat |= _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
        return flat
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return {prefix: "auto" if value is None else str(value)}
