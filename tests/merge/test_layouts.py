import json

import pandas as pd
import pyarrow.parquet as pq
import pytest
from kept_turns import IMAGE, SHORT, asked, kept

from cocoift.core.files import DataError
from cocoift.core.schema import Message, Record
from cocoift.core.text import has_format_prompt
from cocoift.merge.export import (
    dataset_card,
    dataset_info,
    write_extras,
    write_mixture,
)
from cocoift.merge.formats import encode_records
from cocoift.merge.layouts import LAYOUTS, MERGED, MIX, Layout, records
from cocoift.merge.rules import Rules


def made(layout, budget=1000):
    return list(records([IMAGE], layout=layout, budget=budget, image_dir="train2017"))


def test_the_merged_layout_is_one_record_in_merge_order_with_every_instruction():
    (record,) = made(MERGED)
    assert record.id == "000000000009"
    assert record.image == "train2017/000000000009.jpg"
    assert asked(record) == [item.turn.instruction for item in IMAGE]
    assert record.sources == [item.turn.source for item in IMAGE]


def test_the_baseline_is_homogeneous_with_the_short_prompt_in_the_first_turn_only():
    by_id = {record.id: record for record in made(MIX)}
    assert set(by_id) == {
        "000000000009-aokvqa",
        "000000000009-llava_instruct-9-a",
        "000000000009-refcoco-r",
        "000000000009-vqav2",
    }
    assert asked(by_id["000000000009-vqav2"]) == [f"What color is it? {SHORT}", "How many?"]
    assert asked(by_id["000000000009-llava_instruct-9-a"]) == ["What is this?", "Where?"]


def test_aokvqa_and_refcoco_repeat_their_prompts_as_in_llava_mix():
    by_id = {record.id: asked(record) for record in made(MIX)}
    assert all(q.endswith("Answer with a letter.") for q in by_id["000000000009-aokvqa"])
    assert by_id["000000000009-refcoco-r"][1] == "Find: the car"


def test_prompt_placement_and_mixing_can_be_taken_apart():
    first_mixed = made(Layout(prompts="first", sources="mixed"))
    assert len(first_mixed) == 1
    assert [has_format_prompt(q) for q in asked(first_mixed[0])][:4] == [True, False, False, False]
    every_apart = {r.id: asked(r) for r in made(Layout(prompts="every", sources="apart"))}
    assert all(has_format_prompt(q) for q in every_apart["000000000009-vqav2"])


def test_chopped_merged_records_have_the_sizes_of_the_images_llava_style_records():
    chopped = made(Layout(prompts="every", sources="mixed", rounds="few"))
    (whole,) = made(MERGED)
    sizes = [len(record.sources) for record in chopped]
    assert sorted(sizes) == sorted(len(record.sources) for record in made(MIX))
    assert [q for record in chopped for q in asked(record)] == asked(whole)
    assert len({record.id for record in chopped}) == len(chopped) > 1
    again = made(Layout(prompts="every", sources="mixed", rounds="few"))
    assert chopped == again


def test_long_records_hold_all_turns_of_one_answer_format_the_prompt_in_the_first_alone():
    found = {record.id: record for record in made(Layout(prompts="first", sources="apart",
                                                         rounds="many"))}  # fmt: skip
    forms = {item.turn.source: item.turn.form for item in IMAGE}
    for name, record in found.items():
        assert {forms[source] for source in record.sources} == {name.split("-")[1]}
    assert sum(len(record.sources) for record in found.values()) == len(IMAGE)
    phrases = asked(found["000000000009-phrase"])
    assert [has_format_prompt(question) for question in phrases] == [
        True, *[False] * (len(phrases) - 1)]  # fmt: skip
    assert len(found) <= len(made(MIX))


def test_the_instructed_layout_prompts_terse_turns_of_conversations_and_changes_nothing_else():
    (plain,), (prompted,) = made(MERGED), made(LAYOUTS["instructed"])
    changed = [(before, after) for before, after in zip(asked(plain), asked(prompted), strict=True)
               if before != after]  # fmt: skip
    assert changed == [("Where?", f"Where? {SHORT}")]  # its answer: "At the top."
    assert prompted.conversations[1::2] == plain.conversations[1::2]
    assert prompted.sources == plain.sources


def test_a_prompt_on_a_terse_turn_counts_towards_the_budget():
    # Eight turns of 10 tokens fill 80; the prompt on one of them takes more than that.
    assert len(made(MERGED, budget=80)) == 1 and len(made(LAYOUTS["instructed"], budget=80)) == 2


def terse_dialogs(dialogs, rounds, *, per_record):
    """Two-word VisDial answers on an image: `per_record` dialogs in a record."""
    return [
        kept("visdial", str(d), r, f"Is it {d}.{r}?", "yes, very", "free", record=d // per_record)
        for d in range(dialogs)
        for r in range(rounds)
    ]


@pytest.mark.parametrize("name", LAYOUTS)
def test_ids_are_unique_where_prompts_make_more_records_of_an_image(name):
    # Ten dialogs of ten rounds of 10 tokens fill two records, and more of them once each turn
    # gets a prompt.
    image = terse_dialogs(10, 10, per_record=7)
    found = list(records([image], layout=LAYOUTS[name], budget=700, image_dir="train2017"))
    ids = [record.id for record in found]
    assert len(set(ids)) == len(ids)
    assert sum(len(record.sources) for record in found) == 100
    if name == "instructed":
        assert ids == ["000000000009", *(f"000000000009-{n}" for n in range(1, len(ids)))]


def test_a_further_part_of_a_source_has_another_id_than_a_dialog_named_like_it():
    image = [kept("s", "5", 0, "A?", "b"), kept("s", "6", 0, "C?", "d"),
             kept("s", "1", 0, "What?", "A cat.", "free")]  # fmt: skip
    found = list(records([image], layout=MIX, budget=10, image_dir="train2017"))
    assert len({record.id for record in found}) == 3


def test_prompts_that_overfill_a_record_cut_it_between_dialogs():
    # With its prompts a dialog of three rounds costs 90 tokens.
    image = terse_dialogs(3, 3, per_record=3)
    found = records([image], layout=LAYOUTS["instructed"], budget=220, image_dir="train2017")
    assert [len(record.sources) for record in found] == [6, 3]


def test_a_baseline_record_that_is_too_long_is_cut_between_turns():
    by_id = {record.id: len(record.sources) for record in made(MIX, budget=10)}
    assert by_id["000000000009-vqav2"] == by_id["000000000009-vqav2-1"] == 1


@pytest.fixture
def written(tmp_path):
    counts = write_mixture(made(MIX), tmp_path, name="mix")
    assert counts == {"records": 4, "rounds": 8}
    return tmp_path


def test_the_json_is_llavas_own_format(written):
    content = json.loads((written / "mix.json").read_text())
    assert content[-1] == {
        "id": "000000000009-vqav2",
        "image": "train2017/000000000009.jpg",
        "conversations": [
            {"from": "human", "value": f"<image>\nWhat color is it? {SHORT}"},
            {"from": "gpt", "value": "red"},
            {"from": "human", "value": "How many?"},
            {"from": "gpt", "value": "2"},
        ],
        "sources": ["vqav2", "vqav2"],
    }


def test_parquet_and_json_hold_the_same_records(written):
    rows = pq.read_table(written / "mix.parquet").to_pylist()
    records = json.loads((written / "mix.json").read_text())
    assert rows == [{"licence": None, **record} for record in records]


def test_messages_are_typed_content_with_one_image(written):
    rows = pq.read_table(written / "mix_messages.parquet").to_pylist()
    first = rows[-1]["messages"][0]
    assert first["role"] == "user"
    assert [part["type"] for part in first["content"]] == ["image", "text"]
    assert rows[-1]["images"] == ["train2017/000000000009.jpg"]
    assert [m["role"] for m in rows[-1]["messages"]] == ["user", "assistant"] * 2
    assert all(
        "<image>" not in (p["text"] or "") for m in rows[-1]["messages"] for p in m["content"]
    )


def test_messages_render_through_a_llava_chat_template():
    import jinja2

    # The template of llava-hf/llava-1.5-7b-hf in its essentials: images first, then the text.
    template = jinja2.Template(
        "{% for m in messages %}{{ m.role | upper }}: "
        "{% for c in m.content if c.type == 'image' %}<image>\n{% endfor %}"
        "{% for c in m.content if c.type == 'text' %}{{ c.text }}{% endfor %} {% endfor %}"
    )
    (record,) = made(MERGED)
    text = template.render(encode_records([record]).messages.to_pylist()[0])
    assert text.startswith(f"USER: <image>\nWhat color is it? {SHORT} ASSISTANT: red USER: ")


def test_a_broken_record_leaves_no_file(tmp_path):
    broken = Record("x", "train2017/x.jpg", [Message("human", "no marker")], ["vqav2"])
    with pytest.raises(DataError, match="record 'x'"):
        write_mixture([*made(MERGED), broken], tmp_path, name="mix")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_mixture_is_an_empty_list(tmp_path):
    assert write_mixture([], tmp_path, name="mix") == {"records": 0, "rounds": 0}
    assert json.loads((tmp_path / "mix.json").read_text()) == []


def test_extras_name_the_files_and_the_licences(tmp_path, catalogue):
    drops = pd.DataFrame(
        [("vqav2", "kept", 8), ("vqav2", "duplicate", 2)], columns=["source", "reason", "turns"]
    )
    counts = {"merged": {"records": 1, "rounds": 8}}
    licences = pd.DataFrame(
        [(4, "CC BY 2.0", "http://creativecommons.org/licenses/by/2.0/", 7)],
        columns=["licence", "name", "address", "images"],
    )
    card = dataset_card(
        catalogue=catalogue, drops=drops, counts=counts, licences=licences, rules=Rules(),
        tokens="estimate",
    )  # fmt: skip
    write_extras(tmp_path, names=counts, card=card, licences=licences)
    text = (tmp_path / "README.md").read_text()
    assert "| VQAv2 | CC BY 4.0 |" in text
    assert "| vqav2 | 10 | 2 | 8 |" in text
    assert "| 4 | CC BY 2.0 | http://creativecommons.org/licenses/by/2.0/ | 7 |" in text
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert info == json.loads(dataset_info(["merged"]))
    assert info["merged"]["columns"] == {"messages": "conversations", "images": "image"}
