"""Forced choice: what sentences' probabilities are, how foils are read, what the shares count."""

import json

import pandas as pd
import pytest
import torch
from PIL import Image

from cocoift.core.files import DataError
from cocoift.core.images import pixel_values
from cocoift.core.schema import Message
from cocoift.evaluation.candidates import Candidate
from cocoift.evaluation.choice import choice_effects, choice_table, choose, read_choices
from cocoift.evaluation.effects import change, rows_of
from cocoift.evaluation.generation import log_probabilities
from cocoift.evaluation.protocols import Failure, Prompt, Protocol
from cocoift.tuning.chat import IGNORED, Encoding, answered_ids, prompt_ids
from cocoift.tuning.model import load_model, load_processor
from minicoco import CHAT

SENTENCES = ("There is a small red cup at the top left.", "There is a boat.", "Yes.", "")


def prompt(colour, *rounds):
    """A dialog about a picture of one colour; its last question has no answer yet."""
    picture = Image.new("RGB", (64, 64), colour)
    texts = [f"<image>\n{rounds[0]}", *rounds[1:]]
    messages = [Message(("human", "gpt")[n % 2], text) for n, text in enumerate(texts)]
    return Prompt(f"{colour}.jpg", (picture,), messages)


@pytest.fixture(scope="module")
def asked():
    """Two questions on one picture, one of them after a round, and one on another picture."""
    return [
        prompt("red", "Describe the picture."),
        prompt("red", "Is there a cup in the picture?", "yes", "What do you see in the picture?"),
        prompt("blue", "What is happening in this picture?"),
    ]


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return load_model(checkpoint, four_bit=False, device="cpu"), load_processor(checkpoint)


def by_transformers(model, processor, prompt, text):
    """The sum of an answer's log-probabilities as the loss of one whole forward pass gives it."""
    encoding = Encoding(processor.tokenizer, CHAT, 16)
    ids = torch.tensor([answered_ids(prompt.messages, text, encoding)])
    labels = ids.clone()
    labels[:, : len(prompt_ids(prompt.messages, encoding))] = IGNORED
    pixels = torch.from_numpy(pixel_values(prompt.pictures, processor.image_processor))
    with torch.no_grad():
        loss = model(input_ids=ids, pixel_values=pixels, labels=labels).loss
    return -float(loss) * int((labels != IGNORED).sum())


def test_a_sentences_log_probability_is_transformers_own_of_the_whole_dialog(loaded, asked):
    found = log_probabilities(*loaded, asked, [SENTENCES] * 3, chat=CHAT)
    for of, numbers in zip(asked, found, strict=True):
        expected = [by_transformers(*loaded, of, text) for text in SENTENCES]
        assert numbers == pytest.approx(expected, abs=1e-3)
    assert found[0][0] != pytest.approx(found[2][0], abs=1e-3)  # another picture and question


def flat(numbers):
    return [number for some in numbers for number in some]


def test_sentences_scored_together_are_scored_as_alone(loaded, asked):
    texts = [SENTENCES[:3], SENTENCES[1:], SENTENCES[:1]]
    together = log_probabilities(*loaded, asked, texts, chat=CHAT)
    assert [len(numbers) for numbers in together] == [3, 3, 1]
    for batch in (1, 3):
        cut = log_probabilities(*loaded, asked, texts, chat=CHAT, batch=batch)
        assert flat(cut) == pytest.approx(flat(together), abs=1e-4)
    alone = [log_probabilities(*loaded, [of], [[text]], chat=CHAT)[0][0]
             for of, of_it in zip(asked, texts, strict=True) for text in of_it]  # fmt: skip
    assert flat(together) == pytest.approx(alone, abs=1e-4)


def test_different_answers_share_less_than_all_probability(loaded, asked):
    words = ["red", "blue", "cup", "car", "yes", "no", ""]
    (numbers,) = log_probabilities(*loaded, asked[:1], [words], chat=CHAT)
    assert 0 < sum(torch.tensor(numbers).exp()) < 1


KINDS = ("colour", "place", "object")
ROWS = [
    {"filename": "a.jpg", "caption": "a cup on a table ", "negative_caption": "A {} on a table."},
    {"filename": "a.jpg", "caption": "A dog.", "negative_caption": "A dog is {}."},
    {"filename": "b.jpg", "caption": "A cat.", "negative_caption": "The {} cat."},
]


@pytest.fixture
def foils(tmp_path):
    """Files of three kinds with the same captions, the pictures of `a` and `b` beside them."""
    for colour, name in (("red", "a"), ("blue", "b")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.jpg")
    for kind in KINDS:
        rows = [row | {"negative_caption": row["negative_caption"].format(kind)} for row in ROWS]
        write(tmp_path / f"{kind}.json", rows)
    return {kind: tmp_path / f"{kind}.json" for kind in KINDS}


def write(path, rows):
    path.write_text(json.dumps({str(number): row for number, row in enumerate(rows)}))


def read(foils, **options):
    return read_choices(foils, asked="What is this?", **options)


def test_captions_that_files_share_become_items_with_a_foil_of_each_kind(foils):
    choices, dropped = read(foils)
    assert dropped == {} and [choice.question.id for choice in choices] == ["a-1", "a-2", "b-1"]
    assert choices[0].truth == "A cup on a table."  # as upstream writes its foils
    assert choices[0].foils == {kind: f"A {kind} on a table." for kind in KINDS}
    assert {choice.question.text for choice in choices} == {"What is this?"}
    assert [choice.question.id for choice in read(foils, count=2)[0]] == ["a-1", "a-2"]


def test_a_caption_is_the_same_whatever_its_case_and_stop(foils):
    rows = json.loads(foils["place"].read_text()).values()
    write(foils["place"], [row | {"caption": row["caption"].upper().strip(" .")} for row in rows])
    assert [choice.truth for choice in read(foils)[0]] == ["A cup on a table.", "A dog.", "A cat."]


def test_items_that_cannot_be_used_are_dropped_and_counted_by_reason(foils):
    write(foils["object"], [
        ROWS[0] | {"negative_caption": "a colour on a table"},  # as the foil of another kind
        ROWS[2] | {"negative_caption": "A zebra."},
        ROWS[2] | {"negative_caption": "A second foil."},
        ROWS[2] | {"caption": "A caption of its own.", "negative_caption": "No."},
    ])  # fmt: skip
    choices, dropped = read(foils)
    assert [choice.question.id for choice in choices] == ["b-1"]
    assert choices[0].foils["object"] == "A zebra."
    assert dropped == {"have two equal sentences": 1, "lack a foil of some kind": 2,
                       "repeat another of their file": 1}  # fmt: skip
    foils["object"].with_name("b.jpg").unlink()
    choices, dropped = read(foils, image_root=foils["object"].parent)
    assert choices == [] and dropped["have no image on disk"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"7": {"filename": "a.jpg", "caption": "A cup."}}', r"x\.json: record '7'.*negative_cap"),
        ('{"7": {"filename": "a.jpg", "caption"', r"x\.json:.*SugarCrepe"),
        ('[{"filename": "a.jpg"}]', r"x\.json:.*SugarCrepe"),
        (None, r"x\.json:.*No such file"),
    ],
)
def test_a_damaged_file_is_named_with_its_record(foils, content, message):
    path = foils["place"].with_name("x.json")
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        read(foils | {"place": path})


PROTOCOLS = (
    Protocol(name="single_round"),
    Protocol(name="multi_round", opening=("Where?",)),
    Protocol(name="other_picture", picture="other"),
)


def scripted(fails=False):
    """A model that finds longer sentences likelier, the more so after a round."""

    def answer(asked):
        for number, prompt in enumerate(asked):
            short = len(prompt.messages) > 1
            yield number, Failure("refused") if fails else "red" if short else "A red cup is there."

    def likely(asked, texts):
        return [
            [float(len(text) * len(prompt.messages)) for text in of_it]
            for prompt, of_it in zip(asked, texts, strict=True)
        ]

    return Candidate("mix", 0, answer, "key", log_probabilities=likely)


def test_each_protocol_scores_all_sentences_and_counts_the_models_own_words(foils):
    choices, _ = read(foils)
    table = choose(scripted(), choices, PROTOCOLS, image_root=foils["place"].parent)
    assert len(table) == 9
    first = table[table.question_id == "a-1"].set_index("protocol")
    assert first.truth.to_dict() == {"single_round": 17, "multi_round": 51, "other_picture": 17}
    assert first.object["multi_round"] == 3 * len("A object on a table.")
    assert first.words.dropna().to_dict() == {"single_round": 5, "multi_round": 1}


def test_a_failed_opening_and_an_endpoint_give_no_row(foils):
    choices, where = read(foils)[0], foils["place"].parent
    table = choose(scripted(fails=True), choices, PROTOCOLS, image_root=where)
    assert set(table.protocol) == {"single_round", "other_picture"} and table.words.isna().all()
    endpoint = Candidate("remote", 0, scripted().answer, "key")
    assert choose(endpoint, choices, PROTOCOLS, image_root=where).empty


def chosen(rows, seed=0, model="mix"):
    """A table of choices from (protocol, truth, colour, place, words) of one item per picture."""
    return pd.DataFrame(
        [
            (model, seed, protocol, f"q{n}", f"i{n}", words, truth, colour, place)
            for n, (protocol, truth, colour, place, words) in enumerate(rows)
        ],
        columns=["model", "seed", "protocol", "question_id", "image", "words", "truth", "colour",
                 "place"],
    )  # fmt: skip


def test_shares_count_the_truth_before_all_and_before_each_kind_and_no_tie():
    table = chosen([("p", -1, -2, -3, 9), ("p", -1, -1, -3, 1), ("p", -4, -3, -5, 2),
                    ("p", -1, -2, -3, 3)])  # fmt: skip
    found = choice_table(table, resamples=200).set_index("metric")
    shares = {"truth_first": 50, "colour": 50, "place": 100, "collapse": 75}
    assert found.value.to_dict() == pytest.approx(shares | {"known_unsaid": 100 / 3})
    assert found.n["known_unsaid"] == 3 and found.n["truth_first"] == 4
    assert found.low["truth_first"] < 50 < found.high["truth_first"]


def test_the_change_is_paired_and_in_points():
    alone = chosen([("single_round", -1, -2, -3, 9)] * 10)
    after = chosen([("multi_round", -1, -2, -3, 1)] * 8 + [("multi_round", -2, -1, -3, 1)] * 2)
    effects = choice_effects(pd.concat([alone, after]), [change("mix")], resamples=200)
    first = rows_of(effects, "change of mix", "truth_first")
    assert set(first.difference.round(6)) == {-20.0}
    assert set(rows_of(effects, "change of mix", "collapse").difference) == {100.0}


def test_trainings_that_agree_in_every_choice_are_still_several_and_a_shared_base_is_one():
    first = chosen([("p", -1.0, -2, -3, 9)] * 4)
    shared = [first.assign(model="base", seed=seed) for seed in (0, 1)]
    tuned = [first.assign(seed=seed, truth=-1.0 - seed / 10) for seed in (0, 1)]
    answers = pd.concat([*shared, *tuned])
    answers = pd.concat([answers.assign(protocol=name) for name in ("single_round", "multi_round")])
    effects = choice_effects(answers, [change("base"), change("mix")], resamples=50)
    whole = effects[(effects.seed == "all") & (effects.metric == "truth_first")]
    assert whole.set_index("contrast").trainings.to_dict() == {
        "change of base": 1, "change of mix": 2,
    }  # fmt: skip
