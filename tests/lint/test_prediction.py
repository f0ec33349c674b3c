"""What a data file's cues foretell, and the calibration that makes it percent of collapse."""

import itertools
import json
import os
import random
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from cocoift.core.files import DataError
from cocoift.core.text import has_format_prompt
from cocoift.evaluation import lengths
from cocoift.lint import cues
from cocoift.lint.checking import FAIL_ABOVE
from cocoift.lint.conversations import Conversation, Round
from cocoift.lint.prediction import (
    CALIBRATION,
    Arm,
    Curve,
    agreement,
    calibrated,
    interval,
    left_out,
    predict,
    read_arms,
    read_calibration,
    write_calibration,
)

PROMPT = "Answer the question with a short phrase."
FULL = "A small red cup stands on the table near a window."
WIDE = (
    "Tell me about the {}.",
    "What is happening around the {}, and why?",
    "Describe the {} and what you see near it.",
    "How can you tell what the {} is for?",
)
THINGS = ("cup", "dog", "kite", "car", "book", "tree", "boat", "ball")


def chats(kind, count=120):
    """Yield conversations whose rounds are pairs of question and answer made by `kind`."""
    for number in range(count):
        rounds = tuple(Round(*pair) for pair in kind(number))
        yield Conversation(f"[{number}]", f"{number:06d}", "", (f"{number}.jpg",), rounds)


def thing(number):
    return THINGS[number % len(THINGS)]


def wide(number):
    return WIDE[number % len(WIDE)].format(thing(number // 4)), FULL


def first_turn(number):
    """Half are short to the end once the first turn has asked for it, half are full."""
    if number % 2:
        return [wide(number // 2 + at) for at in range(3)]
    asked = [f"What color is the {thing(number + at)}?" for at in range(3)]
    return [(f"{asked[0]} {PROMPT}", "red"), (asked[1], "blue"), (asked[2], "green")]


def every_turn(number):
    """Every short answer is asked for, and full ones follow them, or nothing."""
    if number % 2:
        return [wide(number // 2)]
    pairs = [(f"What color is the {thing(number + at)}? {PROMPT}", "red") for at in range(2)]
    return [pairs[0], wide(number), pairs[1], wide(number + 1)]


def test_short_answers_that_always_follow_short_ones_are_foretold_after_one_only():
    found = cues.raw_prediction(chats(first_turn))
    assert found.after > 40 and found.alone < 10
    assert found.answers == 360


def test_prompts_in_every_turn_foretell_full_answers_after_a_short_one():
    found = cues.raw_prediction(chats(every_turn))
    assert found.after < 10 and found.alone < 10


def test_a_file_of_one_kind_foretells_that_kind():
    short = cues.raw_prediction(chats(lambda n: [(f"What is the {thing(n)}?", "red")]))
    full = cues.raw_prediction(chats(lambda n: [(f"What is the {thing(n)}?", FULL)]))
    assert short.alone > 90 and full.alone < 10


def test_conversations_without_answers_are_one_error():
    with pytest.raises(DataError, match="no conversation has an answer"):
        cues.raw_prediction([Conversation("f.json[0]", "0", "", (), ())])


def test_the_order_of_the_records_changes_nothing():
    records = list(chats(first_turn)) + list(chats(every_turn, 50))
    shuffled = random.Random(0).sample(records, len(records))
    assert cues.raw_prediction(records) == cues.raw_prediction(shuffled)


def test_the_number_of_threads_changes_nothing(root):
    code = (
        "import sys; sys.path.insert(0, 'tests/lint'); from test_prediction import *;"
        "print(repr(cues.raw_prediction(chats(first_turn))))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env=os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "4")
    }
    assert len(said) == 1 and "Raw(" in said.pop()


def test_a_sample_is_even_over_the_whole_file():
    parts = [chats(first_turn, 4_000), chats(every_turn, 4_000)]
    kept = cues.sample(itertools.chain(*parts), most=800)
    assert len(kept) == 800
    asked = np.mean([len(each.rounds) == 3 for each in kept])
    assert asked == pytest.approx(0.5, abs=0.06)  # three standard deviations
    places = np.array([int(each.id) for each in kept])
    quarters = np.histogram(places, bins=4, range=(0, 4_000))[0]
    assert quarters.min() > 150


def test_a_small_file_is_taken_whole():
    records = list(chats(every_turn, 30))
    assert {each.id for each in cues.sample(records, most=100)} == {each.id for each in records}


def test_the_fit_is_the_least_of_its_loss():
    rng = np.random.default_rng(0)
    seen = (rng.random((200, 6)) < 0.4).astype(float)
    short = (rng.random(200) < 1 / (1 + np.exp(-(seen @ np.array([2, -2, 1, 0, 0.5, -1]))))).astype(
        float
    )
    weights = cues.fit(csr_matrix(seen), short, 0.01)
    chances = 1 / (1 + np.exp(-(seen @ weights)))
    assert seen.T @ (chances - short) / 200 + 0.01 * weights == pytest.approx(0, abs=1e-6)


def test_one_cue_has_the_weight_that_its_counts_give():
    # Three short in four where the cue stands, without a ridge: the logit of 3/4 is log 3.
    seen = csr_matrix(np.ones((4, 1)))
    weights = cues.fit(seen, np.array([1.0, 1.0, 1.0, 0.0]), 0.0)
    assert weights == pytest.approx([np.log(3)], abs=1e-6)


def test_the_open_questions_ask_for_no_length_and_short_means_what_the_study_means():
    assert cues.SHORT_WORDS == lengths.SHORT_WORDS
    assert len(set(cues.QUESTIONS)) == len(cues.QUESTIONS) >= 10
    assert not any(map(has_format_prompt, cues.QUESTIONS))


def arms(slope=1.0):
    """Return arms of three ablations whose collapse is a curve of what is foretold."""
    curve = Curve(level=-0.5, rise=slope)
    raw = {"a": (1, 10, 40), "b": (5, 20, 80), "c": (2, 60, 90)}
    return [
        Arm(f"{name}-{share}", (name,), curve.at(share / 2), curve.at(share), share / 2, share)
        for name, shares in raw.items() for share in shares
    ]  # fmt: skip


def test_arms_on_a_curve_are_predicted_by_the_others():
    left = left_out(arms())
    assert len(left) == 9
    assert left.predicted_after.to_numpy() == pytest.approx(left.after.to_numpy(), abs=0.01)
    assert agreement(left).spearman.tolist() == pytest.approx([1, 1])
    found = calibrated(arms(), run="r", commit="c")
    assert (found.after.level, found.after.rise) == pytest.approx((-0.5, 1.0), abs=1e-3)
    assert found.error < 1e-3


def test_an_arm_off_the_curve_does_not_pull_its_own_prediction():
    off = [*arms(), Arm("odd", ("d",), 5.0, 90.0, 5.0, 5.0)]
    left = left_out(off).set_index("arm")
    assert left.predicted_after["odd"] == pytest.approx(Curve(level=-0.5, rise=1.0).at(5), abs=0.01)
    assert calibrated(off, run="r", commit="c").error > 0.3


def test_an_arm_of_two_ablations_is_left_out_with_each():
    first, *others = arms()
    both = Arm("both", ("a", "b"), first.alone, 99.0, first.raw_alone, first.raw_after)
    left = left_out([*others, both])
    assert left[left.arm == "both"].ablation.tolist() == ["a", "b"]
    assert left[left.arm == "both"].predicted_after.max() < 20
    assert agreement(left).arms.tolist() == [9, 9]


def test_with_one_ablation_nothing_is_left_out():
    one = [arm for arm in arms() if arm.ablations == ("a",)]
    assert left_out(one).empty
    with pytest.raises(DataError, match="smoke: 3 arms of 1 ablations"):
        calibrated(one, run="smoke", commit="c")


def test_an_interval_is_one_of_percents():
    assert interval(0, 0.3)[0] == 0 and interval(100, 0.3)[1] == 100
    low, high = interval(50, 0.1)
    assert (low + high) / 2 == pytest.approx(50) and high == pytest.approx(59.93, abs=0.01)


def test_a_prediction_is_the_curve_of_what_cues_foretell(tmp_path):
    path = tmp_path / "calibration.json"
    rows = [[a.name, *a.ablations, a.alone, a.after, a.raw_alone, a.raw_after] for a in arms()]
    columns = ["arm", "ablation", "alone", "after", "raw_alone", "raw_after"]
    table = pd.DataFrame(rows, columns=columns)
    (tmp_path / "tables").mkdir()
    table.to_csv(tmp_path / "tables/lint_arms.csv", index=False)
    (tmp_path / "run.json").write_text(json.dumps({"preset": "r", "commit": "abc"}))
    assert len(read_arms(tmp_path / "tables/lint_arms.csv")) == 9
    made = write_calibration(tmp_path, path)
    assert read_calibration(path) == made and (made.run, made.commit) == ("r", "abc")
    found, raw = predict(chats(first_turn), path), cues.raw_prediction(chats(first_turn))
    assert (found.raw_alone, found.raw_after) == (raw.alone, raw.after)
    assert found.after == pytest.approx(made.after.at(raw.after))
    assert found.low <= found.after <= found.high and found.alone < found.after
    assert found.instrument == "on this study's instrument"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        ("{", "Expecting|JSON"),
        ("{}", "missing required field"),
        ('{"alone": {"level": 0, "rise": -1}}', "alone.rise"),
    ],
)
def test_a_damaged_calibration_is_named(tmp_path, content, says):
    path = tmp_path / "calibration.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=says) as error:
        predict(chats(first_turn), path)
    assert str(path) in str(error.value) and "reinstall" in str(error.value)


@pytest.mark.parametrize("text", ["", "arm,ablation\nx,y\n", "arm,ablation,alone,after,raw_alone,"
                                  "raw_after\nx,y,1,2,3,500\n"])  # fmt: skip
def test_a_damaged_table_of_arms_is_named(tmp_path, text):
    (tmp_path / "lint_arms.csv").write_text(text)
    with pytest.raises(DataError, match=r"lint_arms\.csv.*run notebook 07"):
        read_arms(tmp_path / "lint_arms.csv")


def test_the_calibration_that_is_shipped_can_be_read_and_rises(root):
    shipped = read_calibration()
    assert shipped.after.rise > 0 and shipped.commit and shipped.run
    assert CALIBRATION.name in (root / "pyproject.toml").read_text()


def test_the_bound_parts_what_is_predicted_of_the_studys_two_mixtures(root):
    arms = pd.read_csv(root / "reports/mini-full/tables/lint_arms.csv").drop_duplicates("arm")
    raw = arms.set_index("arm").raw_after
    curve = read_calibration().after
    assert curve.at(raw["merged"]) < FAIL_ABOVE < curve.at(raw["mix"])
