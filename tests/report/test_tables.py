import pandas as pd
import pytest

from cocoift.core.files import DataError
from cocoift.report.tables import read_saved, save_table, show_table


def test_a_packed_table_has_the_same_bytes_whatever_its_file_is_called(tmp_path):
    table = pd.DataFrame({"answer": ["a, b", "ja\nnein"], "score": [0.5, 1.0]})
    first, second = (save_table(table, tmp_path / f"{name}.csv.gz") for name in ("one", "other"))
    assert first.read_bytes() == second.read_bytes()
    pd.testing.assert_frame_equal(pd.read_csv(first), table)


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n1,2,3\n", b'"a\n', b"\xff\xfe\x00"])
def test_a_damaged_table_is_named(tmp_path, content):
    path = tmp_path / "scores.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"scores\.csv: .*; delete it and run the study again"):
        read_saved(path)


def test_a_table_without_rows_is_a_sentence_and_no_column_stands_empty():
    found = show_table(pd.DataFrame(columns=["source", "turns"]), empty="No source has any.")
    assert found.data == "*No source has any.*"
    assert show_table(pd.DataFrame({"why": ["", ""], "n": [None, None]})).data.startswith("*Noth")
    table = pd.DataFrame({"source": ["a", "b"], "why": ["", ""], "n": [None, None], "m": [1, 2]})
    page = show_table(table, formats={"n": "{:.0f}", "m": "{:.1f}", "gone": "{}"}).to_html()
    assert "why" not in page and ">n<" not in page and ">1.0<" in page and "nan" not in page


def test_texts_and_the_titles_of_columns_are_escaped():
    page = show_table(pd.DataFrame({"<b>ocr": [1.5], "model": ["<i>"]})).to_html()
    assert "<b>" not in page and "<i>" not in page and "&lt;b&gt;ocr" in page


def test_keys_are_shown_in_words_and_numbers_by_their_column():
    table = pd.DataFrame({"model": ["mix", "mine"], "protocol": ["single_round", "odd"],
                          "contrast": ["merged - mix, multi_round", ""], "difference": [1.26, -2],
                          "value": [3.14159, 2], "share": [0.125, None], "n": [1200, 3],
                          "passed": [True, False], "score, single_round": ["a", "b"]})  # fmt: skip
    page = show_table(table, formats={"value": "{:.0%}"}, names={"n": "answers"}).to_html()
    for shown in ("LLaVA-style mixture", "mine", "single-round", "odd", "difference (points)",
                  "merged minus LLaVA-style, after one short-answer round", "+1.3", "314%",
                  "12.5%", "answers", "1,200", ">yes<", "score, single-round"):  # fmt: skip
        assert shown in page, shown


def test_the_ends_of_an_interval_are_written_like_its_value():
    table = pd.DataFrame({"accuracy": [0.5], "low": [0.25], "high": [0.75], "n": [4]})
    page = show_table(table).to_html()
    assert ">50%<" in page and ">25%<" in page and ">75%<" in page
    page = show_table(table, formats={"accuracy": "{:+.2f}"}).to_html()
    assert ">+0.25<" in page and ">4<" in page


def test_an_answer_with_a_carriage_return_stays_one_row(tmp_path):
    table = pd.DataFrame({"answer": ["a\rb", "c\r\nd", "e"], "words": [1, 1, 1]})
    found = read_saved(save_table(table, tmp_path / "t.csv"))
    assert found.answer.tolist() == ["a\nb", "c\nd", "e"] and found.words.tolist() == [1, 1, 1]
