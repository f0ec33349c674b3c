"""A notebook's cells run in this process: no kernel, so a preset's whole way takes seconds."""

import ast
import contextlib
import gc
import html
import io
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from IPython.core.formatters import DisplayFormatter

# What Python does not show outside of a test either.
UNSHOWN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
TABLES, ROWS = re.compile(r"<table.*?</table>", re.DOTALL), re.compile("<tr")
UNREAD = r"<style.*?</style>|data:image/[^\"]*|<[^>]*>"
NO_NUMBER = re.compile(r"\b(?:nan|NaN|NaT|[+-]?inf)\b", re.ASCII)
MOST_ROWS = 40  # the rest of a table is in its CSV
NO_ROWS = re.compile(r"</thead>\s*(?:<tbody>\s*</tbody>\s*)?</table>")


@dataclass
class Outputs:
    """What a notebook's cells showed, and the warnings they raised: (cell, text) in order."""

    shown: list[tuple[str, str]] = field(default_factory=list)
    warned: list[tuple[str, str]] = field(default_factory=list)

    @property
    def text(self):
        """All that a reader sees."""
        return "\n".join(_read(page) for _, page in self.shown)

    def faults(self):
        """Return what no page should show: warnings, no numbers, tables without or of many rows."""
        found = [f"{cell} warns: {text}" for cell, text in self.warned]
        for cell, page in self.shown:
            for match in NO_NUMBER.finditer(text := _read(page)):
                found.append(f"{cell} no number: {text[max(0, match.start() - 60) :][:100]}")
            if NO_ROWS.search(page):
                found.append(f"{cell} bare head: {_read(page)}")
            if any(len(table) > MOST_ROWS + 1 for table in map(ROWS.findall, TABLES.findall(page))):
                found.append(f"{cell} long table: {_read(page)[:100]}")
        return found


def _read(page):
    plain = html.unescape(re.sub(UNREAD, " ", page, flags=re.DOTALL)) if "<" in page else page
    return re.sub(r"\s+", " ", plain)


def run_cells(notebook: Path, *, preset, changes=None) -> Outputs:
    """Run a notebook's cells as the runner would, with these parameters, and return its outputs."""
    outputs, form = Outputs(), DisplayFormatter().format
    # Every training collects garbage: half of a preset's time, if all that pytest holds is visited.
    gc.freeze()
    cells = [c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
    names = {"__name__": "__main__"}
    with contextlib.chdir(notebook.parent):
        for cell in cells:
            if "parameters" in cell.metadata.get("tags", []):
                names |= {"preset": preset, "changes": changes or {}}
                continue
            printed, shown = io.StringIO(), []

            def display(*objects, shown=shown):
                for item in objects:
                    shown.append(_text_of(form(item)[0]))

            names["display"] = display
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                for kind in UNSHOWN:
                    warnings.simplefilter("ignore", kind)
                with contextlib.redirect_stdout(printed):
                    _run(cell, names)
            outputs.shown += [(cell.id, text) for text in (printed.getvalue(), *shown)]
            outputs.warned += [(cell.id, f"{w.category.__name__}: {w.message}") for w in caught]
    return outputs


def _text_of(kinds):
    """Return what a page shows of an output in several forms."""
    texts = (kinds.get(f"text/{kind}") for kind in ("html", "markdown", "plain"))
    return next(text for text in texts if text is not None)


def executed_outputs(notebook: Path) -> Outputs:
    """Return the outputs that an executed notebook holds; what went to stderr is a warning."""
    found = Outputs()
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                found.warned.append((cell.id, output.text))
            else:
                text = output.text if "text" in output else _text_of(output.data)
                found.shown.append((cell.id, text))
    return found


def _run(cell, names):
    tree = ast.parse(cell.source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, f"<{cell.id}>", "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), f"<{cell.id}>", "eval"), names)
        if value is not None:
            names["display"](value)
