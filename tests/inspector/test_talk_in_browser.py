"""Notebook 08 in a real JupyterLab and a real browser, with three models behind an endpoint."""

import pytest
from lab import make_project, run_notebook_page, running_lab, strangers
from loopback import serving

LONG = "A cup stands on the table, and behind it a red book lies on its side."
OPENING = "Where was this picture taken? Answer the question with a short phrase."
NAMES = ("base", "mix", "instructed")


def reply(body, number):
    """Answer as the model that is asked: the LLaVA-style model stays short once it was short."""
    texts = [message["content"] for message in body["messages"]]
    last = texts[-1] if isinstance(texts[-1], str) else texts[-1][-1]["text"]
    if "short phrase" in last:
        return "park"
    terse = body["model"] == "mix" and "park" in texts
    return "cup" if terse else f"{body['model']}: {LONG}"


@pytest.fixture(scope="module")
def project(mini, root, tmp_path_factory):
    """A project folder with notebook 08 on mini's benchmark and three models."""
    raw, _ = mini
    images = {"questions": "mm_vet/mm-vet.json", "images": "mm_vet/images"}
    with serving(reply) as server:
        endpoints = [{"name": n, "model": n, "base_url": server.url, "key_variable": "TALK_KEY"}
                     for n in NAMES]  # fmt: skip
        preset = {"checkpoint": "none", "catalogue": str(root / "data/sources.yaml"),
                  "raw_dir": str(raw), "work_dir": "work", "report_dir": "reports",
                  "evaluation": {
                      "endpoints": endpoints,
                      "benchmarks": {"mm_vet": {"format": "mm_vet", **images}},
                      "protocols": {"single_round": {}, "multi_round": {"opening": [OPENING]}}},
                  }  # fmt: skip
        place = tmp_path_factory.mktemp("project")
        yield make_project(place, root / "notebooks/08_talk.ipynb", preset)


@pytest.fixture(scope="module")
def lab(project):
    with running_lab(project, TALK_KEY="any") as address:
        yield address


@pytest.fixture(scope="module")
def page(lab, project):
    with run_notebook_page(lab, "08_talk.ipynb", project) as page:
        page.get_by_role("button", name="start over").scroll_into_view_if_needed()
        yield page


def column(page, name):
    return page.get_by_role("region", name=name).last


def ask(page, question):
    """Ask as soon as the models are done with what they were asked before."""
    page.get_by_role("button", name="ask", exact=True).click(trial=True)
    page.get_by_label("question", exact=True).fill(question)
    page.keyboard.press("Enter")


def test_a_person_asks_and_reads_three_answers(page):
    page.get_by_role("button", name="start over").click()
    page.get_by_label("question", exact=True).wait_for()
    ask(page, "What is behind the cup?")
    for name in NAMES:
        column(page, name).get_by_text(f"{name}: {LONG}").wait_for()
        column(page, name).get_by_text("17 words").wait_for()


def test_after_a_short_round_the_llava_style_model_answers_with_a_word(page):
    page.get_by_role("button", name="short round first").click()
    column(page, "instructed").get_by_text("park", exact=True).wait_for()
    ask(page, "What is behind the cup?")
    column(page, "instructed").get_by_text(f"instructed: {LONG}").wait_for()
    assert "cup\n\n1 word" in column(page, "mix").inner_text()
    assert f"base: {LONG}" in column(page, "base").inner_text()


def test_another_image_is_chosen_by_keyboard(page):
    page.get_by_role("button", name="image 2", exact=True).focus()
    page.keyboard.press("Enter")
    page.get_by_role("img", name="image mini_001.jpg").nth(1).wait_for()
    assert "cup" not in column(page, "mix").inner_text()


def test_no_request_leaves_this_machine(page, lab):
    assert strangers(page, lab) == set()
