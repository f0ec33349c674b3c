"""Notebook 03 in a real JupyterLab and a real browser: run, filter, flag, go on."""

import shutil

import pytest
from lab import make_project, run_notebook_page, running_lab, strangers
from test_inspector_data import folder  # noqa: F401

from cocoift.inspector.data import Filter, open_inspection
from cocoift.merge.curation import read_decisions


@pytest.fixture(scope="module")
def project(folder, mini, root, tmp_path_factory):  # noqa: F811
    """A project folder with notebook 03 on the merged mini-COCO of the tests."""
    raw, _ = mini
    preset = {"checkpoint": "none", "catalogue": str(root / "data/sources.yaml"),
              "raw_dir": str(raw), "image_dir": str(raw / "images"), "work_dir": "work",
              "report_dir": "reports", "curation": "work/curation.jsonl"}  # fmt: skip
    place = tmp_path_factory.mktemp("project")
    make_project(place, root / "notebooks/03_inspect.ipynb", preset)
    work = place / "work"
    (work / "interim").mkdir(parents=True)
    shutil.copytree(folder / "merged", work / "merged")
    shutil.copy(folder / "instances.parquet", work / "interim")
    return place


@pytest.fixture(scope="module")
def lab(project):
    with running_lab(project) as address:
        yield address


@pytest.fixture(scope="module")
def page(lab, project):
    with run_notebook_page(lab, "03_inspect.ipynb", project) as page:
        page.get_by_role("button", name="next ▶").scroll_into_view_if_needed()
        yield page


def counter(page):
    return page.locator('span[role="status"]').first.inner_text()


def test_the_widget_is_there_and_steps_from_image_to_image(page):
    place, _, count = counter(page).partition(" of ")
    page.get_by_role("button", name="next ▶").click()
    following = f"{int(place) % int(count) + 1} of {count}"
    page.wait_for_function(f"() => document.body.innerText.includes('{following}')")
    assert page.locator("svg[role=img] image").count() >= 1


def test_one_click_on_flag_flags_nothing_until_a_turn_is_chosen(page, project):
    shown = "() => document.body.innerText.includes('nothing to flag: choose a turn')"
    label = "node => node.selectedOptions[0].label.replaceAll('\\u00a0', ' ')"
    turn = page.get_by_label("turn", exact=True)
    for _ in range(2):
        assert turn.evaluate(label) == "choose a turn"
        page.get_by_role("button", name="⚑ flag").click()
        page.wait_for_function(shown)
        page.get_by_role("button", name="next ▶").click()
        page.wait_for_function(shown.replace("() => ", "() => !"))
    assert not (project / "work/curation.jsonl").exists()


def test_a_person_filters_flags_a_turn_goes_on_and_the_flag_is_on_disk(page, project):
    page.get_by_label("source", exact=True).select_option(label="SVIT")
    opened = open_inspection(project / "work/merged", image_root=project)
    count = len(opened.images(Filter(source="svit")))
    page.wait_for_function(f"() => document.body.innerText.includes('of {count}')")
    turn = page.get_by_label("turn", exact=True)
    turn.select_option(index=3)
    page.get_by_label("note", exact=True).fill("seen in a browser")
    page.get_by_role("button", name="⚑ flag").click()
    page.get_by_text("written to curation.jsonl").wait_for()
    page.get_by_role("button", name="undo").click()
    page.get_by_text("undone: flag, 1 turn").wait_for()
    assert read_decisions(project / "work/curation.jsonl") == {}
    turn.select_option(index=3)
    page.get_by_role("button", name="⚑ flag").click()
    page.get_by_text("written to curation.jsonl").wait_for()
    page.get_by_role("button", name="next ▶").click()
    (turns,) = read_decisions(project / "work/curation.jsonl").values()
    (decision,) = turns.values()
    assert decision.note == "seen in a browser" and decision.decision == "flag"


def test_buttons_are_reached_and_pressed_by_keyboard_with_a_visible_focus(page):
    page.get_by_role("button", name="next ▶").focus()
    before = counter(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "random"
    page.keyboard.press("Shift+Tab")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    shadow = "getComputedStyle(document.activeElement).boxShadow"
    assert page.evaluate(outline) != "none" or page.evaluate(shadow) != "none"
    page.keyboard.press("Enter")
    page.wait_for_function(
        f"() => document.querySelector('span[role=status]').innerText !== '{before}'"
    )


def test_no_request_leaves_this_machine(page, lab):
    assert strangers(page, lab) == set()
