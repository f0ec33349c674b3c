import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoift.prompts import (
    FORMAT_PROMPTS,
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


def test_tidy_keeps_non_ascii_and_composes_it():
    assert tidy(" cafe\u0301\n —  日本 ") == "café — 日本"
    assert tidy(None) == ""


@pytest.mark.parametrize("prompt", FORMAT_PROMPTS)
def test_every_known_prompt_is_found_and_removed(prompt):
    asked = f"What color is the cat?\n{prompt}"
    assert has_format_prompt(asked)
    assert without_format_prompt(asked) == "What color is the cat?"


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
