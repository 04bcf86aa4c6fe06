"""Numbers formatted for readers, and the sentences that summarize a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightpeft.core.kept_units import KeptUnits
from pipeline.common.artefacts import PlanCost
from pipeline.common.text import quantify
from pipeline.metrics.definitions import is_higher_better
from pipeline.report.run_results import RunResults

# Metrics that are not fractions, and therefore not shown in percent.
_NOT_PERCENT = ("mcc", "pearson", "spearman", "perplexity")


def format_value(metric: str, value: float) -> str:
    """Format a metric: `77.1 %` for a fraction, three decimals for others."""
    return f"{value:.3f}" if metric in _NOT_PERCENT else f"{100 * value:.1f} %"


def format_amount(metric: str, amount: float) -> str:
    """Format the size of a metric's change: `0.4 points`, or three decimals."""
    return f"{amount:.3f}" if metric in _NOT_PERCENT else f"{100 * amount:.1f} points"


def format_change(metric: str, change: float) -> str:
    """Format a metric's change: `0.4 points lower`, or `unchanged` where it rounds to zero."""
    if not _is_visible(metric, change):
        return "unchanged"
    return f"{format_amount(metric, abs(change))} {'higher' if change > 0 else 'lower'}"


def _is_visible(metric: str, change: float) -> bool:
    """Return whether a change differs from zero in the digits that are shown."""
    return format_amount(metric, abs(change)) != format_amount(metric, 0.0)


def format_count(number: float) -> str:
    """Format a large number: `21.3 M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f}"


def format_percent(fraction: float | None) -> str:
    """Format a fraction without decimals: `71 %`, or `not measured` for None."""
    return "not measured" if fraction is None else f"{100 * fraction:.0f} %"


def format_factor(ratio: float | None) -> str:
    """Format a ratio: `1.74x`, or a dash for None."""
    return "-" if ratio is None else f"{ratio:.2f}x"


def format_seconds(number: float) -> str:
    """Format a duration: `850 ms`, `12.3 s` or `2 min 5 s`."""
    if number < 1:
        return f"{1000 * number:.3g} ms"
    minutes, seconds = divmod(round(number), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{number:.1f} s"


def format_bytes(number: float) -> str:
    """Format bytes as MiB."""
    return f"{number / 2**20:,.0f} MiB"


def format_kept(units: Mapping[str, KeptUnits], name: str) -> str:
    """Format how many units are kept: `48 of 72 heads`, or `all 72 heads`."""
    kept = sum(len(block.kept) for block in units.values())
    total = sum(block.total for block in units.values())
    return f"all {total:,} {name}" if kept == total else f"{kept:,} of {total:,} {name}"


def _join_words(items: Sequence[str]) -> str:
    """Join words: `a`, `a and b`, `a, b and c`."""
    *others, last = items
    return f"{', '.join(others)} and {last}" if others else last


def write_headline(results: RunResults) -> str:
    """Return what pruning gained and lost, in one line."""
    method, metric = results.highlighted, results.metric
    if results.plan.is_identity:
        return f"Nothing was pruned: {results.metric_title} {format_value(metric, method.quality)}"
    speed = format_factor(results.get_speedup(method.name, "training").median)
    whole = format_factor(results.compute_end_to_end_speedup(method))
    change = format_change(metric, method.quality - results.vanilla.quality)
    return (
        f"{speed} the training speed ({whole} with the estimation counted), "
        f"{results.metric_title} {change}"
    )


def write_summary(results: RunResults) -> list[str]:
    """Return the run in a few sentences, which don't depend on each other."""
    if results.plan.is_identity:
        return _write_baseline_sentence(results)
    return [
        _write_size_sentence(results),
        _write_speed_sentence(results),
        *(f"Target of {line}." for line in write_target_lines(results)[:1]),
        _write_quality_sentence(results),
        *_write_random_sentence(results),
        *_write_estimation_sentence(results),
        *_write_lifted_sentence(results),
        *_write_baseline_sentence(results),
    ]


def write_selection_paragraph(results: RunResults) -> str:
    """Return how the pruned units were selected."""
    plan = results.plan
    estimation = results.params.estimate
    early = (
        f" It stopped before its limit of {estimation.steps} steps, because the units to prune "
        f"stayed the same in {quantify(estimation.stop.patience, 'check')}."
        if results.scores.steps < estimation.steps
        else ""
    )
    masks = (
        f"During the {results.scores.steps} steps of the estimation, every head and every neuron "
        f"had a trainable mask.{early}"
    )
    criterion = plan.settings["criterion"]
    if plan.is_identity:
        return f"{masks} Nothing was pruned."
    if criterion == "random":
        return f"{masks} The scores were not used: the units to prune were drawn at random."
    scopes = {unit: plan.settings[f"{unit}_scope"] for unit in ("head", "neuron")}
    heads, neurons = (
        "over all layers" if scope == "global" else "within its layer" for scope in scopes.values()
    )
    compared = [f"{unit}s" for unit, scope in scopes.items() if scope == "global"]
    numbers = (
        f" How many {_join_words(compared)} each layer keeps was decided by their taylor scores."
        if criterion == "energy" and compared
        else ""
    )
    layers = (
        f" First, {format_kept(plan.layers, 'layers')} were kept: those that change most what goes "
        f"through them."
        if plan.kept_layers
        else ""
    )
    return (
        f"{masks}{layers} Each head was then ranked {heads}, each neuron {neurons}; "
        f"those with the lowest importance ({criterion}) were pruned.{numbers}"
    )


def write_target_lines(results: RunResults) -> list[str]:
    """Return a line for each method whose plan was made for a target, the described one first.

    It states target, prediction and measurement.
    """
    first = results.highlighted.name
    summaries = results.summarize().methods
    lines = []
    for name in sorted(summaries, key=lambda name: name != first):
        summary, plan = summaries[name], results.methods[name].plan
        if plan is None or summary.target is None:
            continue
        quantity, source = (plan.settings["target"][key] for key in ("quantity", "source"))
        form = format_factor if quantity.endswith("speedup") else _format_fraction
        lines.append(
            f"{name}: {quantity.replace('_', ' ')} {form(summary.target)}, "
            f"predicted {form(summary.target_predicted)} by {source}, "
            f"measured {form(summary.target_measured)}"
        )
    return lines


def _format_fraction(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction:.3f}"


def _write_size_sentence(results: RunResults) -> str:
    method = results.highlighted
    pruned, vanilla = method.evaluation, results.vanilla.evaluation
    blocks = _compute_pruned_fraction(method.cost)
    base = 1 - pruned.base_parameters / vanilla.base_parameters
    trained = pruned.trainable_parameters / vanilla.trainable_parameters
    plan = results.plan
    layers = f"{format_kept(plan.layers, 'layers')}, " if plan.kept_layers else ""
    return (
        f"{method.name.capitalize()} keeps {layers}{format_kept(plan.heads, 'heads')}, "
        f"{format_kept(plan.neurons, 'neurons')} and "
        f"{format_kept(plan.ranks, 'PEFT ranks')}: it removes "
        f"{format_percent(blocks)} of the parameters in attention and "
        f"feed-forward blocks, and {format_percent(base)} of all parameters of the base model. "
        f"It trains {format_percent(trained)} as many parameters as vanilla."
    )


def _compute_pruned_fraction(cost: PlanCost | None) -> float:
    assert cost is not None
    before, after = (
        sum(parts[part].parameters for part in ("attention", "feed_forward"))
        for parts in (cost.before, cost.after)
    )
    return 1 - after / before


def _write_speed_sentence(results: RunResults) -> str:
    name, phases = results.highlighted.name, results.benchmark.phases
    speeds = [
        f"{phase} speed is {format_factor(results.get_speedup(name, phase).median)}"
        for phase in phases
    ]
    sentence = (
        f"Relative to vanilla, at batch size {results.largest_batch_size}, {_join_words(speeds)}"
    )
    if results.get_memory_ratio(name, "training") is None:
        return f"{sentence}."
    memory = [
        f"{format_percent(results.get_memory_ratio(name, phase))} in {phase}" for phase in phases
    ]
    return f"{sentence}; peak memory is {_join_words(memory)}."


def _write_quality_sentence(results: RunResults) -> str:
    method, vanilla, metric = results.highlighted, results.vanilla, results.metric
    change = method.quality - vanilla.quality
    comparison = (
        f"{format_change(metric, change)} than" if _is_visible(metric, change) else "the same as"
    )
    low, high = method.evaluation.interval
    vanilla_low, vanilla_high = vanilla.evaluation.interval
    overlap = low <= vanilla_high and vanilla_low <= high
    return (
        f"On {quantify(method.evaluation.rows, 'test row')}, {results.metric_title} is "
        f"{format_value(metric, method.quality)}, {comparison} vanilla's "
        f"{format_value(metric, vanilla.quality)}; their 95 % intervals "
        f"{'overlap' if overlap else 'do not overlap'}."
    )


def _write_random_sentence(results: RunResults) -> list[str]:
    method, metric = results.highlighted, results.metric
    if method.name == "random" or "random" not in results.methods:
        return []
    random = results.methods["random"].quality
    gain = method.quality - random
    if not is_higher_better(metric):
        gain = -gain
    start = f"Random pruning with the same ratios reaches {format_value(metric, random)}"
    if gain > 0 and _is_visible(metric, gain):
        return [f"{start}: selection by importance gains {format_amount(metric, gain)}."]
    return [f"{start}: selection by importance gains nothing here."]


def _write_estimation_sentence(results: RunResults) -> list[str]:
    cost = results.benchmark.estimation
    if cost is None:
        return []
    break_even = (
        f"pays off from {quantify(cost.break_even_steps, 'training step')} on"
        if cost.break_even_steps
        else "does not pay off, because training is not faster after it"
    )
    return [
        f"The estimation took {format_seconds(cost.seconds)}, "
        f"{format_percent(cost.training_fraction)} of the total training time, and {break_even}."
    ]


def _write_lifted_sentence(results: RunResults) -> list[str]:
    metric, lifted = results.metric, results.highlighted.evaluation.lifted
    if not lifted:
        return []
    return [
        f"Expanded to full size on the unpruned base model, the same adapter reaches "
        f"{format_value(metric, lifted[metric])}."
    ]


def _write_baseline_sentence(results: RunResults) -> list[str]:
    baseline, metric = results.card.baseline, results.metric
    if baseline is None or metric != "accuracy":
        return []
    value = format_value(metric, baseline.accuracy)
    return [f"For comparison, {baseline.name} reaches {value}."]
