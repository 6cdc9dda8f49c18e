"""Which solver to take at each number of evaluations: the best, what cannot be told apart from it, and by how much it leads.

What is best was chosen on the images that it is measured on: among K, the intervals are those of K comparisons (see
paired_difference.py). A learned table leads the best fixed recipe by a ratio of mean errors, a fixed recipe the next one that
is certainly behind it. Solvers with noise have references of their own and a best one of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fewstep.eval.report.curve_points import Points
from fewstep.eval.report.paired_difference import ratio
from fewstep.eval.report.result import PAIRED, Result

NAMED = 4  # of those within noise, before "and 3 more"
FLOW, STOCHASTIC = "flow", "stochastic"


@dataclass(frozen=True)
class Advice:
    """What to take at one nfe.

    Attributes:
        kind: "flow", or "stochastic" for the best of the solvers with noise. best: its name; label: in words.
        value, interval: its metric. against: whom it is compared with, the best fixed recipe, or the next one behind.
        ratio, sure: of the two means, and its interval. alike: those that cannot be told apart from the best.
        labels: of the best, of whom it is compared with, and of those alike. line: of Python, that puts it into a pipeline.
    """

    nfe: int
    kind: str
    metric: str
    best: str
    value: float
    interval: tuple[float, float] | None
    against: str | None
    ratio: float | None
    sure: tuple[float, float] | None
    alike: tuple[str, ...]
    labels: Mapping[str, str]
    learned: bool
    line: str

    @property
    def label(self) -> str:
        """The best, in words."""
        return self.labels[self.best]

    @property
    def text(self) -> str:
        """at 6 evaluations: learned five.json, 0.53 [0.48, 0.57] of the best fixed recipe, deis on beta; within noise: ..."""
        words = [f"with noise, {self.label}" if self.kind == STOCHASTIC else self.label]
        if not self.learned or self.ratio is None:
            words.append(f"{self.metric} {self.value:.3g}" + ("" if self.interval is None else _range(self.interval)))
        if self.ratio is not None and self.sure is not None and self.against is not None:
            whose = "the best fixed recipe" if self.learned else "the next that is certainly behind"
            words.append(f"{self.ratio:.2f}{_range(self.sure, '.2f')} of {whose}, {self.labels[self.against]}")
        names = [self.labels[name] for name in self.alike]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        noise = f"; within noise of it: {', '.join(names[:NAMED])}{more}" if names else ""
        return f"at {self.nfe} evaluations: {', '.join(words)}{noise}"

    def as_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        return {**asdict(self), "label": self.label, "text": self.text}


def recommend(points: Points, metric: str = "rmse") -> list[Advice]:
    """One for each nfe, and where errors are of single images one for each kind; other metrics have no ratios."""
    found = []
    for nfe in points.nfes:
        fields: dict[str, Mapping[str, Result]] = {}
        for name in points.field(metric, nfe):
            apart = metric in PAIRED and points.stochastic(name)
            fields.setdefault(STOCHASTIC if apart else FLOW, points.field(metric, nfe, name))
        found += [_advice(points, metric, nfe, kind, fields[kind]) for kind in (FLOW, STOCHASTIC) if kind in fields]
    return found


def _advice(points: Points, metric: str, nfe: int, kind: str, field: Mapping[str, Result]) -> Advice:
    best = points.first_of(metric, field)
    assert best is not None
    own = field[best]
    sign = -1 if points.higher_is_better(metric) else 1
    others = sorted((name for name in field if name != best), key=lambda name: sign * field[name].value)
    apart = {name: points.to_best(metric, nfe, name) for name in others}
    behind = [name for name, far in apart.items() if far is not None and far.sure]
    alike = tuple(name for name, far in apart.items() if far is not None and not far.sure)
    fixed = [name for name in others if points.entrant(name)["kind"] != "learned"]
    learned = points.entrant(best)["kind"] == "learned"
    against = points.first_of(metric, {name: field[name] for name in (fixed if learned else behind)})
    paired = against is not None and metric in PAIRED and min(len(own.groups), len(field[against].groups)) > 1
    lead = ratio(own, field[str(against)], len(field)) if paired else None
    value, sure = lead if lead is not None else (None, None)
    named = [str(name) for name in (best, against, *alike) if name is not None]
    labels = {name: points.entrant(name)["label"] for name in named}
    return Advice(
        nfe, kind, own.label, str(best), own.value, own.interval, None if against is None else str(against), value, sure,
        tuple(map(str, alike)), labels, learned, line(points, best),
    )  # fmt: skip


def _range(interval: tuple[float, float], form: str = ".3g") -> str:
    return f" [{interval[0]:{form}}, {interval[1]:{form}}]"


def line(points: Points, name: str) -> str:
    """What a user pastes to have it in a pipeline."""
    known = points.entrant(name)
    if known["kind"] == "learned":
        how = f"learned={str(name)!r}"
    else:
        how = f"solver={known['solver'] or str(name)!r}"
        how += f", grid={known['grid']!r}" if known["grid"] else ""
    return f"pipe.scheduler = fewstep.Scheduler.from_config(pipe.scheduler.config, {how})"
