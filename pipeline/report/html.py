"""report.html: one page with its pictures inside; every text from outside is escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.report import summary_text as words
from pipeline.report.plot_style import Picture
from pipeline.report.run_results import Method, Outcome

_TEMPLATES = Path(__file__).parent / "templates"


def render(outcome: Outcome, pictures: Mapping[str, Picture]) -> str:
    """Write the page."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for name in ("count", "share", "times", "seconds", "size"):
        environment.filters[name] = getattr(words, name)
    environment.filters["uri"] = _data_uri
    return environment.get_template("report.html").render(
        outcome=outcome,
        lead=outcome.lead,
        metric=outcome.metric,
        headline=words.headline(outcome),
        story=words.story(outcome),
        choice=words.choice(outcome),
        tiles=_tiles(outcome),
        methods=[_summary(outcome, method) for method in outcome.methods.values()],
        qualities=_qualities(outcome),
        confusions=_confusions(outcome),
        speeds=_speeds(outcome),
        labels=list(dict.fromkeys(_label_names(outcome))),
        settings=_flat(outcome.settings),
        sources=_flat(outcome.card.as_json()["sources"]),
        dropped={
            reason: f"{bad.rows:,}, the first is row {bad.first:,}"
            for reason, bad in outcome.card.dropped.items()
        },
        repeats=outcome.card.describe_repeats(),
        versions=_flat(outcome.benchmark.versions),
        pictures=pictures,
    )


def _data_uri(picture: Picture) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.png).decode()


def _tiles(outcome: Outcome) -> list[dict[str, str]]:
    """The few numbers at the top of the page."""
    lead, vanilla, metric = outcome.lead, outcome.methods["vanilla"], outcome.metric
    reached = words.value(metric, lead.quality[metric])
    if lead.plan.is_identity:
        return [{"name": metric, "value": reached, "note": "nothing cut"}]
    difference = words.change(metric, lead.quality[metric] - vanilla.quality[metric])
    base = lead.quality["base_parameters"]
    speeds = {key: outcome.speedup(lead.name, key).median for key in outcome.phases}
    tiles = [
        (metric, reached, f"{difference}, vanilla {words.value(metric, vanilla.quality[metric])}"),
        *((f"{phase} speed", words.times(gain), "vanilla's") for phase, gain in speeds.items()),
        (
            "training memory",
            words.share(outcome.memory(lead.name, "training")),
            "of vanilla's peak",
        ),
        (
            "base parameters",
            words.count(base),
            f"of {words.count(vanilla.quality['base_parameters'])}",
        ),
    ]
    return [dict(zip(("name", "value", "note"), tile, strict=True)) for tile in tiles]


def _summary(outcome: Outcome, method: Method) -> dict[str, Any]:
    """A row of the table of methods."""
    metric, quality = outcome.metric, method.quality
    low, high = quality["interval"]
    lifted = quality["lifted"]
    return {
        "name": method.name,
        "value": words.value(metric, quality[metric]),
        "interval": f"{words.value(metric, low)} to {words.value(metric, high)}",
        "lifted": words.value(metric, lifted[metric]) if lifted else "",
        "base": quality["base_parameters"],
        "trained": quality["trainable_parameters"],
        "speeds": [outcome.speedup(method.name, phase) for phase in outcome.phases],
        "memories": [outcome.memory(method.name, phase) for phase in outcome.phases],
        "seconds": method.seconds,
    }


def _qualities(outcome: Outcome) -> list[dict[str, Any]]:
    """All the task's metrics: a row per method, and per method lifted."""
    rows = []
    for method in outcome.methods.values():
        sides = {method.name: method.quality, f"{method.name}, lifted": method.quality["lifted"]}
        rows += [
            {"name": name, "values": [words.value(key, side[key]) for key in outcome.metrics_there]}
            for name, side in sides.items()
            if side
        ]
    return rows


def _confusions(outcome: Outcome) -> list[dict[str, Any]]:
    """Confusion matrices: a row per true label, cells with their share of the row."""
    return [
        {
            "name": method.name,
            "labels": method.quality["labels"],
            "rows": [
                {
                    "label": label,
                    "cells": [{"count": n, "share": n / max(sum(row), 1)} for n in row],
                }
                for label, row in zip(
                    method.quality["labels"], method.quality["confusion"], strict=True
                )
            ],
        }
        for method in outcome.methods.values()
        if method.quality.get("confusion")
    ]


def _speeds(outcome: Outcome) -> list[dict[str, Any]]:
    """Return every measurement of the benchmark: a row per phase, batch size and method."""
    return [
        {
            "mode": phase,
            "batch": batch_size,
            "name": name,
            "timing": outcome.benchmark.methods[name].timings[phase][batch_size],
            "ratio": outcome.benchmark.methods[name].speedups[phase][batch_size],
        }
        for phase in outcome.phases
        for batch_size in outcome.benchmark.batch_sizes
        for name in outcome.methods
    ]


def _label_names(outcome: Outcome) -> list[str]:
    return [name for split in outcome.card.splits.values() for name in split.labels]


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """A nested value as `section.key` -> text."""
    if isinstance(value, Mapping):
        found: dict[str, str] = {}
        for key, inner in value.items():
            found |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
        return found
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return {prefix: "auto" if value is None else str(value)}
