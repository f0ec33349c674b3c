"""Pages that open offline: executed notebooks as HTML, and the index of a run."""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Environment, StrictUndefined
from nbconvert import HTMLExporter

# The page may show what it carries and nothing else: no script, font or picture is fetched, and
# a link that text smuggled in cannot load anything either.
POLICY = (
    "default-src 'none'; img-src data:; font-src data:; "
    "style-src 'unsafe-inline'; script-src 'none'; base-uri 'none'; form-action 'none'"
)

_WIDGET = "application/vnd.jupyter.widget-view+json"
_SCRIPT = re.compile(r"<script\b.*?</script>", re.DOTALL | re.IGNORECASE)

_STYLE = """
:root { color-scheme: light; }
body { font: 17px/1.6 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem;
       color: #1c1c1c; background: #fff; }
h1 { line-height: 1.2; } h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; } th, td { padding: .35rem .8rem; text-align: left;
       border-bottom: 1px solid #ddd; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; }
figcaption { color: #444; } a { color: #0b57a4; }
.scroll { overflow-x: auto; } code { overflow-wrap: anywhere; }
.finding { font-size: 1.1em; } thead, tr { break-inside: avoid; }
@media (max-width: 40rem) { body { font-size: 16px; padding: .7rem; } h1 { font-size: 1.5rem; }
       th, td { padding: .3rem .45rem; } }
@media print { body { max-width: none; font-size: 11pt; } figure { break-inside: avoid; } }
"""

_INDEX = """{% macro shown(figure) -%}
<figure><img src="{{ figure.data | safe }}" alt="{{ figure.alt }}">
<figcaption>{{ figure.title }}</figcaption></figure>
{%- endmacro -%}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>cocoift: {{ run.preset }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<h1>{{ question }}</h1>
{% if finding %}
<p class="finding"><strong>{{ finding.conclusion }}</strong> {{ finding.sentence }}</p>
{% for figure in figures[:1] %}{{ shown(figure) }}{% endfor %}
<div class="scroll"><table>
<tr>{% for name in finding.table[0] %}<th class="{{ 'text' if loop.first else 'number' }}">
{{- name }}</th>{% endfor %}</tr>
{% for row in finding.table %}
<tr>{% for cell in row.values() %}<td class="{{ 'text' if loop.first else 'number' }}">
{{- cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% endif %}
<p>{{ purpose }}</p>
<h2>What is real here</h2>
<p>{{ provenance }}</p>
<h2>Notebooks</h2>
<div class="scroll"><table>
<tr><th>Notebook</th><th>Question</th><th>Seconds</th></tr>
{% for row in rows %}
<tr><td><a href="{{ row.name }}.html">{{ row.title }}</a></td><td>{{ row.question }}</td>
<td class="number">{{ row.seconds }}</td></tr>
{% endfor %}
</table></div>
{% for figure in (figures[1:] if finding else figures) %}{{ shown(figure) }}{% endfor %}
<h2>This run</h2>
<div class="scroll"><table>
<tr><th>Preset</th><td>{{ run.preset }}</td></tr>
<tr><th>Machine</th><td>{{ run.device }}</td></tr>
<tr><th>Commit</th><td><code>{{ run.commit }}</code></td></tr>
<tr><th>Seeds</th><td>{% for n, v in run.seeds.items() %}{{ n }} = {{ v }} {% endfor %}</td></tr>
<tr><th>Versions</th><td>{% for n, v in run.versions.items() -%}
{{ n }} {{ v }}{{ ", " if not loop.last }}{% endfor %}</td></tr>
</table></div>
<p>All parameters are in <code>run.json</code>, all tables in <code>tables/</code> and all figures
in <code>figures/</code> beside this page.</p>
</body>
</html>
"""


def notebook_page(notebook: nbformat.NotebookNode, *, title: str) -> str:
    """Return an executed notebook as one self-contained page; no request leaves it."""
    exporter = HTMLExporter(
        embed_images=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        mathjax_url="",
        require_js_url="",
        jquery_url="",
        mermaid_js_url="",
        jupyter_widgets_base_url="",
    )
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    policy = f'<meta http-equiv="Content-Security-Policy" content="{html.escape(POLICY)}">'
    body = _SCRIPT.sub("", body)
    return body.replace("<head>", f"<head>{policy}", 1).replace("<html>", '<html lang="en">', 1)


def without_widgets(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return an executed notebook whose widgets give way to the static output beside them.

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
    first = nbformat.read(notebook, as_version=4).cells[0].source
    title, *rest = [line.strip() for line in first.splitlines() if line.strip()]
    return title.lstrip("# "), rest[0].strip("*_ ") if rest else ""


def index_page(
    *,
    run: Mapping[str, Any],
    notebooks: Sequence[Path],
    figures: Sequence[Mapping[str, str]],
    finding: Mapping[str, Any] | None,
    question: str,
    purpose: str,
    provenance: str,
) -> str:
    """Return the index of a run: the finding first, then its notebooks, figures and provenance.

    `figures` holds `title`, `alt` and `data`, a `data:` address; the first one belongs to the
    finding.  `finding` holds `conclusion`, `sentence` and `table`, a list of rows by column name.
    """
    rows = []
    for path in notebooks:
        if path.stem in run["seconds"]:
            title, asked = headline(path)
            seconds = run["seconds"][path.stem]
            rows.append({"name": path.stem, "title": title, "question": asked, "seconds": seconds})
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_INDEX)
    return template.render(
        run=run,
        rows=rows,
        figures=figures,
        finding=finding,
        question=question,
        purpose=purpose,
        provenance=provenance,
        policy=POLICY,
        style=_STYLE,
    )
