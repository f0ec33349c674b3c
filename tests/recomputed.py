"""Numbers in what a run says, recomputed from its tables by names alone, whatever the wording."""

import html
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd

from cocoift.report.tables import LABELS, in_words

EFFECT_TABLES = ("effects", "ablation_effects", "wording_effects", "opening_effects",
                 "history_effects", "test_effects", "choice_effects")  # fmt: skip
# An effect as sentences write it, on how many seeds its sign is, and its corrected p.
EFFECT = re.compile(
    r"([+-]\d+\.\d)(?: points)? \[([+-]\d+\.\d), ([+-]\d+\.\d)\]"
    r"(?:, same sign on (\d+) of (\d+) seeds)?(?:, Holm p ([\d.e-]+))?"
)
LINE = re.compile(r"^- \*\*(.+?)\*\*: (.+)$", re.MULTILINE)
NAMED = re.compile(r"([\w -]+?) \(([+-]\d[^()]*)\)")
NUMBER = re.compile(r"(?<![\w.\-])[+-]?\d[\d,]*(?:\.\d+)?")
ALONE, AFTER = "single_round", "multi_round"


class Tables:
    """The tables of a run, by name; absent ones have no rows."""

    def __init__(self, reports: Path):
        self.folder = reports / "tables"

    def __getitem__(self, name):
        path = self.folder / name
        if not path.is_file():
            return pd.DataFrame()
        return pd.read_csv(path, dtype={"seed": str, "question_id": str})


def effects(tables) -> pd.DataFrame:
    """Return every effect over all seeds, with the count of seeds that have its sign."""
    parts = []
    for name in EFFECT_TABLES:
        table = tables[f"{name}.csv"]
        if table.empty:
            continue
        by = [c for c in ("benchmark", "ablation", "wording", "opening", "setting") if c in table]
        for _, rows in table.groupby([*by, "contrast", "metric"], dropna=False):
            of_all = rows.seed == "all"
            each = rows[~of_all]
            for whole in (rows[of_all] if of_all.any() else rows).to_dict("records"):
                same = int((each.difference * whole["difference"] > 0).sum())
                parts.append(whole | {"same": same, "seeds": len(each)})
    return pd.DataFrame(parts)


def written(row) -> tuple[str, str, str]:
    return tuple(f"{row[name]:+.1f}" for name in ("difference", "low", "high"))


def unknown_effects(text: str, tables) -> list[str]:
    """Return the effects in a text that no table of the run has, number by number."""
    known = {}
    for row in effects(tables).to_dict("records"):
        known.setdefault(written(row), []).append(row)
    wrong = []
    for found in EFFECT.finditer(text):
        *triple, same, seeds, holm = found.groups()
        rows = known.get(tuple(triple), [])
        if same is not None:
            rows = [row for row in rows if (row["same"], row["seeds"]) == (int(same), int(seeds))]
        if holm is not None:
            rows = [row for row in rows if f"{row.get('holm', float('nan')):.2g}" == holm]
        if not rows:
            wrong.append(found[0])
    return wrong


def misnamed_effects(text: str, tables) -> list[str]:
    """Return the effects in a list of contrasts that are not those of their contrast and metric."""
    table = effects(tables)
    keys = zip(table.contrast.map(in_words), table.metric.map(in_words), strict=True)
    rows = table.to_dict("records")
    known = {(*key, *written(row)) for key, row in zip(keys, rows, strict=True)}
    wrong = []
    for contrast, rest in LINE.findall(text):
        for called, effect in NAMED.findall(rest):
            numbers = EFFECT.match(effect)
            metrics = {metric for of, metric, *_ in known if of == contrast}
            fitting = [name for name in metrics if called.endswith(name)]
            if numbers is None or not any((contrast, name, *numbers.groups()[:3]) in known
                                          for name in fitting):  # fmt: skip
                wrong.append(f"{contrast}: {called} ({effect})")
    return wrong


def levels(tables) -> set[str]:
    """Return scores, collapse and compliance of every model as whole numbers, and their changes."""
    table = tables["scores.csv"]
    whole = table[table.seed == "all"].set_index(["benchmark", "model", "metric", "protocol"]).value
    found = {f"{value:.0f}" for value in whole}
    for key, after in whole.items():
        if key[-1] == AFTER and (*key[:-1], ALONE) in whole:
            found.add(f"{abs(after - whole[(*key[:-1], ALONE)]):.0f}")
    return found


def unknown_levels(text: str, tables) -> list[str]:
    """Return the numbers of a text without effects that are no level of a model, and no count."""
    scores = tables["scores.csv"]
    seeds = scores.seed[scores.seed != "all"].nunique()
    counts = {f"{n:,}" for n in scores.n} | {str(seeds), "3", "95", "1.5", "2"}
    checks = tables["gates.csv"]
    if len(checks):  # so many of them fail
        counts |= {str(len(checks)), str((~checks.passed.astype(bool)).sum())}
    rest = EFFECT.sub("", text)
    return [number for number in NUMBER.findall(rest) if number not in levels(tables) | counts]


def answers(notebook: Path) -> str:
    """Return the Markdown that an executed notebook computed and that says an answer."""
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    texts = ["".join(output.get("data", {}).get("text/markdown", "")) for output in outputs]
    return "\n\n".join(text for text in texts if text.startswith("**"))


def index_text(page: Path) -> str:
    """Return what an index says of the finding, without its tags."""
    body = page.read_text(encoding="utf-8").split("<h1>")[1].split("<h2>")[0]
    plain = re.sub(r"data:image[^\"]*|<[^>]*>", " ", body)
    return re.sub(r"\s+", " ", html.unescape(plain))


def bias_numbers(tables) -> dict[str, list[str]]:
    """Return what notebook 06 must answer, by the label of model or mixture, from the tables."""
    found: dict[str, list[str]] = {label: [] for label in LABELS.values()}
    of_all = tables["variety.csv"]
    of_all = of_all[of_all.seed == "all"].set_index(["model", "protocol"])
    taught = tables["after_short_answer.csv"]
    taught = taught[taught.context == "after a short answer"].set_index("mixture")
    margins = tables["probe.csv"]
    means = margins.groupby(["model", "seed", "protocol"]).margin.mean().unstack("protocol")
    moved = (means[AFTER] - means[ALONE]).groupby("model").mean()
    ranked = tables["choice.csv"]
    ranked["first"] = 100 * (ranked.truth > ranked[["colour", "place", "object"]].max(axis=1))
    ranked = ranked.groupby(["model", "seed", "protocol"])["first"].mean()
    ranked = ranked.groupby(["model", "protocol"]).mean()
    faithful = tables["faithfulness.csv"]
    faithful = faithful[faithful.protocol == AFTER].set_index("model").absent_share
    for name, label in LABELS.items():
        alone, after = (of_all.loc[(name, when)] for when in (ALONE, AFTER))
        found[label].append(
            f"{label} {alone.median_words:.0f} → {after.median_words:.0f} words, "
            f"{alone.collapse_rate:.0f} → {after.collapse_rate:.0f} % collapsed"
        )
        if name in taught.index:
            row = taught.loc[name]
            found[label].append(f"{label}: {row.short_share:.0%} of the answers")
            found[label].append(f"{row.prompt_share:.0%} of their questions")
        found[label].append(f"{label} {moved[name]:+.1f} nats")
        found[label].append(f"{label} {ranked[name, ALONE]:.0f} → {ranked[name, AFTER]:.0f} % (")
        if name in faithful and not np.isnan(faithful[name]):
            found[label].append(f"{label} {faithful[name]:.0f} %")
    return found
