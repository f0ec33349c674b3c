"""Notebook 06: answers gathered from everywhere, and sentences that its tables decide."""

import pandas as pd
import pytest
from PIL import Image

from cocoift.core.files import DataError, read_manifest, write_manifest
from cocoift.evaluation.answers import AnswerFile, answer_table
from cocoift.evaluation.benchmarks import Benchmark, Question
from cocoift.evaluation.protocols import Protocol
from cocoift.evaluation.rollout import Head, roll_out
from cocoift.report import bias as report
from cocoift.report.merge import after_short_table
from cocoift.report.told import bias_answer

LABELS = {"mix": "LLaVA-style mixture", "merged": "merged mixture"}


def benchmark(tmp_path):
    questions = [
        Question(
            id="q0",
            images=("a.png",),
            text="?",
            capabilities=("rec", "spat"),
            wording="never tuned on",
        ),
        Question(
            id="q1", images=("b.png",), text="?", capabilities=("rec",), wording="short sources"
        ),
    ]
    return Benchmark("mm_vet", "mm_vet", questions, tmp_path, "d")


def test_only_listed_rollouts_are_read_whatever_lies_beside_them(tmp_path):
    asked = benchmark(tmp_path)
    folder = tmp_path / "rollouts" / asked.name
    for name in "ab":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    for model in ("mix-0", "mix-7", "every-apart-0"):
        roll_out(
            asked.questions, Protocol(name="single_round"), lambda asks: enumerate("ab"),
            file=folder / f"{model}.jsonl", head=Head("k", model, "single_round"),
            image_root=tmp_path,
        )  # fmt: skip
    ours = folder / "mix-0.jsonl"
    listed = write_manifest(tmp_path / "m.json", [ours], root=tmp_path)
    options = {"datasets": {}, "files": [], "raw": tmp_path}
    rollouts = read_manifest(listed, root=tmp_path)
    answers, _ = report.gather([asked], rollouts=rollouts, **options)
    assert set(answers.model) == {"mix"} and set(answers.seed) == {"0"} and len(answers) == 2
    with ours.open("a") as file:
        file.write("\n")
    with pytest.raises(DataError, match="rerun the notebook that wrote it"):
        read_manifest(listed, root=tmp_path)
    assert read_manifest(tmp_path / "absent.json", root=tmp_path) == []


def test_what_is_not_there_is_left_out_and_nothing_at_all_is_an_empty_table(tmp_path, mixture):
    options = {"rollouts": [], "files": [], "raw": tmp_path}
    datasets = {"mix": mixture / "mix.parquet", "merged": tmp_path / "none.parquet"}
    answers, notes = report.gather([benchmark(tmp_path)], datasets=datasets, **options)
    assert set(answers.model) == {"mix"} and set(answers.origin) == {"mix.parquet"}
    assert notes == [f"not on disk: merged ({tmp_path}/none.parquet)"]
    nothing, notes = report.gather([], datasets={}, **options)
    assert nothing.empty and {"words", "free", "origin", "image"} <= set(nothing) and not notes


def test_two_answer_files_of_one_model_stay_two(tmp_path):
    for name in ("a", "b"):
        line = '{"question_id": 1, "text": "So.", "prompt": "Why?", "model_id": "llava"}\n'
        (tmp_path / f"{name}.jsonl").write_text(line)
    files = [AnswerFile(file=f"{name}.jsonl") for name in ("a", "b")]
    answers, _ = report.gather([], rollouts=[], datasets={}, files=files, raw=tmp_path)
    assert list(answers.model) == ["llava", "llava (b.jsonl)"]
    assert list(answers.origin) == ["a.jsonl", "b.jsonl"] and answers.image.nunique() == 2


def test_what_a_dataset_teaches_is_the_same_from_either_of_its_files(mixture, tmp_path):
    (tmp_path / "mine.json").write_bytes((mixture / "merged.json").read_bytes())
    paths = {"merged": mixture / "merged.parquet", "mine": tmp_path / "mine.json",
             "absent": tmp_path / "none.json"}  # fmt: skip
    rounds = report.training_rounds(paths)
    by_mixture = {name: part.drop(columns=["mixture", "source"]).reset_index(drop=True)
           for name, part in rounds.groupby("mixture")}  # fmt: skip
    assert set(by_mixture) == {"merged", "mine"} and len(by_mixture["mine"]) == 160
    pd.testing.assert_frame_equal(by_mixture["merged"], by_mixture["mine"])
    assert report.training_rounds({}).empty


def test_a_question_counts_under_every_capability_it_lists(tmp_path):
    rows = [("mix", "0", "single_round", 1, True, "q0", "a", "?", "red"),
            ("mix", "0", "single_round", 1, True, "q1", "b", "?", "a red cup there")]  # fmt: skip
    answers = answer_table(rows).assign(origin="mm_vet")
    table = report.by_kind(answers, benchmark(tmp_path), resamples=20).set_index("value")
    assert table.n.to_dict() == {"rec": 2, "spat": 1, "never tuned on": 1, "short sources": 1}
    assert table.collapse_rate["rec"] == 50 and table.collapse_rate["spat"] == 100


def test_seeds_are_shown_apart_and_together():
    rows = [("mix", str(seed), "p", 1, True, "q", f"i{seed}", "?", "red") for seed in (0, 1)]
    table = report.over_seeds(answer_table(rows), ["model", "seed"], resamples=20)
    assert table.set_index("seed").n.to_dict() == {"0": 1, "1": 1, "all": 2}


def lengths(after):
    rows = [
        (model, protocol, 9, rate, rate - 3, rate + 3)
        for model, rates in after.items()
        for protocol, rate in zip(("single_round", "multi_round"), rates, strict=True)
    ]
    columns = ["model", "protocol", "median_words", "collapse_rate", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def changes(after):
    """Return the paired changes of collapse of 50 answers, `after` in percent per protocol."""
    rows = [
        (model, "0", protocol, f"q{n}", f"{n}.jpg", 1 if n < share / 2 else 9, True)
        for model, shares in after.items()
        for protocol, share in zip(("single_round", "multi_round"), shares, strict=True)
        for n in range(50)
    ]
    columns = ["model", "seed", "protocol", "question_id", "image", "words", "free"]
    return report.collapse_changes(pd.DataFrame(rows, columns=columns), resamples=200)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (
            {"mix": (10, 80), "merged": (10, 12)},
            "collapse rises with: LLaVA-style mixture.",
        ),
        ({"mix": (10, 12), "merged": (10, 12)}, "no rise is shown."),
        ({"mix": (10, 80), "merged": (10, 50)}, "with: LLaVA-style mixture, merged mixture."),
    ],
)
def test_the_answer_says_what_the_intervals_say(after, expected):
    nothing = [pd.DataFrame()] * 3
    text = bias_answer(lengths(after), changes(after), *nothing, labels=LABELS)
    assert text.endswith(expected)
    assert f"10 → {after['mix'][1]} % collapsed" in text.splitlines()[0]


def test_answers_of_models_that_were_asked_alone_only_are_told_too():
    table = pd.concat([lengths({"mix": (10, 80)}), lengths({"merged": (5, 9)}).head(1)])
    nothing = [pd.DataFrame()] * 3
    text = bias_answer(table, changes({"mix": (10, 80)}), *nothing, labels=LABELS)
    assert "10 → 80 % collapsed; merged mixture 9 words, 5 % collapsed." in text
    alone = table.tail(1).assign(collapse_rate=float("nan"))
    text = bias_answer(alone, pd.DataFrame(), *nothing, labels=LABELS)
    assert text.endswith("round: merged mixture 9 words.")


def test_a_dataset_in_which_nothing_follows_a_short_answer_is_told_without_a_number():
    rounds = pd.DataFrame({"mixture": ["mine", "mix", "mix"], "words": [9, 1, 1],
                           "previous_words": [0, 0, 1], "has_prompt": False})  # fmt: skip
    taught = after_short_table(rounds)
    text = bias_answer(lengths({}), pd.DataFrame(), taught, *[pd.DataFrame()] * 2, labels={})
    assert "mine: no answer follows a short one; mix: 100% of the answers" in text


def test_without_any_table_the_answer_says_so():
    empty = pd.DataFrame(columns=["model", "protocol", "collapse_rate", "median_words", "low",
                                  "high"])  # fmt: skip
    text = bias_answer(*[empty] * 5, labels=LABELS)
    assert text == "There was nothing to compare."
