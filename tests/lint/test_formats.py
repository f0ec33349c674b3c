import json

import pyarrow.parquet as pq
import pytest
from files import FORMATS, IMAGES, TALKS, llava, write

from cocoift.core.files import DataError
from cocoift.core.schema import TEXT_ONLY
from cocoift.lint import formats
from cocoift.lint.columns import read_data
from cocoift.lint.conversations import Conversation, Unread


def read(path):
    return [found for piece in formats.pieces(path) for found in formats.conversations(piece)]


def talks(found):
    return [[(asked.question, asked.answer) for asked in one.rounds] for one in found]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_conversations(tmp_path, name):
    found = read(write(tmp_path, name))
    assert talks(found) == TALKS
    assert [one.images for one in found] == [(image,) for image in IMAGES]
    assert not any(one.faults for one in found)


def test_pieces_cover_each_record_once_and_name_its_place(tmp_path, monkeypatch):
    rows = [row | {"id": f"{n}"} for n, row in enumerate(llava() * 40)]
    for name in ("llava.json", "llava.jsonl"):
        path = write(tmp_path, name, rows)
        monkeypatch.setattr(formats, "PIECE", 1_000)
        found = [one for piece in formats.pieces(path) for one in formats.conversations(piece)]
        assert len(formats.pieces(path)) > 10
        assert [one.id for one in found] == [row["id"] for row in rows]
        for number, one in enumerate(found):
            line = f"llava.jsonl:{number + 1}"
            assert one.place == (line if name.endswith("l") else f"llava.json[{number}]")


def test_a_list_may_be_spaced_in_any_way(tmp_path):
    path = tmp_path / "odd.json"
    first, second, third = map(json.dumps, llava())
    path.write_text(f"\ufeff \n[ {first}\n,\n\n{second} ,{third}  ]\n")
    assert talks(read(path)) == TALKS


def test_lines_may_be_called_json(tmp_path):
    path = write(tmp_path, "llava.jsonl")
    assert talks(read(path.rename(tmp_path / "lines.json"))) == TALKS


def test_bad_records_are_named_with_their_reasons_and_the_others_read(tmp_path):
    bad = [{"id": "a"}, {"id": "b", "conversations": "text"}, 5,
           {"id": "c", "messages": [{"role": 7, "content": "x"}]}]  # fmt: skip
    for name in ("llava.json", "llava.jsonl"):
        found = read(write(tmp_path, name, [*llava(), *bad]))
        unread = [one for one in found if isinstance(one, Unread)]
        assert talks(found[:3]) == TALKS and len(unread) == 4
        assert [one.id for one in unread] == ["a", "b", "", "c"]
        assert "has neither `conversations`" in unread[0].reason
        assert "Expected `array | null`, got `str`" in unread[1].reason
        assert unread[1].place == ("llava.jsonl:5" if name.endswith("l") else "llava.json[4]")


def test_a_broken_line_does_not_hide_the_next(tmp_path):
    path = write(tmp_path, "llava.jsonl")
    first, second, third, _ = path.read_text().split("\n")
    path.write_bytes(f"{first}\n{second[:40]}\n\n{third}\n".encode() + b'{"id": "\xff"}')
    found = read(path)
    assert [type(one) for one in found] == [Conversation, Unread, Conversation, Unread]
    assert [one.place for one in found] == [f"llava.jsonl:{n}" for n in (1, 2, 4, 5)]


@pytest.mark.parametrize(
    ("content", "told"),
    [("", "the file is empty"), ('[{"a": 1}', "truncated"), ("hello", "neither a list"),
     ('{"a": [\n1]}', "neither a list"), ("[{]", "malformed")],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path, content, told):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(DataError, match=told) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_damaged_or_foreign_parquet_file_is_named(tmp_path):
    path = write(tmp_path, "other.parquet", [{"a": 1}])
    with pytest.raises(DataError, match="none of the columns"):
        read(path)
    path.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="other"):
        read(path)


def test_the_bytes_of_images_are_not_read(tmp_path):
    file = pq.ParquetFile(write(tmp_path, "finevision.parquet"))
    assert not [column for column in formats._columns(file) if "bytes" in column]


def test_a_folder_gives_its_data_and_says_what_it_passes_over(tmp_path):
    write(tmp_path, "llava.json")
    write(tmp_path, "llava_messages.parquet", [{"messages": [{"role": "user", "content": "x"}]}])
    write(tmp_path, "info.json", [{"a": 1}])
    (tmp_path / "README.md").write_text("# card")
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", "finevision.parquet")
    files, notes = formats.data_files([tmp_path])
    assert [path.name for path in files] == ["llava.json", "finevision.parquet"]
    assert len(notes) == 2 and "another format" in notes[1] + notes[0]


def test_an_empty_folder_and_an_absent_file_are_errors(tmp_path):
    for path in (tmp_path, tmp_path / "absent.json"):
        with pytest.raises(DataError, match=r"no "):
            formats.data_files([path])


@pytest.mark.parametrize(
    ("row", "source"),
    [({"source": "vqa", "image": "coco/1.jpg"}, "vqa"), ({"image": "gqa/images/1.jpg"}, "gqa"),
     ({"id": "vg_qa-17", "image": "coco/1.jpg"}, "vg_qa"), ({"image": "1.jpg"}, ""),
     ({"id": "wNBG8Gp_0"}, TEXT_ONLY), ({"sources": ["a"], "image": "x/1.jpg"}, "a")],
)  # fmt: skip
def test_the_source_is_the_field_the_ids_prefix_or_the_images_folder(tmp_path, row, source):
    marker = "<image>\n" * ("image" in row)
    turns = [{"from": "human", "value": f"{marker}Why?"}, {"from": "gpt", "value": "So."}]
    (found,) = read(write(tmp_path, "one.json", [row | {"conversations": turns}]))
    assert found.source == source


def spoken(*pairs):
    return [{"from": speaker, "value": text} for speaker, text in pairs]


@pytest.mark.parametrize(
    ("turns", "image", "faults"),
    [(spoken(("human", "a"), ("gpt", "b")), "1.jpg", ("marker_missing",)),
     (spoken(("human", "<image>\na\n<image>"), ("gpt", "b")), "1.jpg", ("marker_extra",)),
     (spoken(("human", "<image>a"), ("gpt", "b")), None, ("marker_extra",)),
     (spoken(("human", "a\n<image>"), ("gpt", "b")), "1.jpg", ()),
     (spoken(("human", "<image>a"), ("human", "b")), "1.jpg", ("roles",)),
     (spoken(("human", "<image>a"), ("gpt", "b"), ("human", "c")), "1.jpg", ("roles",)),
     (spoken(("gpt", "hello"), ("human", "<image>a"), ("gpt", "b")), "1.jpg", ()),
     ([], None, ("roles",))],
)  # fmt: skip
def test_faults_of_structure_are_seen(tmp_path, turns, image, faults):
    row = {"conversations": turns} | ({"image": image} if image else {})
    (found,) = read(write(tmp_path, "one.json", [row]))
    assert found.faults == faults


def test_our_own_mixture_names_a_source_per_round(mixture):
    found = read(mixture / "merged.json")
    assert {source for one in found for source in one.sources} == {"vqav2", "llava_instruct"}
    again = read(mixture / "merged.parquet")
    assert [(one.id, one.rounds, one.sources) for one in found] == [
        (one.id, one.rounds, one.sources) for one in again
    ]


def test_real_excerpts_are_read(real):
    path = real / "transcribed_examples/llava_instruct_conversation.json"
    (found,) = read(path)
    assert found.rounds[0].question == "What are the colors of the bus in the image?"
    assert found.id == "000000033471" and len(found.rounds) == 3 and not found.faults
    assert read_data([path]).columns.records["coco"].tolist() == [33471]
