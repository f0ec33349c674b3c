import re

import nbformat
import pandas as pd
import pytest
from cells import run_cells

from cocoift.report.told import NOT_MEASURED, answer

NOTEBOOK = "notebooks/09_open_questions.ipynb"
EFFECT = ["metric", "contrast", "seed", "difference", "low", "high", "n", "ablation"]
SOURCES = 'ablation == "sources"'


def test_what_is_absent_or_was_not_run_is_said_not_to_be_measured():
    empty = pd.DataFrame(columns=EFFECT)
    dose = pd.DataFrame([("collapse", "a", "all", 1, 0, 2, 9, "dose")], columns=EFFECT)
    for tables in ({}, {"ablation_effects": empty}, {"ablation_effects": dose}):
        assert answer(tables, "ablation_effects", SOURCES).data == NOT_MEASURED
    assert answer({"a": dose}, "a", show=lambda rows: "").data == NOT_MEASURED


def test_a_query_chooses_the_effects_that_are_told():
    rows = [("collapse", "without counting", seed, -8.0, -12.0, -4.0, 9, "sources")
            for seed in ("0", "1", "all")]  # fmt: skip
    tables = {"ablation_effects": pd.DataFrame(rows, columns=EFFECT)}
    text = answer(tables, "ablation_effects", SOURCES).data
    assert "lower collapse (-8.0 points [-12.0, -4.0], same sign on 2 of 2 seeds" in text


def test_an_answer_hides_no_fault_of_its_own():
    tables = {"wordings": pd.DataFrame({"model": ["mix"], "wording": ["short"]})}
    with pytest.raises(KeyError, match="score"):
        answer(tables, "wordings", show=lambda rows: rows["score"])


def test_every_answer_links_to_a_heading_that_a_notebook_has(root):
    source = nbformat.read(root / NOTEBOOK, as_version=4)
    links = re.findall(r"\]\((\w+)\.html(?:#([^)]*))?\)", "".join(c.source for c in source.cells))
    assert len(links) == 10
    for page, heading in links:
        text = (root / f"notebooks/{page}.ipynb").read_text()
        assert f"# {heading.replace('-', ' ')}" in text or not heading


def test_overlap_is_the_median_share_of_images_that_another_source_annotates_too(root, tmp_path):
    # Of b's 20 images a annotates 5, of a's 10 b annotates 5.
    (tmp_path / "tables").mkdir()
    overlap = pd.DataFrame({"source": ["a", "b"], "a": [10, 5], "b": [5, 20]})
    overlap.to_csv(tmp_path / "tables/overlap.csv", index=False)
    outputs = run_cells(root / NOTEBOOK, preset="mini", changes={"report_dir": str(tmp_path)})
    assert "annotates 38% too" in outputs.text and "1 of 10 tables are there" in outputs.text
    assert not outputs.faults()
