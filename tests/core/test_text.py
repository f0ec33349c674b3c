import re
import unicodedata

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cocoift.core.text import (
    FORMAT_PROMPTS,
    PROMPT_PATTERN,
    has_format_prompt,
    question_key,
    tidy,
    without_format_prompt,
)


@given(st.text())
def test_tidy_text_has_no_stray_blanks_and_is_stable(text):
    clean = tidy(text)
    assert clean == " ".join(clean.split())
    assert tidy(clean) == clean


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("a\x1cb\x85c\u2028d\xa0e\u3000f\x0b")
def test_tidy_collapses_what_regular_expressions_call_white_space(text):
    composed = unicodedata.normalize("NFC", text)
    assert tidy(text) == re.sub(r"\s+", " ", composed).strip()


PIECES = st.sampled_from(
    ["An\u017fwer", "ANSWER", "Please", "DESCRIBE", "cat", "?", "\n", "\u212a"]
)


@given(st.lists(st.one_of(PIECES, st.sampled_from(FORMAT_PROMPTS), st.text(max_size=5))))
def test_no_format_prompt_is_missed_for_want_of_a_search(parts):
    text = " ".join(parts)
    for changed in (text, text.upper(), text.swapcase()):
        whole = re.sub(PROMPT_PATTERN, " ", changed, flags=re.IGNORECASE)
        assert tidy(without_format_prompt(changed)) == tidy(whole)


def test_tidy_keeps_non_ascii_and_composes_it():
    assert tidy(" cafe\u0301\n —  日本 ") == "café — 日本"
    assert tidy(None) == ""


@pytest.mark.parametrize("prompt", FORMAT_PROMPTS)
def test_every_known_prompt_is_found_and_removed(prompt):
    asked = f"What color is the cat?\n{prompt}"
    assert has_format_prompt(asked)
    assert tidy(without_format_prompt(asked)) == "What color is the cat?"


def test_case_punctuation_blanks_and_prompts_do_not_make_another_question():
    keys = {
        question_key("What color is the cat?"),
        question_key("what color is the cat ?"),
        question_key("What color is the cat?\nAnswer the question using a single word or phrase."),
        question_key("  WHAT COLOR is the cat"),
    }
    assert keys == {"what color is the cat"}


def test_an_open_question_has_no_format_prompt():
    assert not has_format_prompt("Describe the picture.")


@given(st.text(st.characters(max_codepoint=127)), st.sampled_from(["", *FORMAT_PROMPTS]))
@example("\x00\x1c_a", "")
def test_the_short_way_for_ascii_text_gives_the_key_of_the_long_way(text, prompt):
    assume(not re.search(r"[-+*/=<>] ?\d", text))  # signs of numbers: the test below
    bare = re.sub(r"[^\w\s]|_", " ", without_format_prompt(f"{text} {prompt}"))
    assert question_key(f"{text} {prompt}") == " ".join(bare.split()).casefold()


@pytest.mark.parametrize(
    ("first", "second"),
    [("-5", "5"), ("What is 5-3?", "What is 5+3?"), ("6/2", "62"), ("6/2", "6 2"), ("−5", "5")],
)
def test_signs_and_operators_of_numbers_make_another_question(first, second):
    assert question_key(first) != question_key(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [("5-3", "5 - 3"), ("-5", "−5"), ("a 10-year-old", "a 10 year old"), ("T-shirt", "t shirt")],
)
def test_blanks_and_hyphens_do_not(first, second):
    assert question_key(first) == question_key(second)
