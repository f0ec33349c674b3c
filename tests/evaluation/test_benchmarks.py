import json

import pytest

from cocoift.core.files import DataError
from cocoift.evaluation.benchmarks import Question, read_benchmark, read_mm_vet_grades
from minicoco.benchmark import benchmark_scenes, files

ROW = {"imagename": "v1_0.png", "question": "What is x?", "answer": "-1<AND>-5",
       "capability": ["ocr", "math"], "imagesource": "web"}  # fmt: skip
INFIMM = {"URL": ["u"], "Image path": ["a.png", "b.png"], "Question": "Why?",
          "Category": "Deductive", "Counter-intuitve": None, "Complexity": "Moderate"}  # fmt: skip


def written(path, content):
    path.write_text(json.dumps(content))
    return path


def test_mm_vet_is_read_in_its_format(tmp_path):
    (question,) = read_benchmark(written(tmp_path / "x.json", {"v1_0": ROW}), "mm_vet")
    assert (question.id, question.images, question.capabilities) == (
        "v1_0", ("v1_0.png",), ("ocr", "math")
    )  # fmt: skip
    assert question.answer == "-1<AND>-5"


def test_infimm_eval_is_read_with_and_without_answers(tmp_path):
    answered = INFIMM | {"Answer": "so", "Steps": ["one", "two"], "Complexity": "High"}
    path = written(tmp_path / "x.json", {"0": INFIMM, "1": answered})
    withheld, released = read_benchmark(path, "infimm_eval")
    assert withheld.images == ("a.png", "b.png") and withheld.answer == ""
    assert (withheld.category, withheld.complexity) == ("deductive", "moderate")
    assert released.steps == ("one", "two") and released.complexity == "high"


@pytest.mark.parametrize(
    ("answer", "steps", "closed"),
    [
        ("red", (), True),
        ("at top left", (), True),
        ("red<AND>top left", (), True),  # three words in all
        ("black umbrella<AND>top right", (), False),  # four
        ("It is about seventeen metres<OR>17", (), True),  # one short form will do
        ("a b c d<OR>a b c<AND>e", (), False),
        ("The suitcases are black.", (), False),
        ("red", ("so",), False),  # its reasoning is scored
        ("", (), False),  # withheld: nothing says that a short answer would do
    ],
)
def test_a_question_is_closed_where_a_right_answer_has_three_words_or_fewer(answer, steps, closed):
    question = Question(id="q", images=("a.png",), text="?", answer=answer, steps=steps)
    assert question.is_closed == closed


def test_published_benchmarks_split_into_open_and_closed_questions(real):
    """By plain code over MM-Vet's file; InfiMM-Eval's answers are withheld, so all are open."""
    raw = json.loads((real / "mm_vet/mm-vet.json").read_text())
    by_hand = {
        name: sum(min(len(form.split()) for form in part.split("<OR>"))
                  for part in row["answer"].split("<AND>")) <= 3
        for name, row in raw.items()
    }  # fmt: skip
    questions = read_benchmark(real / "mm_vet/mm-vet.json", "mm_vet")
    assert {question.id: question.is_closed for question in questions} == by_hand
    assert 0 < sum(by_hand.values()) < len(by_hand)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ({"v1_0": ROW | {"capability": ["see"]}}, "mm_vet", "question v1_0: see is not one of rec"),
        ({"v1_0": ROW | {"question": " "}}, "mm_vet", "question v1_0 has no text"),
        ({"v1_0": {"imagename": "x"}}, "mm_vet", r"missing required field `question`"),
        ({}, "mm_vet", "no questions"),
        ({"0": INFIMM | {"Category": "Magic"}}, "infimm_eval", "question 0: magic is not one of"),
        ({"0": INFIMM | {"Image path": []}}, "infimm_eval", "question 0 has no text or no image"),
        ([1], "infimm_eval", r"Expected `object`"),
        ({}, "other", "format 'other' is not known; it may be mm_vet"),
    ],
)
def test_what_is_wrong_with_a_benchmark_is_named(tmp_path, content, kind, message):
    with pytest.raises(DataError, match=message):
        read_benchmark(written(tmp_path / "x.json", content), kind)


def test_mini_writes_both_formats_so_that_they_read_back(tmp_path):
    content = dict(files(benchmark_scenes(0, pixels=64, count=40), 0))
    for name, kind in (("mm_vet/mm-vet.json", "mm_vet"), ("infimm_eval/core-mm.json",
                                                          "infimm_eval")):  # fmt: skip
        path = written(tmp_path / "x.json", content[name])
        questions = read_benchmark(path, kind)
        folder = name.split("/")[0]
        assert all(f"{folder}/images/{i}" in content for q in questions for i in q.images)
        assert all(q.answer for q in questions)
    assert all(len(q.images) == 1 for q in questions)  # the tiny model reads one picture


def test_mini_never_says_how_long_an_answer_should_be():
    from cocoift.core.text import has_format_prompt

    content = dict(files(benchmark_scenes(0, pixels=64, count=40), 0))
    texts = [row["question"] for row in content["mm_vet/mm-vet.json"].values()]
    texts += [row["Question"] for row in content["infimm_eval/core-mm.json"].values()]
    texts += [row["question"] for row in content["mm_vet/dialogs.json"].values()]
    assert not any(map(has_format_prompt, texts))


def test_the_benchmarks_scenes_are_no_training_scenes():
    from minicoco.scenes import make_world

    world = make_world(train=1500, held_out=150, seed=0, pixels=64)
    known = {(s.background, s.things) for s in world.scenes.values()}
    new = {(s.background, s.things) for s in benchmark_scenes(0, pixels=64, count=40).values()}
    assert len(new) == 40 and not new & known


def test_the_real_files_are_read(real):
    questions = read_benchmark(real / "mm_vet/mm-vet.json", "mm_vet")
    assert len(questions) == 100 and questions[1].answer == "1.25<OR>=1.25<OR>5/4"
    grades = read_mm_vet_grades(real / "mm_vet/results/llava-v1.5-7b_gpt-4-grade-1runs.json")
    assert set(grades) == {question.id for question in questions}
    bench = read_benchmark(real / "llava/qa90_questions.jsonl", "llava_bench")
    assert len(bench) == 42 and {q.category for q in bench} == {"conv", "detail", "complex"}
    assert bench[0].answer.startswith("The main focus of the image is a cat")


@pytest.mark.parametrize("kind", ["mm_vet", "infimm_eval", "llava_bench"])
def test_an_empty_file_of_questions_is_called_empty(tmp_path, kind):
    path = tmp_path / "questions.json"
    path.write_text("\n")
    with pytest.raises(DataError, match=r"questions.json: the file is empty; fetch"):
        read_benchmark(path, kind)
