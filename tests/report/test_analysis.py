import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cocoift.core.files import DataError
from cocoift.core.schema import Message, Record
from cocoift.evaluation.lengths import count_words, length_table, record_rounds
from cocoift.merge.export import write_mixture
from cocoift.report import analysis
from cocoift.report.merge import (
    after_short_table,
    example_records,
    kept_table,
    prompted_table,
)
from cocoift.sources import load_readings, read_all
from cocoift.sources.dialogs import LlavaRecord

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


def conversation(*pairs, image="coco/train2017/000000000009.jpg"):
    messages = [m for q, a in pairs for m in (Message("human", q), Message("gpt", a))]
    return LlavaRecord(conversations=messages, id="9", image=image)


def test_words_are_separated_by_white_space():
    answers = pa.array(["yes", " a  red\tcar\n", "", "  ", None, "日本 語"])
    assert count_words(answers).to_pylist() == [1, 3, 0, 0, 0, 2]


@pytest.mark.parametrize(
    ("questions", "placement"),
    [
        ([f"a\n{SHORT}", "b", "c"], "first turn only"),
        ([f"a\n{SHORT}", f"b\n{SHORT}"], "every turn"),
        (["a", f"b\n{SHORT}"], "some turns"),
        ([f"a\n{SHORT}", f"b\n{SHORT}", "c"], "some turns"),
        (["a", "b"], "no prompt"),
    ],
)
def test_where_prompts_stand_is_told(questions, placement):
    assert analysis.prompt_placement(questions) == placement


@pytest.mark.parametrize(
    ("record", "group"),
    [
        (conversation((f"<image>\nWhat?\n{SHORT}", "red")), "VQAv2 and OK-VQA"),
        (conversation((f"<image>\nWhat?\n{SHORT}", "red"), image="gqa/images/1.jpg"), "GQA"),
        (conversation((f"Who?\n{LETTER}", "A")), "A-OKVQA"),
        (conversation(("Please provide a short description for this region: [0]", "x")), "RefCOCO"),
        (conversation(("<image>\nDescribe.", "A cat sits on a mat.")), "LLaVA-Instruct"),
        (conversation(("Hello", "Hi"), image=None), "ShareGPT"),
        (conversation(("What?", "x"), image="ocr_vqa/images/1.jpg"), "OCR-VQA"),
    ],
)  # fmt: skip
def test_the_parts_of_llava_mix_are_told_apart(record, group):
    assert analysis.mix_group(record) == group


def rounds_of(folder, *conversations):
    """The rounds of a file with these conversations, all of which can be read."""
    path = folder / "llava_v1_5_mix665k.json"
    path.write_bytes(msgspec.json.encode(conversations))
    turns, odd = analysis.mixture_turns(path)
    assert odd == ""
    return turns


def test_the_parts_of_another_file_are_called_by_their_folders_not_by_llavas_sets(tmp_path):
    path = tmp_path / "mine.json"
    found = [conversation(("What?", "x"), image=name) for name in ("shop/1.jpg", "2.jpg", None)]
    path.write_bytes(msgspec.json.encode(found))
    turns, _ = analysis.mixture_turns(path)
    assert list(turns.group) == ["shop", "no folder", "without an image"]


def test_a_mixtures_tables_match_a_hand_count(tmp_path):
    turns = rounds_of(
        tmp_path,
        conversation((f"<image>\nWhat?\n{SHORT}", "red"), ("Where?", "on top"), ("Who?", "he")),
        conversation((f"<image>\nWhy?\n{SHORT}", "so"), ("When?", "in the very early morning")),
        conversation((f"<image>\nAlone?\n{SHORT}", "yes")),
    )
    (row,) = analysis.mixture_table(turns).to_dict("records")
    assert row["records"] == 3
    assert row["rounds_per_record"] == 2
    assert row["first_round_median_words"] == 1
    assert row["later_rounds_median_words"] == 2
    assert row["all_answers_short"] == 0.5
    assert analysis.placement_table(turns).loc["VQAv2 and OK-VQA"].to_dict() == {
        "every turn": 0.0, "first turn only": 1.0, "no prompt": 0.0, "some turns": 0.0
    }  # fmt: skip


def test_the_mini_baseline_has_its_prompt_in_the_first_turn_only(mini):
    turns, _ = analysis.mixture_turns(mini[0] / "llava_mix/llava_v1_5_mix665k.json")
    placement = analysis.placement_table(turns)
    assert placement.loc["GQA", "first turn only"] == 1
    assert placement.loc["A-OKVQA", "every turn"] == 1
    assert placement.loc["LLaVA-Instruct", "no prompt"] == 1


def test_a_file_of_single_rounds_cannot_teach_what_follows_a_short_answer(tmp_path):
    turns = rounds_of(tmp_path, *[conversation(("<image>\nWhy?", "So it is."))] * 3)
    assert analysis.placement_table(turns).empty
    (row,) = analysis.mixture_table(turns).to_dict("records")
    assert row["records"] == 3 and row["rounds_per_record"] == 1
    assert "Every conversation of x has one round" in analysis.placement_sentence(turns, "x")


def test_a_file_without_prompts_has_none_in_its_first_turns(tmp_path):
    turns = rounds_of(tmp_path, conversation(("<image>\nWhy?", "So."), ("Sure?", "Yes.")))
    assert "In x, 0% of the multi-round" in analysis.placement_sentence(turns, "x")
    assert analysis.placement_table(turns).loc["LLaVA-Instruct", "no prompt"] == 1


def test_the_sentence_on_a_mixture_is_counted_by_hand(tmp_path):
    turns = rounds_of(
        tmp_path,
        conversation((f"<image>\nWhat?\n{SHORT}", "red"), ("Where?", "on top")),
        conversation((f"<image>\nWhy?\n{SHORT}", "so"), ("When?", "in the very early morning")),
        conversation(("<image>\nWhy?", "so"), ("When?", "now")),
        conversation((f"<image>\nWhy?\n{SHORT}", "so"), (f"When?\n{SHORT}", "now")),
    )
    text = analysis.placement_sentence(turns, "x")
    assert "In x, 50% of the multi-round conversations" in text and "in 50% of those" in text


def test_speakers_of_other_trainers_and_lists_of_pictures_are_read(tmp_path):
    chat = [("system", "Be kind."), ("user", "<image>\nWho?"), ("bot", "He."), ("human", "Why?"),
            ("assistant", "So.")]  # fmt: skip
    messages = [Message(*message) for message in chat]
    images = (["coco/a.jpg"], ["gqa/a.jpg", "gqa/b.jpg"], [], None)
    turns = rounds_of(
        tmp_path, *[LlavaRecord(conversations=messages, image=image) for image in images]
    )
    assert list(turns.words) == [1, 1] * 4 and list(turns["round"]) == [0, 1] * 4
    assert list(turns.group[::2]) == ["LLaVA-Instruct", "GQA", "ShareGPT", "ShareGPT"]


def test_conversations_that_cannot_be_read_are_counted_and_the_first_is_shown(tmp_path):
    good = conversation(("<image>\nWhy?", "So."))
    odd = [LlavaRecord(conversations=[Message(name, "x") for name in names], id=f"r{n}")
           for n, names in enumerate((("human", "human"), ("model",), ()))]  # fmt: skip
    path = tmp_path / "my.json"
    path.write_bytes(msgspec.json.encode([good, *odd, good]))
    turns, note = analysis.mixture_turns(path)
    assert len(turns) == 2 and set(turns.record) == {0, 1}
    assert note.startswith("my.json: 3 of 5 conversations cannot be read, such as record 'r0' with")
    assert "'human', 'human'; human or user must alternate with gpt or assistant or bot" in note
    path.write_bytes(msgspec.json.encode(odd[1:]))
    with pytest.raises(DataError, match=r"2 of 2 .*'r1' with .*'model'; .*; correct `from` in"):
        analysis.mixture_turns(path)
    path.write_text("[]")
    assert analysis.mixture_turns(path)[0].empty


def test_a_mixture_may_be_json_lines(tmp_path):
    path = tmp_path / "my.jsonl"
    path.write_bytes(b"\n".join([msgspec.json.encode(conversation(("Q?", "a b")))] * 2))
    assert list(analysis.mixture_turns(path)[0].words) == [2, 2]
    path.write_text('{"conversations": []}\n{"id": 3}\n')
    with pytest.raises(DataError, match=r"my\.jsonl, line 2: .*`conversations`"):
        analysis.mixture_turns(path)


def test_source_tables_count_images_dialogs_and_turns(mini, catalogue, tmp_path):
    read_all(catalogue, mini[0], tmp_path)
    readings = load_readings(tmp_path)
    table = analysis.source_table(readings, catalogue).set_index("source")
    assert table.loc["coco_captions", "images"] == 400
    assert table.loc["coco_captions", "turns"] == 2000
    assert table.loc["vqav2", "published_turns"] == 658_111
    assert table.loc["visdial", "published_dialogs"] == 123_287
    assert table.loc["visdial", "turns"] == 10 * table.loc["visdial", "dialogs"]
    shared = analysis.overlap(readings)
    assert shared.loc["vqa_x", "vqav2"] == shared.loc["vqa_x", "vqa_x"]
    assert (shared.to_numpy() == shared.to_numpy().T).all()


def test_lengths_by_group_match_a_hand_count():
    words = pd.DataFrame({"source": ["a", "a", "a", "a"], "words": [1, 2, 4, 9]})
    (row,) = length_table(words, by="source").to_dict("records")
    assert row == {
        "source": "a", "turns": 4, "median_words": 3, "one_word": 0.25, "up_to_three_words": 0.5
    }  # fmt: skip


def test_rounds_know_the_answer_before_them(tmp_path):
    def record(name, *pairs):
        made = conversation(*pairs)
        return Record(name, "train2017/000000000009.jpg", made.conversations, ["s"] * len(pairs))

    write_mixture(
        [
            record("a", (f"<image>\nQ?\n{SHORT}", "red"), ("R?", "one two three four")),
            record("b", ("<image>\nQ?", "x y"), (f"R? {SHORT}", "z"), ("S?", "w")),
        ],
        tmp_path,
        name="m",
    )
    rounds = record_rounds(tmp_path / "m.parquet")
    assert rounds.words.tolist() == [1, 4, 2, 1, 1]
    assert rounds.previous_words.tolist() == [0, 1, 0, 2, 1]
    assert rounds["round"].tolist() == [0, 1, 0, 1, 2]
    assert rounds.has_prompt.tolist() == [True, False, False, True, False]
    table = after_short_table(rounds.assign(mixture="m")).set_index("context")
    assert table.loc["after a short answer", "answers"] == 3
    assert table.loc["after a short answer", "short_share"] == pytest.approx(2 / 3)
    assert table.loc["after a short answer", "prompt_share"] == pytest.approx(1 / 3)


def test_example_records_are_spread_over_those_with_the_most_sources(tmp_path):
    def made(n, sources):
        chat = [Message("human", "<image>\nWhat?"), Message("gpt", "x")]
        chat += [Message("human", "And?"), Message("gpt", "y")] * (len(sources) - 1)
        return Record(str(n), f"train2017/{n:012d}.jpg", chat, sources)

    rich = [made(n, ["vqav2", "gqa"]) for n in range(5)]
    write_mixture([*rich, *(made(n, ["vqav2"]) for n in range(5, 8))], tmp_path, name="m")
    examples = example_records(tmp_path / "m.parquet", count=3, image_root=tmp_path)
    assert [record.id for record in examples] == ["0", "1", "3"]


def test_prompted_turns_are_the_terse_ones_of_conversations(tmp_path):
    path = tmp_path / "turns.parquet"
    rows = [("visdial", "red", "free"), ("visdial", "it is over there now", "free"),
            ("chat", "A red car stands there.", "free"), ("vqav2", "red", "phrase")]  # fmt: skip
    pd.DataFrame(rows, columns=["source", "answer", "form"]).to_parquet(path)
    table = prompted_table(path, words=3).set_index("source")
    assert table.turns.to_dict() == {"visdial": 2, "chat": 1}
    assert table.prompted.to_dict() == {"visdial": 1, "chat": 0}


def test_overlap_is_told_as_the_share_of_a_sources_images_that_another_annotates():
    # Of a's 10 images b has 5 and c none; b has 5, all a's; c has 5, one of them b's.
    names = ["a", "b", "c"]
    shared = pd.DataFrame([[10, 5, 0], [5, 5, 1], [0, 1, 5]], names, names)
    sentence = analysis.overlap_sentence(shared, {name: name.upper() for name in names})
    # a: (50 + 0) / 2 = 25 %; b: (100 + 20) / 2 = 60 %; c: (0 + 20) / 2 = 10 %.
    assert "annotates 32% on average: between 10% (C) and 60% (B)" in sentence
    assert "no two sources" in analysis.overlap_sentence(shared.iloc[:1, :1], {"a": "A"})


def test_a_records_tokens_include_the_image(tmp_path):
    from cocoift.core.schema import KEPT_SCHEMA
    from cocoift.merge.rules import Rules

    row = (9, "a", "1", 0, "q", "q", "x", "free", 0, 0, 30, None)
    table = pa.table({n: [v] for n, v in zip(KEPT_SCHEMA.names, row, strict=True)}, KEPT_SCHEMA)
    pq.write_table(table, tmp_path / "turns.parquet")
    found = kept_table(tmp_path / "turns.parquet", rules=Rules(image_tokens=16, record_tokens=4))
    assert found.tokens.tolist() == [50]


def source_rows(*rows):
    """Rows of a source table: name, turns, dialogs, unreadable, published turns and dialogs."""
    columns = ["source", "turns", "dialogs", "unreadable_turns", "published_turns",
               "published_dialogs"]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns)
    return table.astype(dict.fromkeys(columns[-2:], "Int64"))


def test_a_source_far_from_its_published_count_is_named():
    titles = {"vqav2": "VQAv2", "visdial": "VisDial", "vsr": "VSR"}
    table = source_rows(("vqav2", 90, 90, 0, 1000, None), ("visdial", 9_900, 1000, 0, None, 1010),
                        ("vsr", 60, 60, 40, 100, None), ("own", 5, 5, 0, None, None))  # fmt: skip
    assert analysis.published_sentence(table, titles) == (
        "2 of 3 sources hold the count that upstream states; of that count, the others hold: "
        "VQAv2 9%."
    )
    assert analysis.published_sentence(table[1:3], titles).endswith("upstream states.")
    assert "no count" in analysis.published_sentence(table[3:], titles)
