"""Ten questions that readers of the paper ask: what it says, what this run shows, what stays open.

Every number comes from the run's own tables; a question whose tables are absent says so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from cocoift.core.files import DataError
from cocoift.evaluation.adherence import ADHERENCE
from cocoift.evaluation.effects import change, describe, rows_of
from cocoift.evaluation.protocols import AFTER, AFTER_LONG, ALONE
from cocoift.evaluation.score import COLLAPSE
from cocoift.merge.layouts import MIXTURES
from cocoift.report.study_figures import FORM_NAMES

Tables = Mapping[str, pd.DataFrame]
NOT_MEASURED = "This run did not measure it."


@dataclass(frozen=True)
class OpenQuestion:
    """A question, the paper's answer, this run's, where it is computed, and what stays open.

    `cell` is a page and heading of the report: `07_ablations.html#Would-full-sentences-be-enough?`.
    """

    question: str
    paper: str
    shows: str
    cell: str
    open: str


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the tables that a run left, by name; seeds are texts."""
    return {
        path.stem: pd.read_csv(path, dtype={"seed": str}) for path in sorted(folder.glob("*.csv"))
    }


class AbsentTableError(LookupError):
    """A table that the run did not write."""


def answered(tables: Tables, answer: Callable[[Tables], str]) -> str:
    """Return what `answer` makes of the tables, or that this run did not measure it."""
    try:
        return answer(tables) or NOT_MEASURED
    except AbsentTableError:
        return NOT_MEASURED


def _table(tables: Tables, name: str) -> pd.DataFrame:
    if name not in tables:
        raise AbsentTableError(name)
    return tables[name]


def why_coco(tables: Tables) -> str:
    """Say how much of what one source annotates others annotate too."""
    counts = _table(tables, "overlap").set_index("source")
    shares = [
        counts.loc[one, other] / counts.loc[one, one]
        for one in counts.index
        for other in counts.columns
        if one != other and counts.loc[one, one]
    ]
    if not shares:
        return ""
    return (
        f"{len(counts)} sources annotate the same images: of the images of one source, another "
        f"one annotates {pd.Series(shares).median():.0%} too (median over pairs)."
    )


def full_sentences(tables: Tables) -> str:
    """Say what sentences instead of phrases do to collapse after the short round."""
    effects = _table(tables, "ablation_effects")
    rows = effects[(effects.ablation == "answers") & (effects.metric == COLLAPSE)]
    if rows.empty:
        return ""
    return (
        f"Collapse after the short round, answers in sentences minus in phrases: {describe(rows)}."
    )


def diversity(tables: Tables) -> str:
    """Say how varied the instructions are, and which forms are rare."""
    distinct = _table(tables, "instruction_diversity").distinct_share.median()
    forms = _table(tables, "forms").set_index("form").turns
    rare = (forms / forms.sum()).sort_values().head(2)
    named = ", ".join(f"{FORM_NAMES.get(name, name)} {share:.1%}" for name, share in rare.items())
    return (
        f"In the median source {distinct:.0%} of the instructions are distinct. The rarest forms "
        f"of answer: {named} of all turns."
    )


def architecture(tables: Tables) -> str:
    """Say that nothing but the data differs, and by how much the data's size does."""
    sets = _table(tables, "training_sets")
    tokens = sets["supervised tokens"]
    same = "the same" if sets.steps.nunique() == 1 else "different numbers of"
    return (
        f"Nothing: one base and one recipe, {same} steps, and supervised tokens that differ by "
        f"{tokens.max() / tokens.min() - 1:.1%} between the mixtures."
    )


def opening(tables: Tables) -> str:
    """Say how collapse goes with the kind of opening, for the LLaVA-style mixture."""
    value = _scores(tables)
    kinds = {ALONE: "none", AFTER: "a short round", "reference_history": "a true short reply",
             AFTER_LONG: "a long round"}  # fmt: skip
    shares = [f"{label} {value['mix', one, COLLAPSE]}" for one, label in kinds.items()
              if ("mix", one, COLLAPSE) in value]  # fmt: skip
    if not shares:
        return ""
    return f"Collapse, LLaVA-style mixture, by what comes before the question: {', '.join(shares)}."


def generation(tables: Tables) -> str:
    """Say what the short round changes in generation and knowledge, per mixture."""
    return _changes(tables, "mm_vet", ("gen", "know"))


def abduction(tables: Tables) -> str:
    """Say what the short round changes in deductive and abductive questions, per mixture."""
    return _changes(tables, "infimm_eval", ("deductive", "abductive"))


def measures(tables: Tables) -> str:
    """Say what other measures show of the bias: the dose, compliance, the probe."""
    parts, value = [], _scores(tables)
    table = tables.get("ablations", pd.DataFrame(columns=["ablation"]))
    dose = table[table.ablation == "dose"]
    if len(dose):
        rows = dose[(dose.seed == "all") & (dose.protocol == AFTER) & (dose.metric == COLLAPSE)]
        shown = ", ".join(f"{r.setting} → {r.value:.0f} %" for r in rows.itertuples())
        parts.append(f"By the share of images in LLaVA's style, collapse is: {shown}")
    if "probe" in tables:
        means = _table(tables, "probe").groupby(["model", "protocol"], sort=False).margin.mean()
        shift = means.unstack("protocol").reindex(columns=[ALONE, AFTER]).diff(axis=1)[AFTER]
        moved = ", ".join(f"{model} {nats:+.1f}" for model, nats in shift.dropna().items())
        parts.append(f"the probe's margin moves towards the short answer by (nats): {moved}")
    obeys = [f"{model} {value[model, AFTER, ADHERENCE]}" for model in MIXTURES
             if (model, AFTER, ADHERENCE) in value]  # fmt: skip
    if obeys:
        parts.append(f"short-answer compliance after the short round: {', '.join(obeys)}")
    return f"{'; '.join(parts)}." if parts else ""


def ratio(tables: Tables) -> str:
    """Say what leaving out each group of sources does to score and collapse."""
    effects = _table(tables, "ablation_effects")
    own = effects[(effects.ablation == "sources") & (effects.metric == COLLAPSE)]
    parts = [f"{name} {describe(rows)}" for name, rows in own.groupby("contrast", sort=False)]
    if not parts:
        return ""
    return f"Collapse after the short round, without a group minus with all: {'; '.join(parts)}."


def benchmark(tables: Tables) -> str:
    """Say what the pair of protocols, the wordings and the controls show."""
    words, value, parts = _table(tables, "wordings"), _scores(tables), []
    rows = words[words.model == "mix"]
    if len(rows):
        by = ", ".join(
            f"{row.wording} {row['collapse, multi_round']:.0%}" for _, row in rows.iterrows()
        )
        parts.append(f"Collapse, LLaVA-style mixture, after the short round by wording: {by}.")
    for model, protocol, metric in value:
        if (model, protocol) == ("merged", "other_picture") and metric in ("total", "overall"):
            parts.append(
                f"With another image the merged mixture still scores "
                f"{value[model, protocol, metric]}, which a benchmark must subtract."
            )
    return " ".join(parts)


def _changes(tables: Tables, benchmark: str, metrics: tuple[str, ...]) -> str:
    effects = _table(tables, "effects")
    own = effects[effects.benchmark == benchmark]
    parts = []
    for model in MIXTURES:
        found = [(name, rows_of(own, change(model).name, name)) for name in metrics]
        described = [f"{name} {describe(rows)}" for name, rows in found if len(rows)]
        if described:
            parts.append(f"{model}: {', '.join(described)}")
    return f"Change by the short round, {'; '.join(parts)}." if parts else ""


def _scores(tables: Tables) -> dict[tuple[str, str, str], str]:
    """Return `value [low, high] %` by model, protocol and metric, of the first benchmark."""
    scores = _table(tables, "scores")
    whole = scores[scores.seed == "all"]
    own = whole[whole.benchmark.isin(whole.benchmark.head(1)) | (whole.metric == ADHERENCE)]
    return {
        (r.model, r.protocol, r.metric): f"{r.value:.0f} [{r.low:.0f}, {r.high:.0f}] %"
        for r in own.itertuples()
    }


def open_questions(path: Path, tables: Tables) -> list[OpenQuestion]:
    """Return the questions of a YAML file with what the tables show; `shows` names the function.

    Raises `DataError` for an entry that lacks a field or names no function of this module.
    """
    functions = {
        one.__name__: one
        for one in (why_coco, full_sentences, diversity, architecture, opening, generation,
                    abduction, measures, ratio, benchmark)
    }  # fmt: skip
    found = []
    for number, entry in enumerate(yaml.safe_load(path.read_text(encoding="utf-8")), start=1):
        try:
            answer = functions[entry.pop("shows")]
            found.append(OpenQuestion(**entry, shows=answered(tables, answer)))
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: question {number}: {error}; restore it") from error
    return found
