"""The expected texts are what upstream's `vqaEval.py` makes of these answers."""

import pytest

from cocoift.core.answers import answer_key, vqa_answer


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("Two.", "2"),
        ("none", "0"),
        ("ten dogs", "10 dogs"),
        ("eleven", "eleven"),
        ("A dog", "dog"),
        ("the man and an umbrella", "man and umbrella"),
        ("red,white and blue", "red white and blue"),
        ("red, white and blue", "red white and blue"),
        ("1,000 (about)", "1000 about"),
        ("t-shirt", "t shirt"),
        ("t - shirt", "t shirt"),
        ("black/white", "black white"),
        ("3.5", "3.5"),
        ("3.5.", "3.5"),
        ("U.S.A.", "usa"),
        ("dont know", "don't know"),
        ("It isnt.", "it isn't"),
        ("oclock", "o'clock"),
        ("youd've", "you'd've"),
        ("its", "its"),
        ("he's", "he's"),
        ("10:30", "10:30"),
        ("yes\n", "yes"),
        ("a", ""),
    ],
)
def test_an_answer_is_normalised_as_vqas_evaluation_does(answer, normal):
    assert vqa_answer(answer) == normal


@pytest.mark.parametrize(
    ("first", "second"), [("-5", "5"), ("no", "none"), ("it's", "its"), ("A", "B"), ("", "?")]
)
def test_what_means_something_else_does_not_agree(first, second):
    assert answer_key(first) != answer_key(second)


@pytest.mark.parametrize(("first", "second"), [("A", "a."), ("-5", "\u22125"), ("The", "the")])
def test_an_answer_that_is_an_article_or_a_negative_number_agrees_with_itself(first, second):
    assert answer_key(first) == answer_key(second)
