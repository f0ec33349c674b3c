"""A verdict on each of ten open questions, from a run's tables by one set of rules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from cocoift.evaluation.effects import (
    ASKED_ALONE,
    COLUMNS,
    LAYOUT,
    change,
    overall,
    rows_of,
    sign,
    versus,
)
from cocoift.evaluation.probe import margin_effects
from cocoift.evaluation.protocols import AFTER
from cocoift.evaluation.score import COLLAPSE, OPEN_SCORE, TOTALS
from cocoift.report.histories import OPEN_AFTER

Tables = Mapping[str, pd.DataFrame]
# Points beyond which a difference matters: what lies within is called no difference.
MARGIN = 5.0


@dataclass(frozen=True)
class Found:
    """A difference: which way it goes, as far as that is shown, the number that says so, its ends.

    `way` is 0 where none is shown and `None` where nothing was measured; counts have no interval.
    """

    way: int | None
    number: str = ""
    low: float | None = None
    high: float | None = None

    def holds(self, expected: str) -> bool:
        """Tell whether the difference is as a claim expects, by `RULES`."""
        if expected in _WAYS:
            return self.way == _WAYS[expected]
        low = MARGIN * (self.way or 0) if self.low is None else self.low
        high = MARGIN * (self.way or 0) if self.high is None else self.high
        falls, rises = not low > -MARGIN, not high < MARGIN
        return not {"not higher": rises, "not lower": falls}.get(expected, rises or falls)

    def contradicts(self, expected: str) -> bool:
        """Tell whether the difference is shown to go a way that a claim excludes."""
        excluded = {"higher": (-1,), "not lower": (-1,), "lower": (1,), "not higher": (1,)}
        return self.way in excluded.get(expected, (-1, 1))

    def excludes(self, expected: str) -> bool:
        """Tell whether a difference that matters, in a claim's direction, is excluded."""
        if self.contradicts(expected):
            return True
        if self.low is None or self.high is None:
            return False
        return self.high < MARGIN if expected == "higher" else self.low > -MARGIN


NOTHING = Found(None)
_WAYS = {"higher": 1, "lower": -1}

REPRODUCED, PARTLY, NOT_REPRODUCED, NOT_TESTABLE = (
    "reproduced", "partly", "not reproduced", "not testable here",
)  # fmt: skip
RULES = f"""What the paper says or takes for granted is written as claims, each of one difference.

- A claim about an effect **holds** where the effect is shown in the direction that the claim names:
  its interval excludes zero and, for a headline contrast, the corrected test does too. A claim that
  something does *not* rise or fall holds where its interval ends within {MARGIN:.0f} points of
  zero on that side: that no rise is shown is not enough.
- A claim about counts or means without an interval holds where their order is as it says, on every
  training.
- **{REPRODUCED}**: every claim was measured and holds. **{NOT_REPRODUCED}**: of those that name a
  direction none holds, and the interval of one excludes {MARGIN:.0f} points in that direction
  (where none names one: none holds at all, and the contrary of one is shown). **{NOT_TESTABLE}**:
  none was measured in this run, or none holds and intervals are too wide to tell. **{PARTLY}**:
  everything between.
- At most two numbers follow, those of claims that do not hold first."""


@dataclass(frozen=True)
class Claim:
    """What the paper lets one expect of one difference: `expected` is a key of the rules."""

    says: str
    expected: str
    read: Callable[[Tables], Found]


def effect(table: str, contrast: str, metric: str, **where: str) -> Callable[[Tables], Found]:
    """Return how to read an effect from a table of effects.

    The metric `score` is a benchmark's whole one; without a `benchmark` in `where`, the first one
    counts.
    """

    def read(tables: Tables) -> Found:
        rows = _effects(tables, table)
        if not set(where) <= set(rows):
            return NOTHING
        for column, value in where.items():
            rows = rows[rows[column] == value]
        if "benchmark" in rows and "benchmark" not in where:
            rows = rows[rows.benchmark == next(iter(rows.benchmark), "")]
        named = next((name for name in rows.metric.unique() if name in TOTALS), "")
        return _shown(rows_of(rows, contrast, named if metric == "score" else metric))

    return read


def _effects(tables: Tables, name: str) -> pd.DataFrame:
    return tables.get(name, pd.DataFrame(columns=["benchmark", "ablation", *COLUMNS]))


def _shown(rows: pd.DataFrame, *, unit: str = "points") -> Found:
    whole = overall(rows) if len(rows) else None
    if whole is None:
        return NOTHING
    number = f"{whole.difference:+.1f} {unit} [{whole.low:+.1f}, {whole.high:+.1f}]"
    return Found(sign(rows), number, whole.low, whole.high)


def _furthest(ablation: str, metric: str, way: int) -> Callable[[Tables], Found]:
    """Return how to read whether any contrast of an ablation goes this way (1, -1), and the one
    whose interval reaches furthest."""

    def read(tables: Tables) -> Found:
        rows = _effects(tables, "ablation_effects")
        of = TOTALS if metric == "score" else (metric,)
        rows = rows[(rows.ablation == ablation) & rows.metric.isin(of)]
        parts = {str(name): part for name, part in rows.groupby("contrast", sort=False)}
        found = {name: shown for name, part in parts.items()
                 if (shown := _shown(part)) is not NOTHING}  # fmt: skip
        if not found:
            return NOTHING
        ends = {name: shown.high if way > 0 else shown.low for name, shown in found.items()}
        most = max(ends, key=lambda name: way * (ends[name] or 0.0))
        shown_way = way if any(each.way == way for each in found.values()) else 0
        return replace(found[most], way=shown_way, number=f"{most}: {found[most].number}")

    return read


def _of_openings(contrast: str) -> Callable[[Tables], Found]:
    """Return how to read a rise of collapse over all openings, or after the only one asked."""
    over_all = effect("opening_effects", contrast, COLLAPSE, opening="all")
    after_one = effect("effects", contrast, COLLAPSE)

    def read(tables: Tables) -> Found:
        return (over_all if "opening_effects" in tables else after_one)(tables)

    return read


def _prompts_after_short(tables: Tables) -> Found:
    """Read by how much more often a question after a short answer states its format if merged."""
    rows = tables.get("after_short_answer", pd.DataFrame())
    if rows.empty:
        return NOTHING
    after = rows[rows.context == "after a short answer"].set_index("mixture").prompt_share
    if not {"mix", "merged"} <= set(after.index):
        return NOTHING
    return Found(_order(after.merged - after.mix), f"{after.merged:.0%} against {after.mix:.0%}")


def _same_training(tables: Tables) -> Found:
    """Read whether the mixtures train for the same steps and supervised tokens, to one percent."""
    sets = tables.get("training_sets", pd.DataFrame())
    if sets.empty:
        return NOTHING
    sizes = sets.set_index("mixture")[["steps", "supervised tokens"]]
    apart = (sizes.max() / sizes.min() - 1).max()
    return Found(int(apart > 0.01), f"at most {apart:.1%} apart")


def _probe(tables: Tables) -> Found:
    """Read by how much more the short round moves the probe's margin of the LLaVA-style model."""
    margins = tables.get("probe", pd.DataFrame())
    if margins.empty:
        return NOTHING
    rows = margin_effects(margins, [LAYOUT])
    return _shown(rows, unit="nats")


def _abductive_more(tables: Tables) -> Found:
    """Read how much more the LLaVA-style model loses on abductive than on deductive questions."""
    rows = _effects(tables, "effects")
    rows = rows[(rows.benchmark == "infimm_eval") & (rows.contrast == change("mix").name)]
    wide = rows.pivot_table(index="seed", columns="metric", values="difference")
    if not {"abductive", "deductive"} <= set(wide):
        return NOTHING
    more = wide.abductive - wide.deductive
    each = more.drop("all", errors="ignore") if len(more) > 1 else more
    return Found(_order(*each.dropna()), f"{more.get('all', more.mean()):+.1f} points")


def _order(*values: float) -> int:
    """Return the sign that all values have, 0 where they differ."""
    return 1 if min(values) > 0 else -1 if max(values) < 0 else 0


_OF_MIX, _OF_MERGED = change("mix").name, change("merged").name
_MM_VET, _INFIMM = {"benchmark": "mm_vet"}, {"benchmark": "infimm_eval"}
CLAIMS: Mapping[int, Sequence[Claim]] = {
    1: [
        Claim("sources that annotate the same images collapse less than on disjoint ones",
              "lower", effect("ablation_effects", "same images - disjoint images", COLLAPSE,
                              ablation="overlap")),
    ],
    2: [
        Claim("training answers in sentences lower the collapse, against phrases", "lower",
              effect("ablation_effects", "sentence - short", COLLAPSE, ablation="answers")),
    ],
    3: [
        Claim("after a short answer, questions of the merged mixture state their format more often "
              "than those of the LLaVA-style one", "higher", _prompts_after_short),
    ],
    4: [
        Claim("mixtures train for the same steps and supervised tokens", "no difference",
              _same_training),
        Claim("the short round costs the LLaVA-style model more score than the merged one", "lower",
              effect("effects", LAYOUT.name, "score")),
    ],
    5: [
        Claim("over the openings asked, an unrelated short round raises the LLaVA-style model's "
              "collapse", "higher", _of_openings(_OF_MIX)),
        Claim("it does not raise the merged model's", "not higher",
              _of_openings(_OF_MERGED)),
    ],
    6: [
        Claim(f"the {label} model {'loses' if expected == 'lower' else 'does not lose'} on {name}",
              expected, effect("effects", contrast, metric, **_MM_VET))
        for metric, name in (("gen", "generation"), ("know", "knowledge"))
        for label, contrast, expected in (("LLaVA-style", _OF_MIX, "lower"),
                                          ("merged", _OF_MERGED, "not lower"))
    ],
    7: [
        Claim("the LLaVA-style model loses on abductive questions", "lower",
              effect("effects", _OF_MIX, "abductive", **_INFIMM)),
        Claim("it loses more on them than on deductive ones", "lower", _abductive_more),
    ],
    8: [
        Claim("all images in LLaVA's layout collapse more than none", "higher",
              effect("ablation_effects", "last - first", COLLAPSE, ablation="dose")),
        Claim("the short round moves the probe's margin further towards the short answer in the "
              "LLaVA-style model than in the merged one", "higher", _probe),
    ],
    9: [
        Claim("no share of text-only data or of other scenes raises the score", "not higher",
              _furthest("others", "score", 1)),
        Claim("none lowers the collapse", "not lower", _furthest("others", COLLAPSE, -1)),
    ],
    10: [
        Claim("single-round scores do not tell the merged model from the LLaVA-style one",
              "no difference", effect("effects", ASKED_ALONE.name, "score")),
        Claim("open questions after a short round do", "higher",
              effect("test_effects", versus("merged", "mix", AFTER).name, OPEN_SCORE,
                     setting=OPEN_AFTER)),
    ],
}  # fmt: skip


def verdict(claims: Sequence[Claim], tables: Tables) -> tuple[str, list[tuple[Claim, bool, str]]]:
    """Return the verdict on claims by `RULES`, and every measured claim: whether it holds, number.

    `tables` are those of `told.read_tables`.
    """
    found = [(claim, claim.read(tables)) for claim in claims]
    measured = [(claim, shown.holds(claim.expected), shown.number)
                for claim, shown in found if shown.way is not None]  # fmt: skip
    if not measured:
        return NOT_TESTABLE, []
    directed = [holds for claim, holds, _ in measured if claim.expected in _WAYS]
    if all(holds for _, holds, _ in measured) and len(measured) == len(claims):
        return REPRODUCED, measured
    if not any(directed or (holds for _, holds, _ in measured)):
        refuted = any(
            shown.excludes(claim.expected) if claim.expected in _WAYS
            else shown.contradicts(claim.expected) and not directed
            for claim, shown in found
        )  # fmt: skip
        return (NOT_REPRODUCED if refuted else NOT_TESTABLE), measured
    return PARTLY, measured


def answer(number: int, tables: Tables) -> str:
    """Return the answer to a question in Markdown: its verdict, then at most two numbers."""
    word, measured = verdict(CLAIMS[number], tables)
    if not measured:
        return f"**{word}.** This run did not measure it."
    first = sorted(measured, key=lambda claim: claim[1])[:2]
    parts = [
        f"Claim: {claim.says}; it {'holds' if holds else 'does not hold'} ({value})."
        for claim, holds, value in first
    ]
    return f"**{word}.** {' '.join(parts)}"


def claims_table() -> pd.DataFrame:
    """Return all claims: question, claim, and what is expected of its difference."""
    rows = [(number, claim.says, claim.expected)
            for number, claims in CLAIMS.items() for claim in claims]  # fmt: skip
    return pd.DataFrame(rows, columns=["question", "claim", "expected"])


def summary(tables: Tables) -> str:
    """Return how many questions have which verdict, and which ones."""
    words = {number: verdict(claims, tables)[0] for number, claims in CLAIMS.items()}
    parts = [
        f"{word}: {', '.join(str(n) for n, found in words.items() if found == word) or 'none'}"
        for word in (REPRODUCED, PARTLY, NOT_REPRODUCED, NOT_TESTABLE)
    ]
    return "; ".join(parts)
