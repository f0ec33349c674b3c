import pandas as pd

from cocoift.report.tables import save_table, show_table


def test_a_packed_table_has_the_same_bytes_whatever_its_file_is_called(tmp_path):
    table = pd.DataFrame({"answer": ["a, b", "ja\nnein"], "score": [0.5, 1.0]})
    one, other = (save_table(table, tmp_path / f"{name}.csv.gz") for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    pd.testing.assert_frame_equal(pd.read_csv(one), table)


def test_a_table_without_rows_is_a_sentence_and_no_column_stands_empty():
    found = show_table(pd.DataFrame(columns=["source", "turns"]), empty="No source has any.")
    assert found.data == "*No source has any.*"
    table = pd.DataFrame({"source": ["a", "b"], "why": ["", ""], "n": [None, None], "m": [1, 2]})
    page = show_table(table, formats={"n": "{:.0f}", "m": "{:.1f}", "gone": "{}"}).to_html()
    assert "why" not in page and ">n<" not in page and ">1.0<" in page and "nan" not in page
