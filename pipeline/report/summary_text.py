"""Numbers as people read them, and the story of a run in plain sentences."""

from __future__ import annotations

from lightpeft.core.plan import KeptUnits
from pipeline.metrics.definitions import find_measure
from pipeline.report.run_results import Method, Outcome

_NUMBERS = ("mcc", "pearson", "spearman", "perplexity")  # the others are shares


def value(metric: str, number: float) -> str:
    """A metric's value: percent for shares, three decimals for the rest."""
    return f"{number:.3f}" if metric in _NUMBERS else f"{100 * number:.1f} %"


def change(metric: str, difference: float) -> str:
    """A metric's difference in words: `0.4 points lower`, `unchanged`."""
    plain = metric in _NUMBERS
    amount = f"{abs(difference):.3f}" if plain else f"{100 * abs(difference):.1f}"
    if float(amount) == 0:
        return "unchanged"
    unit = "" if plain else " points"
    return f"{amount}{unit} {'higher' if difference > 0 else 'lower'}"


def count(number: float) -> str:
    """A large number, short: 21.3 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f}"


def share(number: float | None) -> str:
    """A share as whole percent."""
    return "not measured" if number is None else f"{100 * number:.0f} %"


def times(number: float) -> str:
    """A ratio: 1.74x."""
    return f"{number:.2f}x"


def seconds(number: float) -> str:
    """A duration: 850 ms, 12.3 s, 2 min 5 s."""
    if number < 1:
        return f"{1000 * number:.3g} ms"
    minutes, rest = divmod(round(number), 60)
    return f"{minutes} min {rest} s" if minutes else f"{number:.1f} s"


def size(number: float) -> str:
    """Bytes as MiB."""
    return f"{number / 2**20:,.0f} MiB"


def headline(outcome: Outcome) -> str:
    """What was gained and lost, in one line."""
    lead, metric = outcome.lead, outcome.metric
    if lead.plan.is_identity:
        return f"Nothing was cut: {metric} {value(metric, lead.quality[metric])}"
    speed = times(outcome.speedup(lead.name, "training").median)
    return f"{speed} the training speed, {metric} {change(metric, _lost(outcome, 'vanilla'))}"


def story(outcome: Outcome) -> list[str]:
    """The run in a few sentences; each stands by itself."""
    if outcome.lead.plan.is_identity:
        return _ground(outcome)
    return [
        _cut(outcome),
        _gain(outcome),
        _quality(outcome),
        *_against_random(outcome),
        *_early(outcome),
        *_lifted(outcome),
        *_ground(outcome),
    ]


def choice(outcome: Outcome) -> str:
    """How the units that went were chosen."""
    plan, steps = outcome.lead.plan, outcome.scores.steps
    early = f"In an early phase of {steps} steps, every head and neuron wore a trainable mask."
    if plan.is_identity:
        return f"{early} Nothing was cut."
    if plan.settings["criterion"] == "random":
        return f"{early} Its scores were not used: what went was drawn at random."
    scope = "over all layers" if plan.settings["neuron_scope"] == "global" else "within its layer"
    return (
        f"{early} Each head then competed within its layer, each neuron {scope}; "
        f"the lowest by {plan.settings['criterion']} went."
    )


def _lost(outcome: Outcome, other: str) -> float:
    metric = outcome.metric
    return float(outcome.lead.quality[metric] - outcome.methods[other].quality[metric])


def kept(cuts: dict[str, KeptUnits], unit: str) -> str:
    """How many units stay: `48 of 72 heads`, `all 72 heads`."""
    stay = sum(len(cut.kept) for cut in cuts.values())
    total = sum(cut.total for cut in cuts.values())
    return f"all {total:,} {unit}" if stay == total else f"{stay:,} of {total:,} {unit}"


def _cut(outcome: Outcome) -> str:
    lead, vanilla = outcome.lead, outcome.methods["vanilla"]
    base = 1 - lead.quality["base_parameters"] / vanilla.quality["base_parameters"]
    trained = lead.quality["trainable_parameters"] / vanilla.quality["trainable_parameters"]
    return (
        f"{lead.name.capitalize()} keeps {kept(lead.plan.heads, 'heads')}, "
        f"{kept(lead.plan.neurons, 'neurons')} and {kept(lead.plan.ranks, 'PEFT ranks')}: "
        f"{share(_blocks_cut(lead))} of the parameters in attention and feed-forward blocks are "
        f"gone, {share(base)} of the whole base model. "
        f"It trains {share(trained)} as many parameters as vanilla."
    )


def _blocks_cut(method: Method) -> float:
    before, after = (
        sum(method.cost[when][part]["parameters"] for part in ("attention", "feed_forward"))
        for when in ("before", "after")
    )
    return float(1 - after / before)


def _gain(outcome: Outcome) -> str:
    name = outcome.lead.name
    training, *others = (
        (phase, times(outcome.speedup(name, phase).median)) for phase in outcome.phases
    )
    told = (
        f"At batch size {outcome.batch}, a training step runs at {training[1]} the speed of "
        f"vanilla, {' and '.join(f'{phase} at {gain}' for phase, gain in others)}"
    )
    memory = outcome.memory(name, "training")
    if memory is None:
        return f"{told}."
    return (
        f"{told}; peak memory is {share(memory)} of vanilla's in training, "
        f"{' and '.join(f'{share(outcome.memory(name, key))} in {key}' for key, _ in others)}."
    )


def _quality(outcome: Outcome) -> str:
    lead, vanilla, metric = outcome.lead.quality, outcome.methods["vanilla"].quality, outcome.metric
    (low, high), (other_low, other_high) = lead["interval"], vanilla["interval"]
    overlap = low <= other_high and other_low <= high
    return (
        f"On {lead['rows']:,} test rows, {metric} is {value(metric, lead[metric])}, "
        f"{change(metric, _lost(outcome, 'vanilla'))} than vanilla's "
        f"{value(metric, vanilla[metric])}; their 95 % intervals "
        f"{'overlap' if overlap else 'do not overlap'}."
    ).replace("unchanged than", "the same as")


def _against_random(outcome: Outcome) -> list[str]:
    if outcome.lead.name == "random" or "random" not in outcome.methods:
        return []
    metric = outcome.metric
    reached = value(metric, outcome.methods["random"].quality[metric])
    worth, _, direction = change(metric, _lost(outcome, "random")).rpartition(" ")
    better = "higher" if find_measure(metric).higher_is_better else "lower"
    if direction != better:
        return [f"The same amounts cut at random reach {reached}: the scores earned nothing here."]
    return [f"The same amounts cut at random reach {reached}: choosing by score is worth {worth}."]


def _early(outcome: Outcome) -> list[str]:
    cost = outcome.estimation
    steps = cost.break_even_steps
    back = f"pays for itself after {steps:,} steps in all" if steps else "does not pay for itself"
    return [
        f"The early phase took {seconds(cost.seconds)}, {share(cost.training_fraction)} of the "
        f"whole training time, and {back}."
    ]


def _lifted(outcome: Outcome) -> list[str]:
    metric, lifted = outcome.metric, outcome.lead.quality["lifted"]
    if not lifted:
        return []
    return [
        f"Lifted back onto the unpruned base, the same adapter reaches "
        f"{value(metric, lifted[metric])}."
    ]


def _ground(outcome: Outcome) -> list[str]:
    baseline = outcome.card.baseline
    if baseline is None or outcome.metric != "accuracy":
        return []
    return [f"For comparison, {baseline.name} reaches {value('accuracy', baseline.accuracy)}."]
