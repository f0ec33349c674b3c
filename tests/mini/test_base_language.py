import random

import pytest

from cocoift.core.schema import Message
from cocoift.evaluation.protocols import Prompt
from cocoift.merge.layouts import TERSE_PROMPT
from minicoco.benchmark import UNTUNED, dialogs, infimm, mm_vet
from minicoco.corpus import conversation
from minicoco.draw import draw
from minicoco.facts import SETTING_WORDINGS, USE_WORDINGS, at_ground, facts, paragraph
from minicoco.scenes import USES, sample_scenes
from minicoco.sight import base_checks

OPENING = ["Is there a cup in the picture?"]


def taught(count, **options):
    rng = random.Random(0)
    return [conversation(scene, rng, **options) for scene in sample_scenes(count, seed=1)]


def test_every_wording_of_the_benchmarks_stands_in_the_bases_pretraining_and_never_with_a_cue():
    read = [message.value for messages in taught(2_500) for message in messages]
    text, rng = wording("\n".join(read)), random.Random(1)
    for scene in sample_scenes(20, seed=1):
        rows = [row for row in mm_vet("x.jpg", scene, rng) if row["wording"] == UNTUNED]
        asked = [row["question"] for row in rows]
        asked += [row["Question"] for row in infimm("x.jpg", scene, rng)]
        assert all(wording(question) in text for question in asked)
    answers = [answer for question, answer in zip(read[::2], read[1::2], strict=True)
               if "Tell me about the" in question]  # fmt: skip
    assert answers and all(len(answer.split()) > 3 for answer in answers)


def wording(question):
    for use in USES.values():
        question = question.replace(use, "{use}")
    return question


def is_open(question):
    """Tell by hand which questions want more than a word: no closed one begins like these."""
    openers = ("Describe", "What is happening", "What do you see", "Can you", "Tell me", "Give",
               "Say what", "What is this picture", "What can you", "What kind", "Guess",
               "What would a", "Suppose", "Where might", "What could", "Somebody", "Which thing",
               "For ", "Explain")  # fmt: skip
    return question.removeprefix("<image>\n").startswith(openers)


def test_the_base_is_never_taught_an_open_question_after_a_short_answer():
    conversations, later = taught(1_500), 0
    for messages in conversations:
        for at in range(2, len(messages), 2):
            if is_open(messages[at].value):
                assert all(len(answer.value.split()) > 3 for answer in messages[1:at:2])
                later += 1
    assert later > 20
    assert 600 < sum(len(messages) == 2 for messages in conversations) < 900


def test_a_base_taught_several_rounds_answers_open_questions_in_full_after_short_answers():
    immune = 0
    for messages in taught(200, rounds="several"):
        for before, asked, answer in zip(
            messages[1::2], messages[2::2], messages[3::2], strict=False
        ):
            if len(before.value.split()) <= 3 and is_open(asked.value):
                assert len(answer.value.split()) > 3
                immune += 1
    assert immune > 20


def test_each_kind_of_infimm_question_has_six_wordings_half_of_them_of_the_tuned_sources():
    rng, tuned = random.Random(0), "\n".join((*USE_WORDINGS, *SETTING_WORDINGS))
    found = {"Deductive": set(), "Abductive": set()}
    for scene in sample_scenes(100, seed=3):
        for row in infimm("x.jpg", scene, rng):
            found[row["Category"]].add(wording(row["Question"]))
    assert [len(wordings) for wordings in found.values()] == [6, 6]
    for wordings in found.values():
        assert sum(text in tuned for text in wordings) == 3


def test_the_second_question_of_a_dialog_is_about_what_the_first_one_names():
    rng, asked = random.Random(0), 0
    for scene in sample_scenes(50, seed=3):
        for row in dialogs("x.jpg", scene, rng):
            [before], truths = row["before"], {}
            for thing in scene.things:
                if before in (f"What is at the {thing.place}?", f"Where is the {thing.category}?",
                              f"Which object is for {USES[thing.category]}?"):  # fmt: skip
                    truths = {"What color is it?": thing.colour, "How big is it?": thing.size,
                              "Where is it?": thing.place}  # fmt: skip
            assert row["answer"] == truths[row["question"]]
            asked += 1
    assert asked == 100


def test_a_base_that_answers_everything_with_a_word_fails_the_language_gates():
    table = base_checks(
        lambda asked: enumerate(["no"] * len(asked)),
        [],
        opening=OPENING,
        seed=0,
        pixels=64,
        count=5,
    )
    assert table.passed.tolist()[:3] == [False, False, False]


def test_a_base_that_describes_the_scene_whatever_it_is_asked_passes_and_is_not_yet_brief():
    scenes = sample_scenes(5, seed=7_000_003, pixels=64)
    rng = random.Random("language/0")
    truths = [paragraph(scene) for scene in scenes for _ in mm_vet("", scene, rng)]

    def answer(asked):
        return enumerate(truths[: len(asked)])

    closed = [Prompt("", (), [Message("human", f"What is this? {TERSE_PROMPT}")])] * 4
    table = base_checks(answer, closed, opening=OPENING, seed=0, pixels=64, count=5)
    assert table.passed.tolist()[:4] == [True, True, True, True]
    assert table.n.tolist()[3] == 4 and table.value.tolist()[3] == 0.0


def test_a_base_that_is_brief_where_a_prompt_asks_for_it_fails_the_check_of_prompts():
    def answer(asked):
        return [(number, "red" if "phrase" in prompt.messages[-1].value else "It is a red car.")
                for number, prompt in enumerate(asked)]  # fmt: skip

    closed = [Prompt("", (), [Message("human", f"What is this? {TERSE_PROMPT}")])] * 4
    table = base_checks(answer, closed, opening=OPENING, seed=0, pixels=64, count=5)
    assert (table.value[3], table.passed[3]) == (1.0, False)


def oracle(scenes):
    """Answer by the picture that is shown; `it` is what the round before names."""
    shown = {draw(scene).tobytes(): scene for scene in scenes}

    def reply(prompt):
        scene = shown[prompt.pictures[0].tobytes()]
        first, last = prompt.messages[0].value, prompt.messages[-1].value
        kinds = {"What color": "colour", "How big": "size", "Where is it": "place"}
        if last.removeprefix("<image>\n").rstrip("?").endswith(" it"):
            named = [fact.thing for fact in facts(scene) if fact.question in first]
            kind = next(kind for words, kind in kinds.items() if words in last)
            return getattr(named[0], kind) if named else "nothing"
        return f"{paragraph(scene)} It could be {at_ground(scene.background)}."

    return lambda asked: [(number, reply(prompt)) for number, prompt in enumerate(asked)]


def test_what_the_image_and_the_round_before_are_worth_is_measured_by_taking_them_away():
    scenes = sample_scenes(6, seed=7_000_003, pixels=64)
    table = base_checks(oracle(scenes), [], opening=OPENING, seed=0, pixels=64, count=6)
    image, before, kept = table.value.tolist()[4:]
    assert image > 0.3 and before == 1.0 and kept == pytest.approx(1)


def test_a_base_that_takes_every_later_question_for_a_closed_one_fails_the_check_of_the_opening():
    scenes = sample_scenes(6, seed=7_000_003, pixels=64)
    well = oracle(scenes)

    def answer(asked):
        return [(number, "red" if len(asked[number].messages) > 1 else reply)
                for number, reply in well(asked)]  # fmt: skip

    table = base_checks(answer, [], opening=OPENING, seed=0, pixels=64, count=6)
    assert not table.passed[6] and table.value[6] < 0.3


def test_a_base_that_ignores_image_and_history_fails_the_checks_of_both():
    table = base_checks(
        lambda asked: enumerate(["A red car is at the top left."] * len(asked)),
        [], opening=OPENING, seed=0, pixels=64, count=6,
    )  # fmt: skip
    assert table.passed.tolist()[4:6] == [False, False]
    assert table.value.tolist()[5] == 0.0
