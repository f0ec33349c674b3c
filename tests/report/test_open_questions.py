import pandas as pd
import pytest
import yaml

from cocoift.core.files import DataError
from cocoift.report import open_questions as report

EFFECT = ["metric", "contrast", "seed", "difference", "low", "high", "n", "ablation"]


def overlap():
    return pd.DataFrame({"source": ["a", "b"], "a": [10, 5], "b": [5, 20]})


def test_overlap_is_the_median_share_of_images_that_another_source_annotates_too():
    # 5 of a's 10 images and 5 of b's 20: one half and one quarter.
    assert "annotates 38% too" in report.why_coco({"overlap": overlap()})


def test_a_question_whose_tables_are_absent_is_said_not_to_be_measured(root):
    found = report.open_questions(root / "data/open_questions.yaml", {})
    assert len(found) == 10 and {one.shows for one in found} == {report.NOT_MEASURED}


def test_an_ablation_that_was_not_run_is_not_answered():
    empty = pd.DataFrame(columns=EFFECT)
    assert report.answered({"ablation_effects": empty}, report.ratio) == report.NOT_MEASURED
    assert report.answered({"ablation_effects": empty}, report.full_sentences) == (
        report.NOT_MEASURED
    )


def test_what_leaving_out_a_group_does_is_told_with_its_interval():
    rows = [("collapse", "without counting", seed, -8.0, -12.0, -4.0, 9, "sources")
            for seed in ("0", "1", "all")]  # fmt: skip
    said = report.ratio({"ablation_effects": pd.DataFrame(rows, columns=EFFECT)})
    assert "without counting -8.0 points [-12.0, -4.0], same sign on 2 of 2 seeds" in said


def test_every_question_links_to_a_heading_that_a_notebook_has(root):
    for one in report.open_questions(root / "data/open_questions.yaml", {}):
        page, _, heading = one.cell.partition("#")
        text = (root / "notebooks" / page.replace(".html", ".ipynb")).read_text()
        assert f"# {heading.replace('-', ' ')}" in text or not heading


def test_a_question_that_names_no_function_is_named(tmp_path):
    entry = {"question": "?", "paper": "", "cell": "", "open": "", "shows": "nothing"}
    (tmp_path / "q.yaml").write_text(yaml.safe_dump([entry]))
    with pytest.raises(DataError, match="question 1: 'nothing'"):
        report.open_questions(tmp_path / "q.yaml", {})
