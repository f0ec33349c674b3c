"""The part of README that a run's tables decide; `python tests/readme_text.py` writes it anew."""

import sys
from pathlib import Path

import pandas as pd

from cocoift.core.files import read_json
from cocoift.core.images import png_texts
from cocoift.report import plain
from cocoift.report.evaluation import sanity_sentence
from cocoift.study.index import HEADLINES

ROOT = Path(__file__).resolve().parents[1]
RUN = "reports/mini-full"
BEGIN, END = "<!-- from the tables of the reference run: ", "<!-- end -->"
LABELS = {"base": "nothing (base model)", "mix": "the LLaVA-style mixture",
          "merged": "the merged mixture", "instructed": "the instructed mixture"}  # fmt: skip


def computed(run: Path) -> str:
    """Return the dialog, the bullets, the table and the figure of a run, as Markdown."""
    tables = run / "tables"
    texts = {"seed": str}
    scores = pd.read_csv(tables / "scores.csv", dtype=texts)
    effects = pd.read_csv(tables / "effects.csv", dtype=texts)
    dialog = _dialog(pd.read_csv(tables / "verdicts.csv.gz"), run)
    bullets = "\n".join(f"- {sentence}" for sentence in plain.bullets(scores, effects))
    figure = next(name for name in HEADLINES if (run / f"figures/{name}.png").is_file())
    title, _ = png_texts(run / f"figures/{figure}.png")
    image = f"![{title}]({RUN}/figures/{figure}.png)"
    checks = sanity_sentence(pd.read_csv(tables / "gates.csv"))
    return "\n\n".join([dialog, bullets, image, _levels(scores, effects), checks])


def _dialog(verdicts: pd.DataFrame, run: Path) -> str:
    """Return one question with the answers of both models, alone and after the short round."""
    shown = plain.example(verdicts)
    question = shown.question.iloc[0]
    answers = shown.set_index(["model", "protocol"]).answer
    preset = read_json(run / "run.json", dict, fix="")["parameters"]
    opening = preset["evaluation"]["protocols"]["multi_round"]["opening"][0]
    lines = [f'| | asked on its own | asked after "{opening}" |', "|---|---|---|"]
    for name, label in (("mix", "LLaVA-style mixture"), ("merged", "merged mixture")):
        alone, after = (answers[name, when] for when in ("single_round", "multi_round"))
        after = f"**{after}**" if name == "mix" else after
        cells = [f"*{question}*<br>{answer}" for answer in (alone, after)]
        lines.append(f"| tuned on a **{label}** | {' | '.join(cells)} |")
    return "\n".join(lines)


def _levels(scores: pd.DataFrame, effects: pd.DataFrame) -> str:
    """Return score and short answers of each model, and the change of the score."""
    first = scores.benchmark.iloc[0]
    level = scores[(scores.benchmark == first) & (scores.seed == "all")]
    level = level.set_index(["model", "metric", "protocol"]).value
    changes = effects[(effects.benchmark == first) & (effects.seed == "all")]
    changes = changes[changes.metric == "total"].set_index("contrast")
    heads = ["tuned on", "score, alone → after", "collapsed, alone → after",
             "change of the score [95 % interval]"]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|---|"]
    for name, label in LABELS.items():
        cells = [" → ".join(f"{level[name, metric, when]:.0f}{unit}"
                            for when in ("single_round", "multi_round"))
                 for metric, unit in (("total", ""), ("collapse", " %"))]  # fmt: skip
        row = changes.loc[f"change of {name}"]
        holm = "" if pd.isna(row.get("holm")) else f", Holm p {row.holm:.2g}"
        cells.append(f"{row.difference:+.1f} [{row.low:+.1f}, {row.high:+.1f}]{holm}")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parts(readme: str) -> tuple[str, str, str]:
    """Return README's text before, in and after its computed part."""
    before, rest = readme.split(BEGIN)
    note, rest = rest.split("\n", 1)
    inside, after = rest.split(END)
    return f"{before}{BEGIN}{note}\n", inside.strip("\n"), f"{END}{after}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    before, _, after = parts(path.read_text())
    path.write_text(f"{before}\n{computed(ROOT / RUN)}\n\n{after}")
    sys.stdout.write(f"{path} rewritten from {RUN}\n")
