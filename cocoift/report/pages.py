"""Pages that open offline: executed notebooks as HTML, and the index of a run."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocoift.core.templates import render

# Importing nbformat takes a second: its JSON schema's formats are compiled each time.
if TYPE_CHECKING:
    from nbformat import NotebookNode

# The page may show what it carries and nothing else: no script, font or image is fetched, and
# a link that text smuggled in cannot load anything either.
POLICY = (
    "default-src 'none'; img-src data:; font-src data:; "
    "style-src 'unsafe-inline'; script-src 'none'; base-uri 'none'; form-action 'none'"
)

_WIDGET = "application/vnd.jupyter.widget-view+json"
_SCRIPT = re.compile(r"<script\b.*?</script>", re.DOTALL | re.IGNORECASE)


def notebook_page(notebook: "NotebookNode", *, title: str, following: str = "") -> str:
    """Return an executed notebook as one self-contained page; no request leaves it.

    Code is folded.  The page links to the run's index and to the page of the notebook `following`.
    """
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        raw_template=(files("cocoift.core") / "jinja/notebook.html").read_text(encoding="utf-8"),
        embed_images=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        mathjax_url="",
        require_js_url="",
        jquery_url="",
        mermaid_js_url="",
        jupyter_widgets_base_url="",
    )
    resources = {"metadata": {"name": title}, "following": following}
    body, _ = exporter.from_notebook_node(notebook, resources)
    policy = f'<meta http-equiv="Content-Security-Policy" content="{html.escape(POLICY)}">'
    body = _SCRIPT.sub("", body)
    return body.replace("<head>", f"<head>{policy}", 1).replace("<html>", '<html lang="en">', 1)


def answer_first(notebook: "NotebookNode") -> "NotebookNode":
    """Repeat the answer that an executed notebook computes at its end below its question.

    An answer is a Markdown output that begins with `**Answer`.  The notebook is changed in place.
    """
    from nbformat.v4 import new_markdown_cell

    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    texts = ["".join(output.get("data", {}).get("text/markdown", "")) for output in outputs]
    answers = [text for text in texts if text.startswith("**Answer")]
    if answers:
        metadata = {"tags": ["answer"]}
        notebook.cells.insert(1, new_markdown_cell(answers[-1], metadata=metadata))
    return notebook


def without_widgets(notebook: "NotebookNode") -> "NotebookNode":
    """Return an executed notebook whose widgets are replaced by the static output beside them.

    A widget without its kernel shows nothing, so one without static output, such as a progress
    bar, is left out.  The notebook is changed in place.
    """
    for cell in notebook.cells:
        shown = []
        for output in cell.get("outputs", ()):
            was_widget = output.get("data", {}).pop(_WIDGET, None) is not None
            if not was_widget or "text/html" in output["data"]:
                shown.append(output)
        if "outputs" in cell:
            cell.outputs = shown
    notebook.metadata.pop("widgets", None)
    return notebook


def headline(notebook: Path) -> tuple[str, str]:
    """Return title and question of a notebook: the heading and the next line of its first cell."""
    first = "".join(json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]["source"])
    title, *rest = [line.strip() for line in first.splitlines() if line.strip()]
    return title.lstrip("# "), rest[0].strip("*_ ") if rest else ""


def index_page(
    *,
    run: Mapping[str, Any],
    notebooks: Sequence[Path],
    figures: Sequence[Mapping[str, str]],
    finding: Mapping[str, Any] | None,
    others: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the index of a run: the finding first, then its notebooks, figures and provenance.

    `figures` holds `title`, `alt` and `data`, a `data:` address; the first one belongs to the
    finding.  `run` is what `run.json` says; `finding` holds `conclusion`, `sentence` and `table`, a
    list of rows by column name, and may hold `bullets`, the same in plain words, and a `warning`.
    `others` are the reports of other models: `model`, `preset`, `finding`, `address` and `figure`.
    """
    return render(
        "index.html",
        title=run["preset"],
        run=run,
        rows=notebook_rows(notebooks, run["seconds"]),
        figures=figures,
        finding=finding,
        others=others,
        policy=POLICY,
    )


def notebook_rows(notebooks: Sequence[Path], seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return name, title, question and seconds of the notebooks that have run."""
    rows = []
    for path in notebooks:
        if path.stem in seconds:
            title, asked = headline(path)
            rows.append({"name": path.stem, "title": title, "question": asked,
                         "seconds": seconds[path.stem]})  # fmt: skip
    return rows
