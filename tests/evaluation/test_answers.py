"""Answers of any origin in one table."""

import json

import msgspec
import pyarrow.parquet as pq
import pytest

from cocoift.core.files import DataError
from cocoift.core.schema import TURN_SCHEMA, Turn, row_table
from cocoift.evaluation.answers import (
    COLUMNS,
    AnswerFile,
    answer_table,
    dataset_answers,
    file_answers,
    rollout_answers,
    source_answers,
    without_closed,
)
from cocoift.evaluation.benchmarks import Question, read_llava_bench, read_mm_vet
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
    table, _ = dataset_answers(path, name="mine")
    assert list(table.words) == [2, 0] and list(table["round"]) == [1, 2]
    assert table.question[0] == "What is it?"


def test_both_forms_of_a_mixture_give_the_same_answers(mixture):
    first, second = (
        dataset_answers(mixture / f"mix.{end}", name="mix")[0] for end in ("json", "parquet")
    )
    assert first.equals(second) and len(first) == 160


def test_a_sample_takes_whole_records_spread_over_the_file(mixture):
    table, _ = dataset_answers(mixture / "merged.parquet", name="merged", wanted=40)
    assert len(table) == 40
    assert set(table.groupby("question_id").size()) == {4}


@pytest.mark.parametrize("end", ["json", "parquet"])
def test_a_sample_of_more_than_half_of_a_file_is_not_the_whole_of_it(mixture, end):
    whole, _ = dataset_answers(mixture / f"merged.{end}", name="m")
    table, _ = dataset_answers(mixture / f"merged.{end}", name="m", wanted=100)
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


def test_a_record_whose_sides_do_not_alternate_is_left_out_and_shown(tmp_path):
    path = tmp_path / "llava.json"
    odd = {"id": "x9", "conversations": [{"from": "gpt", "value": "Hi."}]}
    chat = [{"from": "user", "value": "Who?"}, {"from": "bot", "value": "He is."}]
    pictures = (["a.jpg", "b.jpg"], None, "c.jpg")
    good = [{"id": n, "image": image, "conversations": chat} for n, image in enumerate(pictures)]
    path.write_text(json.dumps([odd, *good]))
    table, note = dataset_answers(path, name="mine")
    assert list(table.image) == ["a.jpg", "llava.json: '1'", "c.jpg"]
    assert list(table.words) == [2, 2, 2]
    assert note.startswith("llava.json: 1 of 4 conversations cannot be read, such as record 'x9'")
    path.write_text(json.dumps([odd]))
    with pytest.raises(DataError, match=r"llava\.json: 1 of 1 .*'x9' with messages from 'gpt'"):
        dataset_answers(path, name="mine")


ASKED = [Question(id="3", images=("c.jpg",), text="What is this?"),
         Question(id="v1_4", images=("d.jpg",), text=PROMPT)]  # fmt: skip


def test_an_answer_file_takes_pictures_and_questions_from_its_benchmark(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text(
        '{"question_id": 3, "text": "A cat.", "model_id": "m"}\n'
        '{"question_id": 4, "text": "mat"}\n{"question_id": 139, "text": "On the mat."}\n'
    )
    table, note = file_answers(path, questions=ASKED)
    assert list(table.model) == ["m", "answers", "answers"]
    assert list(table.image) == ["c.jpg", "d.jpg", "answers.jsonl: '139'"]
    assert list(table.question) == ["What is this?", PROMPT, ""]
    assert list(table.words) == [2, 1, 3] and list(table.free) == [True, False, False]
    assert note == (
        "answers.jsonl: of 3 answers, 1 are to questions that are not listed; "
        "1 come without their question, and do not count as collapsed"
    )


def test_an_answer_file_for_other_questions_is_refused(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"question_id": 7, "text": "A cat."}\n{"question_id": 8, "text": "A mat."}\n')
    with pytest.raises(DataError, match=r"answers\.jsonl: '7' and the other 1 answers are to none"):
        file_answers(path, questions=ASKED)


def test_a_questions_number_is_no_picture(tmp_path):
    from cocoift.evaluation.faithfulness import Lexicon, mention_table

    path = tmp_path / "answers.jsonl"
    names = ("139", "000000000139.jpg", "a/000000000139.jpg")
    rows = [{"question_id": name, "text": "A cat.", "prompt": "Who?"} for name in names]
    path.write_text("\n".join(map(json.dumps, rows)))
    table, note = file_answers(path, questions=[])
    assert note == "" and table.free.all() and table.image.nunique() == len(names)
    lexicon = Lexicon({"cat": "cat"}, {}, {})
    assert mention_table(table, lexicon, {"139": {"dog"}}).empty


def test_questions_need_their_format(tmp_path):
    for entry in ({"questions": "q.json"}, {"format": "mm_vet"}):
        with pytest.raises(msgspec.ValidationError, match=r"a\.jsonl: name both `questions` and"):
            msgspec.convert({"file": "a.jsonl", **entry}, AnswerFile)


def test_a_table_without_answers_has_the_types_of_one_with_some():
    table = answer_table([])
    assert table[table.free].empty and list(table[table["last"]]) == list(COLUMNS)


def test_a_damaged_line_of_an_answer_file_is_named(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"question_id": 3, "text": "A cat."}\n{"question_id": 4}\n')
    with pytest.raises(DataError, match=r"answers\.jsonl, line 2: .*`text`"):
        file_answers(path, questions=[])


def test_llavas_real_answers_are_read_whole(real):
    llava, _ = file_answers(real / "llava_bench_wild/answers/llava-v1.5-13b.jsonl", questions=[])
    assert len(llava) == 60 and set(llava.model) == {"llava-v1.5-13b"}
    assert llava.answer.map(lambda text: len(text.split())).tolist() == llava.words.tolist()
    asked = read_llava_bench(real / "llava/qa90_questions.jsonl")
    gpt4, note = file_answers(real / "llava/qa90_gpt4_answer.jsonl", model="gpt-4", questions=asked)
    assert len(gpt4) == 42 and gpt4.image.str.endswith(".jpg").all() and note == ""


def test_real_mm_vet_questions_are_found_by_llavas_numbers_and_by_their_own(real, tmp_path):
    asked = read_mm_vet(real / "mm_vet/mm-vet.json")
    numbered = read_llava_bench(real / "mm_vet/llava-mm-vet.jsonl")
    answers = json.loads((real / "mm_vet/results/llava_llama2_13b_chat.json").read_text())
    path = tmp_path / "answers.jsonl"
    rows = [{"question_id": int(name[3:]), "text": text} for name, text in answers.items()]
    path.write_text("\n".join(map(json.dumps, rows)))
    (by_image, note), (by_number, _) = (file_answers(path, questions=q) for q in (asked, numbered))
    assert note == "" and list(by_image.image) == list(by_number.image)
    assert by_image.image.nunique() == len({question.images[0] for question in asked})
    assert list(by_image.question) == list(by_number.question)


def test_an_answer_to_a_closed_question_is_not_free_whichever_way_it_is_numbered(tmp_path):
    asked = [Question(id=f"v1_{n}", images=("a",), text="What?", answer=answer)
             for n, answer in enumerate(("red", "a long red car"))]  # fmt: skip
    path = tmp_path / "answers.jsonl"
    path.write_text('{"question_id": 0, "text": "Red."}\n{"question_id": "v1_1", "text": "Red."}')
    answers, _ = file_answers(path, questions=asked)
    assert without_closed(answers, asked).free.tolist() == [False, True]
