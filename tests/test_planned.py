"""What a run will have judged, counted before it begins."""

import json

import pytest

from cocoift import study
from cocoift.core.files import DataError
from cocoift.study import planned


def opened(tmp_path, root, preset="llava-1.5-7b", **changes):
    """A preset with 218 questions of MM-Vet on disk, as the published file has."""
    row = {"imagename": "v1_0.png", "question": "What is on the table in this picture?",
           "answer": "a red cup", "capability": ["rec"]}  # fmt: skip
    (tmp_path / "mm-vet").mkdir(exist_ok=True)
    questions = {f"v1_{number}": row for number in range(218)}
    (tmp_path / "mm-vet/mm-vet.json").write_text(json.dumps(questions))
    return study.open_study(preset, {"raw_dir": str(tmp_path), **changes})


def calls(found):
    return found.judge().whole_cost(planned.to_judge(found, found.benchmarks_to_ask()))[0]


def test_the_whole_bill_of_7b_counts_both_notebooks_that_ask_and_the_hand_graded_answers(
    root, tmp_path
):
    # Nine protocols, two of them judged five times: 4 models x 218 questions x (2 x 5 + 7).
    fifth = 14_824
    # Eight openings and three places of the short one, once each: 3 tuned models x 218 x 11.
    seventh = 7_194
    by_hand = 5 * len(json.loads((root / "data/judge_trust.json").read_text()))
    assert calls(opened(tmp_path, root)) == fifth + seventh + by_hand
    assert calls(opened(tmp_path, root, notebooks=["05"])) == fifth + by_hand
    twice = opened(tmp_path, root, seeds=[0, 1], evaluation={"judge": {"max_cost": 1e6}})
    assert calls(twice) == 2 * (fifth + seventh) + by_hand


def test_an_ablation_that_trains_adds_the_answers_of_its_variants(root, tmp_path):
    plain = calls(opened(tmp_path, root))
    more = {"ablations": {"run": ["openings", "dose"], "doses": [0.0, 0.5, 1.0]},
            "evaluation": {"judge": {"max_cost": 1e6}}}  # fmt: skip
    # Of the doses only the middle one has a model of its own, single-round and after, five times.
    assert calls(opened(tmp_path, root, **more)) == plain + 218 * 2 * 5


def test_a_bill_that_only_notebook_07_raises_above_the_limit_stops_the_run(root, tmp_path):
    cost = opened(tmp_path, root, notebooks=["05"])
    limit = cost.judge().whole_cost(planned.to_judge(cost, cost.benchmarks_to_ask()))[1] + 1
    found = opened(tmp_path, root, evaluation={"judge": {"max_cost": limit}})
    with pytest.raises(DataError, match=r"takes about 22,\d+ calls for \d+, max_cost"):
        calls(found)


def test_ablations_ask_the_first_benchmark_that_can_be_scored(root, tmp_path):
    withheld = {"format": "infimm_eval", "questions": "q.json", "images": "i"}
    row = {"Image path": ["a.jpg"], "Text": "", "Question": "Why?", "Category": "Deductive",
           "Complexity": "High"}  # fmt: skip
    (tmp_path / "q.json").write_text(json.dumps({"0": row}))
    with_answers = {"format": "mm_vet", "questions": "mm-vet/mm-vet.json", "images": "i"}
    benchmarks = {"mm_vet": None, "infimm_eval": None, "first": withheld, "second": with_answers}
    found = opened(tmp_path, root, evaluation={"benchmarks": benchmarks})
    assert planned.ablation_benchmark(found).name == "second"
    benchmarks["second"] = {**with_answers, "questions": "absent.json"}
    none = opened(tmp_path, root, evaluation={"benchmarks": benchmarks})
    with pytest.raises(DataError, match="no answer to first can be scored; name a benchmark with"):
        planned.ablation_benchmark(none)
