import pandas as pd

from cocoift.report.tables import save_table


def test_a_packed_table_has_the_same_bytes_whatever_its_file_is_called(tmp_path):
    table = pd.DataFrame({"answer": ["a, b", "ja\nnein"], "score": [0.5, 1.0]})
    one, other = (save_table(table, tmp_path / f"{name}.csv.gz") for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    pd.testing.assert_frame_equal(pd.read_csv(one), table)
