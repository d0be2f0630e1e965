"""A grid whose seeds were added in looks: what a look says of its pairs, and how a report says that it was sequential."""

from __future__ import annotations

from analysis.groups import compare
from analysis.load import Results
from analysis.statistics.sequential import outcomes
from analysis.text import number, percent
from experiments.config.schema import Experiment
from experiments.records.intended import Decision, Pair


def judged(decision: Decision, results: Results) -> list[Pair]:
    """The pairs of a decision, with what the newest look says of those that are open."""
    found = {data: compare(results, data) for data in dict.fromkeys(pair.data for pair in decision.pairs)}
    pairs = []
    for pair in decision.pairs:
        compared = found[pair.data]
        first, second = ((pair.setting, model, pair.train_fraction) for model in (pair.first, pair.second))
        if pair.outcome != "open" or compared is None or not (first in compared and second in compared):
            pairs.append(pair)
            continue
        limits = decision.margin, decision.error_rate, len(decision.pairs)
        (outcome,) = outcomes(compared, [(first, second)], *limits)
        gap = compared.gap(first, second)
        seen = {"delta": float(gap.estimate[0]), "low": float(gap.low[0]), "high": float(gap.high[0])}
        pairs.append(pair.model_copy(update={"outcome": outcome, **seen}))
    return pairs


def sentences(decision: Decision | None, experiment: Experiment) -> list[str]:
    """How each pair ended; none where seeds were not added in looks."""
    if decision is None:
        return []
    return [_sentence(pair, decision, experiment) for pair in decision.pairs]


def _sentence(pair: Pair, decision: Decision, experiment: Experiment) -> str:
    first, second = (experiment.models[name].title for name in (pair.first, pair.second))
    data = f"{experiment.data[pair.data].title}, " if len(experiment.data) > 1 else ""
    where = f"{data}{f'{pair.setting}, ' if pair.setting else ''}{percent(pair.train_fraction)} of the training data"
    why = "budget spent" if decision.ended.startswith("budget") else "open"
    said = {
        "first": f"{first} is better than {second}",
        "second": f"{second} is better than {first}",
        "equivalent": f"{first} and {second} are equivalent within ±{100 * decision.margin:g} points",
        "open": f"{first} and {second}: {why}, not decided",
    }[pair.outcome]
    if pair.delta is None or pair.low is None or pair.high is None:
        return f"Decision at {where}: {said}."
    difference, low, high = (number(100 * value, 1, signed=True) for value in (pair.delta, pair.low, pair.high))
    seen = f"{difference} points, {low} to {high} adjusted for all looks"
    return f"Decision at {where}: {said} ({seen}) after {pair.seeds} seeds."


def caption(decision: Decision | None) -> str:
    """That the grid was sequential, empty where it was not."""
    if decision is None:
        return ""
    return (
        f"Sequential: seeds were added in looks ({', '.join(map(str, decision.looks))}) for pairs that were open, at an "
        f"error rate of {decision.error_rate:g} fixed on {decision.made} with the effect, {100 * decision.effect:g} points, "
        f"the margin and the budget (decision.json). A look at S seeds spends ({decision.share_per_seed:.3g} S)"
        f"^{decision.share_power:g} of the error rate: intervals and marks of top-1 accuracy are widened for it."
    )
