import random

from minicoco.benchmark import UNTUNED, mm_vet
from minicoco.corpus import conversation
from minicoco.scenes import paragraph, sample_scenes
from minicoco.sight import base_checks


def test_every_wording_of_the_benchmark_stands_in_the_bases_pretraining_and_never_with_a_cue():
    rng = random.Random(0)
    scenes = sample_scenes(400, seed=1, pixels=64)
    read = [message.value for scene in scenes for message in conversation(scene, rng)]
    text = "\n".join(read)
    for scene in scenes[:20]:
        for row in mm_vet("x.jpg", scene, rng):
            if row["wording"] == UNTUNED:
                assert row["question"] in text
    answers = [answer for question, answer in zip(read[::2], read[1::2], strict=True)
               if "Tell me about the" in question]  # fmt: skip
    assert answers and all(len(answer.split()) > 3 for answer in answers)


def test_a_base_that_answers_everything_with_a_word_fails_the_language_gates():
    table = base_checks(
        lambda asked: enumerate(["no"] * len(asked)), [], seed=0, pixels=64, count=5
    )
    assert table.passed.tolist()[:3] == [False, False, False]


def test_a_base_that_describes_the_scene_whatever_it_is_asked_passes_and_is_not_yet_brief():
    scenes = sample_scenes(5, seed=7_000_003, pixels=64)
    rng = random.Random("language/0")
    truths = [paragraph(scene) for scene in scenes for _ in mm_vet("", scene, rng)]

    def answer(asked):
        return enumerate(truths[: len(asked)])

    closed = [object()] * 4
    table = base_checks(answer, closed, seed=0, pixels=64, count=5)
    assert table.passed.tolist() == [True, True, True, True]
    assert table.n.tolist()[3] == 4 and table.value.tolist()[3] == 0.0
