"""What lint found, as a table for a terminal, as JSON, and as a page that opens offline."""

import json
from typing import Any

import msgspec

from cocoift.core.templates import render
from cocoift.lint.checking import Result, Source, size_in_words
from cocoift.lint.cue import Cue
from cocoift.lint.findings import PLACEMENTS, Finding

# Columns of a terminal.
WIDTH = 100
_SOURCES = 10
_PER_SOURCE = 2
# The page shows what it carries: nothing is fetched, whatever a text in the data says.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def as_text(result: Result) -> str:
    """Return what was found in lines of at most `WIDTH` columns; the last one is the verdict."""
    lines = [f"{_names(result.files)}: {size_in_words(result)}", *result.notes, ""]
    lines.append(_row("finding", "count", "share", "e.g."))
    for finding in result.findings:
        total = finding.total
        example = total.examples[0].place if total.examples else ""
        lines.append(_row(finding.title, f"{total.count:,}", _percent(total.share), example))
        named = [count for count in finding.sources if count.source]
        if len(named) > 1 or finding.name == "unread":
            for count in named[:_PER_SOURCE]:
                example = count.examples[0].place if count.examples else ""
                name = f"  {count.source}"
                lines.append(_row(name, f"{count.count:,}", _percent(count.share), example))
        lines.append(f"  > {finding.advice}")
    if not result.findings:
        lines.append("nothing")
    lines += ["", *_placement_lines(result), "", _cue_line(result.total.cue), result.verdict]
    return "\n".join(line[:WIDTH].rstrip() for line in map(_plain, lines)) + "\n"


def _names(files: list[str]) -> str:
    first = files[0] if len(files[0]) <= 50 else f"...{files[0][-47:]}"
    return first if len(files) == 1 else f"{first} and {len(files) - 1} more"


def _plain(line: str) -> str:
    """Return a line without what would move a terminal's cursor or colour it."""
    return "".join(c if c.isprintable() else "?" for c in line)


def _row(title: str, count: str, share: str, example: str) -> str:
    return f"{title[:47]:47} {count:>10} {share:>8}  {example[-31:]}"


def _percent(share: float) -> str:
    return f"{share:.1f} %"


def _placement_lines(result: Result) -> list[str]:
    """Return the table of sources: where prompts stand in conversations of two terse turns."""
    heads = ("terse", "asked", "none", "first", "some", "every", "cue")
    lines = [_source_row("source", "turns", heads)]
    for source in result.sources[: _SOURCES + 1]:
        lines.append(_source_row(shown_name(source), f"{source.turns:,}", _source_cells(source)))
    if len(result.sources) > _SOURCES + 1:
        lines.append(f"... {len(result.sources) - _SOURCES - 1} more; --html shows them")
    lines.append("terse: three words or fewer; none, first, some, every: which of the terse turns")
    lines.append("of a conversation say so, among conversations with two or more; cue: see the end")
    return lines


def _source_row(name: str, turns: str, cells: tuple[str, ...]) -> str:
    return f"{name[:28]:28} {turns:>12}" + "".join(f"{cell:>8}" for cell in cells)


def shown_name(source: Source) -> str:
    """Return a source's name, or words where it has none."""
    return source.name or "(not named)"


def _source_cells(source: Source) -> tuple[str, ...]:
    turns, placed = source.turns or 1, sum(source.placed.values())
    shares = (f"{100 * source.terse / turns:.0f} %", f"{100 * source.asked / turns:.0f} %")
    places = (f"{100 * n / placed:.0f} %" if placed else "-" for n in source.placed.values())
    return (*shares, *places, f"{source.cue.strength:+.0f}" if source.cue else "-")


def _cue_line(cue: Cue | None) -> str:
    if cue is None:
        return "cue: no question is asked both after a short answer and otherwise"
    return (
        f"cue: unprompted, like questions are answered tersely in {cue.after_short:.0f} % after a "
        f"short answer, else in {cue.otherwise:.0f} %"
    )


def as_json(result: Result) -> str:
    """Return everything that was found as JSON, with the verdict."""
    found = msgspec.to_builtins(result)
    for finding, row in zip(result.findings, found["findings"], strict=True):
        row["total"]["share"] = finding.total.share
        for count, cells in zip(finding.sources, row["sources"], strict=True):
            cells["share"] = count.share
    found |= {"fails": result.fails, "verdict": result.verdict}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def as_page(result: Result) -> str:
    """Return what was found as one self-contained page; texts of the data are escaped."""
    return render(
        "lint.html",
        policy=POLICY,
        title="instruction data",
        result=result,
        size=size_in_words(result),
        cue=_cue_line(result.total.cue),
        placements=PLACEMENTS,
        sources=[_source_values(source) for source in result.sources],
        findings=[_finding_values(finding) for finding in result.findings],
    )


def _source_values(source: Source) -> dict[str, Any]:
    placed = sum(source.placed.values())
    shares = {name: 100 * n / placed if placed else 0.0 for name, n in source.placed.items()}
    cells = _source_cells(source)
    return {"name": shown_name(source), "turns": source.turns, "terse": cells[0],
            "asked": cells[1], "placed": placed, "shares": shares, "cue": source.cue}  # fmt: skip


def _finding_values(finding: Finding) -> dict[str, Any]:
    counts = [finding.total, *finding.sources] if len(finding.sources) > 1 else [finding.total]
    return {"finding": finding, "counts": counts}
