"""The command: one table, one verdict, three exit statuses, a page that escapes what it shows."""

import json
import re

import pytest
from files import llava, write

from cocoift import __main__, lint
from cocoift.lint import checking, page
from cocoift.lint.prediction import Prediction


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        __main__.main(["lint", *map(str, arguments)])
    return ended.value.code, *capsys.readouterr()


def predicted(monkeypatch, after):
    """Put a prediction in the place of the study's calibration."""
    made = Prediction(alone=4.0, after=after, low=after - 9, high=after + 9, raw_alone=1.0,
                      raw_after=2.0, answers=3, run="none", arms=4)  # fmt: skip
    monkeypatch.setattr(checking, "predict", lambda conversations: made)


def test_the_table_fits_a_terminal_and_ends_with_the_verdict(tmp_path, capsys, monkeypatch):
    predicted(monkeypatch, 9)
    rows = [row | {"source": "s" * 200, "id": "i" * 300} for row in llava()]
    path = write(tmp_path, "x" * 120 + ".json", rows)
    code, printed, _ = run(capsys, path)
    lines = printed.splitlines()
    assert code == 0 and max(map(len, lines)) <= 100
    assert lines[-1].startswith("9 % [0, 18] of open answers predicted to collapse")
    assert lines[-1].endswith("not above 10 %")
    assert "terse answer that nobody asked for" in printed


def test_the_status_says_whether_the_data_fails(tmp_path, capsys, monkeypatch):
    path = write(tmp_path, "llava.json")
    predicted(monkeypatch, checking.FAIL_ABOVE)
    assert run(capsys, path)[0] == 0
    predicted(monkeypatch, 53)
    assert run(capsys, path)[0] == 1
    assert run(capsys, path, "--fail-above", "60")[0] == 0


def test_what_cannot_be_read_is_status_two_and_one_line(tmp_path, capsys):
    (tmp_path / "x.json").write_text("[{]")
    for path in (tmp_path / "x.json", tmp_path / "absent.json"):
        code, printed, told = run(capsys, path)
        assert code == 2 and not printed
        assert told.splitlines()[-1].startswith("error: ") and path.name in told


def test_the_page_shows_everything_and_runs_nothing(tmp_path, capsys, monkeypatch):
    predicted(monkeypatch, 53)
    bad = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202e"
    rows = llava()
    rows[0]["id"] = rows[0]["source"] = bad
    rows[0]["conversations"][2]["value"] = bad
    code, *_ = run(capsys, write(tmp_path, "x.json", rows), "--html", tmp_path / "p.html",
                   "--json", tmp_path / "p.json")  # fmt: skip
    text = (tmp_path / "p.html").read_text()
    assert code == 1 and "&lt;script&gt;" in text and "[U+202E]" in text
    assert not re.search(r"<script|<img|https?://|\u202e", text)
    found = json.loads((tmp_path / "p.json").read_text())
    assert found["fails"] is True and found["verdict"] in text
    names = {finding["name"] for finding in found["findings"]}
    assert {"unasked", "first_turn_only"} <= names
    assert all(f'id="{name}"' in text for name in names)


def test_a_terminal_gets_no_control_characters(tmp_path):
    rows = [row | {"source": "\x1b[31mred\u202e"} for row in llava()]
    result = lint.check(write(tmp_path, "x.json", rows))
    assert all(c.isprintable() or c == "\n" for c in page.as_text(result))


def test_lint_and_fix_are_two_commands_of_the_program(tmp_path, capsys):
    path = write(tmp_path, "llava.json")
    __main__.main(["fix", str(path), str(tmp_path / "out.json"), "--prompts", "terse"])
    assert "3 prompts added" in capsys.readouterr().out
    assert "nobody asked" not in run(capsys, tmp_path / "out.json")[1]


def test_llava_mixs_structure_comes_out_as_what_it_is(tmp_path, root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "tests/bench"))
    from importlib import util

    spec = util.spec_from_file_location("bench_lint", root / "tests/bench/lint.py")
    bench = util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    path = tmp_path / "mix.json"
    written = bench.write(path, 0.002)
    result = lint.check(path)
    assert result.total.conversations == written
    named = {source.name: source for source in result.sources}
    assert named["gqa"].conversations == round(72_140 * 0.002)
    assert named["(text only)"].conversations == round(40_688 * 0.002)
    for folder in ("gqa", "ocr_vqa"):
        placed = named[folder].placed
        assert placed["first turn only"] == sum(placed.values()) == named[folder].conversations
    assert named["vg"].placed["first turn only"] == 0
    assert result.total.cue.strength > 95
