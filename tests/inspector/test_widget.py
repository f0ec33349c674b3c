"""The inspector: every control does what it says, and hostile text stays text."""

import html
import re
from html.parser import HTMLParser

import nbformat
import pandas as pd
import pytest
from test_inspector_data import folder, opened, turns  # noqa: F401

from cocoift.inspector import cards
from cocoift.inspector.cards import drawn_image, overlay
from cocoift.inspector.data import Filter, ImageView
from cocoift.inspector.widget import Inspector, Lookups
from cocoift.merge.curation import read_decisions
from cocoift.report.pages import notebook_page, without_widgets

HOSTILE = (
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    '<a href="javascript:alert(1)">x</a>',
    "</td></table></details><svg onload=alert(1)>",
    "left ‮ right ⁦ isolated \x00\x1b",
    "x" * 100_000,
    "日本語 עברית العربية 🙂",
)


@pytest.fixture
def inspector(opened, mini, catalogue, tmp_path):  # noqa: F811
    raw, _ = mini
    lookups = Lookups(catalogue=catalogue, reasons={"conflict": "contradicted"}, raw=raw)
    return Inspector(opened, lookups, curation=tmp_path / "curation.jsonl")


def press(inspector, name):
    inspector.controls[name].click()


def test_it_opens_on_the_first_image_with_its_turns_and_a_counter(inspector):
    assert inspector.image_id == inspector.ids[0]
    assert f"1 of {len(inspector.ids):,}" in inspector.controls["counter"].value
    for turn in inspector.view.turns:
        assert html.escape(turn["answer"]) in inspector.controls["turns"].value


def test_next_and_previous_go_round_the_set_in_order(inspector):
    ids = [int(i) for i in inspector.ids]
    press(inspector, "next")
    assert inspector.image_id == ids[1]
    press(inspector, "previous")
    press(inspector, "previous")
    assert inspector.image_id == ids[-1]
    press(inspector, "next")
    assert inspector.image_id == ids[0]


def test_an_id_is_gone_to_and_an_id_that_is_not_there_is_reported(inspector):
    wanted = int(inspector.ids[7])
    inspector.controls["image_id"].value = wanted
    press(inspector, "go")
    assert inspector.image_id == wanted
    inspector.controls["image_id"].value = 1
    press(inspector, "go")
    assert inspector.image_id == wanted
    assert "image 1 is not in the merged set" in inspector.controls["status"].value


def test_random_stays_within_the_filter(inspector):
    inspector.controls["conflicts"].value = True
    for _ in range(10):
        press(inspector, "random")
        assert inspector.image_id in inspector.ids


@pytest.mark.parametrize(
    ("control", "value", "chosen"),
    [
        ("source", "svit", Filter(source="svit")),
        ("form", "number", Filter(form="number")),
        ("least_sources", 9, Filter(least_sources=9)),
        ("conflicts", True, Filter(conflicts=True)),
        ("text", "kite", Filter(text="kite")),
    ],
)
def test_each_filter_restricts_what_is_gone_through(inspector, control, value, chosen):
    inspector.controls[control].value = value
    expected = inspector.inspection.images(chosen)
    assert list(inspector.ids) == list(expected) and len(expected) > 0
    assert inspector.image_id in expected
    press(inspector, "next")
    assert inspector.image_id in expected


def test_a_filter_that_lets_nothing_through_keeps_the_image_and_says_so(inspector):
    before = inspector.image_id
    inspector.controls["text"].value = "no such text anywhere"
    press(inspector, "next")
    press(inspector, "random")
    assert inspector.image_id == before
    assert "not among 0" in inspector.controls["counter"].value


def test_a_flag_is_on_disk_at_once_shown_in_words_and_can_be_taken_back(inspector):
    inspector.controls["turn"].value = 2
    inspector.controls["reason"].value = "wrong answer format"
    inspector.controls["note"].value = "<b>look</b>"
    press(inspector, "flag")
    turn = inspector.view.turns[2]
    key = (turn["source"], turn["dialog_id"], turn["round"])
    found = read_decisions(inspector.curation)[inspector.image_id]
    assert list(found) == [key] and found[key].reason == "wrong answer format"
    assert "⚑ flagged: wrong answer format &lt;b&gt;look" in inspector.controls["turns"].value
    inspector.controls["flagged"].value = True
    assert list(inspector.ids) == [inspector.image_id]
    press(inspector, "keep")
    assert read_decisions(inspector.curation) == {}
    assert "flagged:" not in inspector.controls["turns"].value


def choose(inspector, label):
    turn = inspector.controls["turn"]
    turn.value = dict(turn.options)[label]


def test_with_no_turn_chosen_nothing_is_flagged_and_the_status_says_so(inspector):
    for move in ("go", "next", "random"):
        press(inspector, move)
        assert inspector.controls["turn"].label == "choose a turn"
        for decision in ("flag", "keep"):
            press(inspector, decision)
            assert f"nothing to {decision}: choose a turn" in inspector.controls["status"].value
    assert not inspector.curation.exists()


def test_undo_takes_back_one_decision_after_another_wherever_it_was_taken(inspector):
    first = inspector.image_id
    inspector.controls["turn"].value = 0
    inspector.controls["reason"].value = "offensive"
    press(inspector, "flag")
    inspector.controls["reason"].value = "wrong answer format"
    press(inspector, "flag")
    press(inspector, "next")
    choose(inspector, "all turns of this image")
    press(inspector, "flag")
    press(inspector, "undo")
    assert list(read_decisions(inspector.curation)) == [first]
    press(inspector, "undo")
    assert inspector.image_id == first and "undone: flag, 1 turn" in status(inspector)
    (flag,) = read_decisions(inspector.curation)[first].values()
    assert flag.reason == "offensive"
    assert "⚑ flagged: offensive" in inspector.controls["turns"].value
    press(inspector, "undo")
    assert read_decisions(inspector.curation) == {} == inspector.flags
    press(inspector, "undo")
    assert "nothing to undo" in status(inspector)


def status(inspector):
    return inspector.controls["status"].value


def test_all_turns_of_an_image_are_flagged_together_and_another_session_sees_them(inspector):
    choose(inspector, "all turns of this image")
    press(inspector, "flag")
    again = Inspector(inspector.inspection, inspector.lookups, curation=inspector.curation)
    assert len(again.flags[inspector.image_id]) == len(inspector.view.turns)


def test_a_flag_that_cannot_be_written_is_reported_and_not_shown(inspector, tmp_path):
    (tmp_path / "file").write_text("in the way")
    inspector.curation = tmp_path / "file" / "curation.jsonl"
    choose(inspector, "all turns of this image")
    press(inspector, "flag")
    assert "the decision was not written" in inspector.controls["status"].value
    assert "flagged:" not in inspector.controls["turns"].value


def test_layers_and_categories_are_switched(inspector):
    image = next(
        int(i) for i in inspector.ids if len(inspector.inspection.view(int(i)).instances) > 2
    )
    inspector.show(image)
    shown = inspector.controls["image"]
    assert "<polygon" in shown.value and "<rect" in shown.value and "<text" in shown.value
    for layer, mark in (("masks", "<polygon"), ("boxes", "<rect"), ("names", "<text")):
        inspector.controls[layer].value = False
        assert mark not in shown.value
    inspector.controls["boxes"].value = True
    every = shown.value.count("<rect")
    inspector.controls["categories"].value = inspector.controls["categories"].options[:1]
    assert 0 < shown.value.count("<rect") < every


def test_the_raw_annotation_of_a_turn_is_shown_on_demand(inspector):
    inspector.show(int(inspector.inspection.images(Filter(source="vqav2"))[0]))
    place = next(n for n, t in enumerate(inspector.view.turns) if t["source"] == "vqav2")
    inspector.controls["turn"].value = place
    press(inspector, "show_raw")
    assert inspector.view.turns[place]["dialog_id"] in inspector.controls["raw"].value
    press(inspector, "next")
    assert inspector.controls["raw"].value == ""


def test_dropped_turns_are_folded_with_their_reasons(inspector):
    image = int(inspector.inspection.images(Filter(conflicts=True))[0])
    inspector.show(image)
    shown = inspector.controls["dropped"].value
    assert shown.startswith("<details><summary>") and "contradicted" in shown
    assert f"<summary>{len(inspector.view.dropped)} dropped turn" in shown


def test_answers_stand_single_beside_multi_with_their_scores():
    rows = [
        {"question": "What?", "model": "mix", "seed": 0, "protocol": protocol, "score": score,
         "opening_reply": opening, "answer": answer, "reason": ""}
        for protocol, opening, answer, score in (
            ("single_round", "", "A red cup.", 1.0), ("multi_round", "beach", "red", ""))
    ]  # fmt: skip
    shown = cards.answer_table(pd.DataFrame(rows), ("single_round", "multi_round"))
    assert shown.index("A red cup.") < shown.index("opening reply: beach") < shown.index(">red<")
    assert "score 1.00" in shown and "no score" in shown


def test_the_answers_of_a_benchmark_image_are_chosen_in_their_tab(opened, mini, tmp_path):  # noqa: F811
    raw, _ = mini
    rows = [{"question": "What?", "model": "mix", "seed": 0, "protocol": "single_round",
             "score": 1.0, "opening_reply": "", "answer": answer, "reason": ""}
            for answer in ("A red cup.", "A blue boat.")]  # fmt: skip
    names = ("mini_000.jpg", "mini_001.jpg")
    answers = {("mm_vet", n): pd.DataFrame([row]) for n, row in zip(names, rows, strict=True)}
    lookups = Lookups(catalogue={}, reasons={}, raw=raw, answers=answers,
                          answer_roots={"mm_vet": raw / "mm_vet/images"})  # fmt: skip
    inspector = Inspector(opened, lookups, curation=tmp_path / "curation.jsonl")
    shown = inspector.controls["answers"]
    assert "A red cup." in shown.value and "<svg" in shown.value
    inspector.controls["evaluated"].value = ("mm_vet", "mini_001.jpg")
    assert "A blue boat." in shown.value and "A red cup." not in shown.value
    assert "A blue boat." in inspector.card()


class Tags(HTMLParser):
    """Collects the elements and attributes that a browser would see."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def harmless(text):
    tags = Tags(text).found
    allowed = {"table", "caption", "thead", "tbody", "tr", "th", "td", "span", "details", "summary",
               "p", "pre", "ul", "li", "section", "h4", "div", "svg", "image", "g", "title", "rect",
               "polygon", "text", "br"}  # fmt: skip
    assert {tag for tag, _ in tags} <= allowed
    for _, attributes in tags:
        assert not any(name.startswith("on") for name in attributes)
        href = attributes.get("href", "data:")
        assert href.startswith(("data:image/jpeg", "data:image/png", "data:"))
    return "".join(Tags(text).text)


def view(text):
    turn = {"source": text, "dialog_id": "d", "round": 0, "instruction": text, "answer": text,
            "form": text, "tokens": 3, "record": 0, "reason": text, "question": text}  # fmt: skip
    box = {"category": text, "bbox": [1, 1, 9, 9], "iscrowd": False, "height": 64, "width": 64,
           "segmentation": "[[1, 1, 9, 1, 9, 9]]"}  # fmt: skip
    return ImageView(
        image_id=9, file="x.jpg", licence=text, turns=[turn], dropped=[turn], instances=[box]
    )


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:12].encode().hex())
def test_hostile_text_is_shown_as_text_in_every_part(text, mini):
    raw, world = mini
    shown = view(text)
    name = f"train2017/{world.train[0].image_id:012d}.jpg"
    answers = pd.DataFrame([{"question": text, "model": text, "seed": 0, "protocol": "a",
                             "score": 0.5, "opening_reply": text, "answer": text,
                             "reason": text}])  # fmt: skip
    parts = [
        cards.turn_table(shown, {}, {}),
        cards.dropped_table(shown, {}, {}),
        cards.answer_table(answers, ("a", "b")),
        cards.raw_card(text, text),
        overlay(name, raw / "images", shown.instances, alt=text),
        cards.legend(shown, {text: "#000"}),
        cards.image_card(title=text, drawn="", parts=[]),
    ]
    for part in parts:
        safe = harmless(part)
        assert not re.search("[‮⁦\x00\x1b]", safe)
    plain = re.sub("[‮⁦\x00\x1b]", "", text)
    assert plain[:1000].split()[0] in harmless(parts[0])


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "train2017/none.jpg"])
def test_an_image_outside_its_root_or_missing_is_told_in_words(name, mini):
    raw, _ = mini
    shown = overlay(name, raw / "images", [], alt="an image")
    assert shown.startswith("<p") and "<svg" not in shown and 'aria-label="an image"' in shown


def test_the_image_keeps_its_shape_and_tells_what_it_shows(opened):  # noqa: F811
    shown = drawn_image(opened, opened.view(int(opened.turns.ids[0])), layers=[], categories=None)
    assert 'viewBox="0 0 64 64"' in shown and "height:auto" in shown
    assert re.search(r'role="img" aria-label="image \d+: \w+', shown)


def test_without_a_kernel_a_static_card_with_the_same_content_is_shown(inspector):
    bundle = inspector._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    card = bundle["text/html"]
    harmless(card)
    for turn in inspector.view.turns:
        assert html.escape(turn["answer"]) in card
    output = nbformat.v4.new_output("display_data", data=bundle)
    cell = nbformat.v4.new_code_cell("inspector", outputs=[output])
    page = notebook_page(without_widgets(nbformat.v4.new_notebook(cells=[cell])), title="03")
    assert html.escape(inspector.view.turns[0]["answer"]) in page
    assert "widget-view" not in page and "<script" not in page


def test_every_control_has_a_label(inspector):
    silent = {"image", "turns", "dropped", "answers", "raw", "counter", "status"}
    for name, control in inspector.controls.items():
        assert name in silent or control.description, name


def test_a_progress_bar_leaves_nothing_in_the_page():
    bar = {"text/plain": "merging: 0%", "application/vnd.jupyter.widget-view+json": {}}
    outputs = [nbformat.v4.new_output("display_data", bar),
               nbformat.v4.new_output("display_data", {"text/plain": "12 records"})]  # fmt: skip
    cell = nbformat.v4.new_code_cell("merge()", outputs=outputs)
    kept = without_widgets(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs
    assert [output.data for output in kept] == [{"text/plain": "12 records"}]
