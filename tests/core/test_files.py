import os
import stat
import subprocess
import sys

import pytest

from cocoift.core.files import DataError, inside, replacing, replacing_folder, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_of_a_write_is_removed_by_the_next(tmp_path):
    died = subprocess.Popen([sys.executable, "-c", ""])
    died.wait()
    abandoned = tmp_path / f".a[1].txt.{died.pid}.tmp"
    at_work = tmp_path / f".a[1].txt.{os.getppid()}.tmp"
    others = tmp_path / f".b.txt.{died.pid}.tmp"
    for path in (abandoned, at_work, others):
        path.write_text("half")
    written = write_text(tmp_path / "a[1].txt", "whole")
    assert set(tmp_path.iterdir()) == {written, at_work, others}


def test_an_unwritable_place_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write .*choose another output folder"):
        write_text(tmp_path / "file" / "a.txt", "text")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_clear_error(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(DataError, match="cannot write"):
        write_text(tmp_path / "a.txt", "text")


@pytest.mark.parametrize(
    "name", ["../x.jpg", "/etc/passwd", "a/../../x", "link/x", "\x00", "9" * 400 + "/../../x"]
)
def test_no_name_leaves_its_root(tmp_path, name):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="leaves its root"):
        inside(root, name)


def test_a_plain_name_stays_inside(tmp_path):
    assert inside(tmp_path, "train2017/1.jpg") == tmp_path / "train2017" / "1.jpg"


@pytest.mark.parametrize(
    "error",
    [OSError("not a gzip file"), FileNotFoundError(2, "No such file", "/elsewhere/input.json")],
)
def test_a_damaged_or_missing_input_is_not_called_an_output_that_cannot_be_written(tmp_path, error):
    with pytest.raises(OSError) as raised, replacing(tmp_path / "out.txt"):
        raise error
    assert raised.value is error and not list(tmp_path.iterdir())


def test_an_error_that_is_told_already_is_told_as_it_is(tmp_path):
    told = DataError("record 3: mend it")
    with pytest.raises(DataError, match=r"^record 3: mend it$"), replacing_folder(tmp_path / "out"):
        raise told
