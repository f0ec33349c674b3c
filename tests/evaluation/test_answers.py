"""Answers of any origin in one table."""

import json

import msgspec
import pyarrow.parquet as pq
import pytest

from cocoift.core.files import DataError
from cocoift.core.schema import TURN_SCHEMA, Turn, row_table
from cocoift.evaluation.answers import (
    dataset_answers,
    file_answers,
    rollout_answers,
    source_answers,
)
from cocoift.evaluation.benchmarks import Question, read_llava_bench
from cocoift.evaluation.rollout import Head, Rollout, Round

PROMPT = "Where is it? Answer the question with a short phrase."


@pytest.fixture
def rollouts(tmp_path):
    path = tmp_path / "mix-1-multi_round.jsonl"
    dialogs = [
        Rollout("q1", ["a.jpg"], [Round(PROMPT, "beach"), Round("What is here?", "A red cup.")]),
        Rollout("q2", ["a.jpg"], [Round(PROMPT, "beach"), Round("And there?", "cup")]),
        Rollout("q3", ["b.jpg"], [Round(PROMPT, "lake")], "opening round 2: refused"),
        Rollout("q4", ["c.jpg"], [Round(PROMPT, "park", "reference"), Round("Who?", "nobody")]),
    ]
    lines = [Head("key", "mix-1", "multi_round"), *dialogs]
    path.write_bytes(b"\n".join(map(msgspec.json.encode, lines)) + b"\n")
    return path


def test_a_rollout_gives_every_answered_round_with_its_model_seed_and_protocol(rollouts):
    table = rollout_answers([rollouts])
    assert set(table.model) == {"mix"} and set(table.seed) == {"1"}
    assert set(table.protocol) == {"multi_round"}
    assert list(table[table["last"]].answer) == ["A red cup.", "cup", "nobody"]
    assert list(table[table["last"]].words) == [3, 1, 1]


def test_the_opening_of_a_picture_counts_once_and_a_reference_reply_not_at_all(rollouts):
    table = rollout_answers([rollouts])
    assert list(table[~table["last"]].answer) == ["beach", "lake"]


def test_a_question_that_states_a_form_is_not_free(rollouts):
    table = rollout_answers([rollouts])
    assert not table[~table["last"]].free.any() and table[table["last"]].free.all()


def test_a_damaged_rollout_file_is_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("{}\n")
    with pytest.raises(DataError, match=r"x\.jsonl.*delete it"):
        rollout_answers([path])


def test_a_dataset_in_llavas_format_is_read_without_pictures_and_sources(tmp_path):
    path = tmp_path / "llava.json"
    chat = [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "A cup."},
        {"from": "human", "value": "Sure?"},
        {"from": "gpt", "value": ""},
    ]
    path.write_text(json.dumps([{"id": 7, "conversations": chat}]))
    table = dataset_answers(path, name="mine")
    assert list(table.words) == [2, 0] and list(table["round"]) == [1, 2]
    assert table.question[0] == "What is it?"


def test_both_forms_of_a_mixture_give_the_same_answers(mixture):
    one, other = (
        dataset_answers(mixture / f"mix.{end}", name="mix") for end in ("json", "parquet")
    )
    assert one.equals(other) and len(one) == 160


def test_a_sample_takes_whole_records_spread_over_the_file(mixture):
    table = dataset_answers(mixture / "merged.parquet", name="merged", wanted=40)
    assert len(table) == 40
    assert set(table.groupby("question_id").size()) == {4}


@pytest.mark.parametrize("end", ["json", "parquet"])
def test_a_sample_of_more_than_half_of_a_file_is_not_the_whole_of_it(mixture, end):
    whole = dataset_answers(mixture / f"merged.{end}", name="m")
    table = dataset_answers(mixture / f"merged.{end}", name="m", wanted=100)
    records = list(dict.fromkeys(whole.question_id))
    chosen = list(dict.fromkeys(table.question_id))
    assert len(table) == 100 and len(whole) == 160
    assert chosen == [records[number * 40 // 25] for number in range(25)]


def test_the_answers_of_a_source_are_spread_over_its_turns(tmp_path):
    rows = [Turn(n, "vqav2", str(n), 0, "What?", "What?", str(n), "phrase") for n in range(1, 8)]
    rows += [Turn(n, "gqa", str(n), 0, "What?", "What?", str(n), "phrase") for n in range(1, 3)]
    pq.write_table(row_table(rows, TURN_SCHEMA), tmp_path / "turns.parquet")
    table = source_answers(tmp_path / "turns.parquet", per_source=4)
    assert table.answer[table.source == "vqav2"].tolist() == ["1", "2", "4", "6"]
    assert table.answer[table.source == "gqa"].tolist() == ["1", "2"]


def test_a_record_whose_sides_do_not_alternate_is_named(tmp_path):
    path = tmp_path / "llava.json"
    path.write_text(json.dumps([{"id": "x9", "conversations": [{"from": "gpt", "value": "Hi."}]}]))
    with pytest.raises(DataError, match=r"llava\.json, record x9: human and gpt"):
        dataset_answers(path, name="mine")


def test_an_answer_file_takes_pictures_and_questions_from_its_benchmark(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"question_id": 3, "text": "A cat.", "model_id": "m"}\n')
    asked = [Question(id="3", images=("c.jpg",), text="What is this?")]
    (row,) = file_answers(path, questions=asked).to_dict("records")
    assert (row["model"], row["image"], row["question"], row["words"]) == (
        "m", "c.jpg", "What is this?", 2)  # fmt: skip


def test_a_damaged_line_of_an_answer_file_is_named(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"question_id": 3, "text": "A cat."}\n{"question_id": 4}\n')
    with pytest.raises(DataError, match=r"answers\.jsonl, line 2: .*`text`"):
        file_answers(path, questions=[])


def test_llavas_real_answers_are_read_whole(real):
    own = file_answers(real / "llava_bench_wild/answers/llava-v1.5-13b.jsonl", questions=[])
    assert len(own) == 60 and set(own.model) == {"llava-v1.5-13b"}
    assert own.answer.map(lambda text: len(text.split())).tolist() == own.words.tolist()
    asked = read_llava_bench(real / "llava/qa90_questions.jsonl")
    gpt4 = file_answers(real / "llava/qa90_gpt4_answer.jsonl", model="gpt-4", questions=asked)
    assert len(gpt4) == 42 and gpt4.image.str.endswith(".jpg").all()
