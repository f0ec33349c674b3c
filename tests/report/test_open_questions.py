"""Verdicts on the ten questions: by rules that are stated, from tables alone."""

import re

import nbformat
import pandas as pd
import pytest
from cells import run_cells

from cocoift.report import verdicts
from cocoift.report.verdicts import NOT_REPRODUCED, NOT_TESTABLE, PARTLY, REPRODUCED, Claim

NOTEBOOK = "notebooks/09_open_questions.ipynb"
EFFECT = ["benchmark", "metric", "contrast", "seed", "difference", "low", "high"]


def effects(*found, benchmark="mm_vet"):
    """Rows of effects over all seeds and of one: (contrast, metric, difference, half width)."""
    rows = [(benchmark, metric, contrast, seed, value, value - half, value + half)
            for contrast, metric, value, half in found for seed in ("0", "1", "all")]  # fmt: skip
    return pd.DataFrame(rows, columns=EFFECT)


UP, DOWN, FLAT = ("a", "total", 9, 2), ("b", "total", -9, 2), ("c", "total", 1, 3)
VAGUE = ("d", "total", 1, 20)
TABLES = {"effects": effects(UP, DOWN, FLAT, VAGUE)}


def claim(contrast, expected, metric="score"):
    return Claim("it moves", expected, verdicts.effect("effects", contrast, metric))


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ([("a", "higher"), ("b", "lower")], REPRODUCED),
        ([("a", "higher"), ("c", "not lower")], REPRODUCED),
        ([("c", "no difference")], REPRODUCED),
        ([("a", "higher"), ("b", "higher")], PARTLY),
        ([("a", "higher"), ("absent", "higher")], PARTLY),
        ([("a", "higher"), ("b", "not lower")], PARTLY),
        # That something does not fall is no evidence where nothing rises that should.
        ([("c", "higher"), ("c", "not lower")], NOT_REPRODUCED),
        # Where the interval reaches far, neither equality nor its contrary is known.
        ([("d", "no difference")], NOT_TESTABLE),
        ([("d", "not lower"), ("d", "not higher")], NOT_TESTABLE),
        # Nor whether it rises: an effect that matters is neither shown nor excluded.
        ([("d", "higher")], NOT_TESTABLE),
        ([("a", "not higher"), ("d", "not lower")], NOT_REPRODUCED),
        ([("a", "higher"), ("d", "not lower")], PARTLY),
        ([("a", "lower")], NOT_REPRODUCED),
        ([("a", "no difference")], NOT_REPRODUCED),
        ([("absent", "higher")], NOT_TESTABLE),
    ],
)
def test_a_verdict_follows_from_which_claims_hold(claims, expected):
    assert verdicts.verdict([claim(*each) for each in claims], TABLES)[0] == expected


def test_a_headline_contrast_holds_only_where_the_corrected_test_does():
    table = effects(UP).assign(family="headline", holm=0.2, p=0.01)
    assert verdicts.verdict([claim("a", "higher")], {"effects": table})[0] == NOT_TESTABLE
    assert verdicts.verdict([claim("a", "higher")], {"effects": table.assign(holm=0.01)})[0] == (
        REPRODUCED
    )


def test_an_answer_begins_with_its_verdict_and_names_what_does_not_hold_first():
    table = pd.concat([
        effects(("change of mix", "gen", -20, 3), ("change of mix", "know", 2, 9),
                ("change of merged", "gen", 0, 2), ("change of merged", "know", -8, 2)),
    ])  # fmt: skip
    text = verdicts.answer(6, {"effects": table})
    assert text.startswith("**partly.** Claim: ")
    assert re.findall(r"(does not hold|holds) \((\S+) points", text) == [
        ("does not hold", "+2.0"), ("does not hold", "-8.0")]  # fmt: skip


def test_abductive_questions_count_only_if_lost_more_than_deductive_ones_on_every_training():
    rows = effects(("change of mix", "abductive", -9, 3), ("change of mix", "deductive", -4, 3),
                   benchmark="infimm_eval")  # fmt: skip
    assert verdicts.verdict(verdicts.CLAIMS[7], {"effects": rows})[0] == REPRODUCED
    other = rows.assign(difference=rows.difference.mask(
        (rows.seed == "1") & (rows.metric == "deductive"), -20))  # fmt: skip
    assert verdicts.verdict(verdicts.CLAIMS[7], {"effects": other})[0] == PARTLY
    risen = rows.assign(low=1.0, high=2.0, difference=rows.difference.abs())
    assert verdicts.verdict(verdicts.CLAIMS[7], {"effects": risen})[0] == NOT_REPRODUCED


def test_openings_count_as_one_factor_where_several_were_asked():
    one = effects(("change of mix", "collapse", 40, 5), ("change of merged", "collapse", 0, 2))
    over = one.assign(opening="all", low=-5.0)
    tables = {"effects": one}
    assert verdicts.verdict(verdicts.CLAIMS[5], tables)[0] == REPRODUCED
    tables["opening_effects"] = pd.concat([over, one.assign(opening="Is it?")])
    assert verdicts.verdict(verdicts.CLAIMS[5], tables)[0] == NOT_TESTABLE


def ablation(name, *found):
    return effects(*found).drop(columns="benchmark").assign(ablation=name)


def test_sources_on_the_same_images_count_where_they_collapse_less_than_on_disjoint_ones():
    name = "same images - disjoint images"
    for value, expected in ((-9, REPRODUCED), (1, NOT_REPRODUCED), (9, NOT_REPRODUCED)):
        table = ablation("overlap", (name, "collapse", value, 3))
        assert verdicts.verdict(verdicts.CLAIMS[1], {"ablation_effects": table})[0] == expected


def test_other_data_that_raises_the_score_in_one_share_is_named():
    few, many = "text-only, 10 %", "text-only, 30 %"
    shares = [(few, "total", 1, 3), (many, "total", 6, 2),
              (few, "collapse", 1, 3), (many, "collapse", 2, 3)]  # fmt: skip
    text = verdicts.answer(9, {"ablation_effects": ablation("others", *shares)})
    assert text.startswith("**partly.**") and "does not hold (text-only, 30 %: +6.0" in text


def test_counts_hold_by_their_order_on_every_training():
    taught = pd.DataFrame({"mixture": ["mix", "merged"], "prompt_share": [0.02, 0.61],
                           "context": "after a short answer"})  # fmt: skip
    assert verdicts.answer(3, {"after_short_answer": taught}) == (
        "**reproduced.** Claim: after a short answer, questions of the merged mixture state their "
        "format more often than those of the LLaVA-style one; it holds (61% against 2%)."
    )


def test_the_probe_is_told_by_its_paired_effect_over_trainings():
    margins = pd.DataFrame(
        [(model, protocol, seed, "q", "i", moved if protocol == "multi_round" else 0.0)
         for seed, of in (("0", (5, 1)), ("1", (2, 3)))
         for model, moved in zip(("mix", "merged"), of, strict=True)
         for protocol in ("single_round", "multi_round")],
        columns=["model", "protocol", "seed", "question_id", "image", "margin"],
    )  # fmt: skip
    probe = verdicts.CLAIMS[8][1]
    found = probe.read({"probe": margins[margins.seed == "0"]})
    assert (found.way, found.number) == (1, "+4.0 nats [+4.0, +4.0]")
    found = probe.read({"probe": margins})  # 4 and -1: t with one degree of freedom
    assert (found.way, found.number) == (0, "+1.5 nats [-30.3, +33.3]")


def test_every_answer_links_to_a_heading_that_a_notebook_has(root):
    source = nbformat.read(root / NOTEBOOK, as_version=4)
    links = re.findall(r"\]\((\w+)\.html(?:#([^)]*))?\)", "".join(c.source for c in source.cells))
    assert len(links) >= 10
    for page, heading in links:
        text = (root / f"notebooks/{page}.ipynb").read_text()
        assert f"# {heading.replace('-', ' ')}" in text or not heading


def test_the_notebook_has_an_answer_to_each_question_whatever_a_run_has_left(root, tmp_path):
    outputs = run_cells(root / NOTEBOOK, preset="mini", changes={"report_dir": str(tmp_path)})
    assert outputs.text.count("**not testable here.** This run did not measure it.") == 10
    assert "not testable here: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10" in outputs.text
    assert not outputs.faults()
