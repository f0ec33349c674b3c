import os
import shutil
import signal
import stat
import subprocess
import sys

import pytest

from cocoift.core.files import (
    DataError,
    content_digests,
    files_below,
    finish_replacing,
    inside,
    replacing,
    replacing_folder,
    sha256,
    write_text,
)


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
    nobodys = tmp_path / ".a[1].txt.\u00b2.tmp"
    for path in (abandoned, at_work, others, nobodys):
        path.write_text("half")
    written = write_text(tmp_path / "a[1].txt", "whole")
    assert set(tmp_path.iterdir()) == {written, at_work, others, nobodys}


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
    "name",
    ["../x.jpg", "/etc/passwd", "a/../../x", "a/../..", "\x00", "9" * 400 + "/../../x",
     "train2017/../1.jpg", "train2017/../../x"],
)  # fmt: skip
def test_no_name_leaves_its_root(coco, name):
    with pytest.raises(DataError, match=r"leaves its root .*; correct the name"):
        inside(coco, name)


@pytest.fixture
def coco(tmp_path):
    """An image root as people share COCO: `train2017` is a link to another disk."""
    disk, root = tmp_path / "disk", tmp_path / "root"
    for folder in (disk / "train2017", root / "val2017", root / "deep"):
        folder.mkdir(parents=True)
    (disk / "train2017/1.jpg").write_text("shared")
    (disk / "1.jpg").write_text("not shared")
    (disk / "train2017/out.jpg").symlink_to(disk / "1.jpg")
    (disk / "train2017/again.jpg").symlink_to("1.jpg")
    (root / "train2017").symlink_to(disk / "train2017")
    (root / "plain.jpg").symlink_to(disk / "1.jpg")
    (root / "gone").symlink_to(disk / "unplugged")
    (root / "val2017/out.jpg").symlink_to(disk / "1.jpg")
    (root / "deep/out").symlink_to(disk)
    (root / "deep/in").symlink_to(root / "val2017")
    for loop in (root / "loop", root / "deep/loop"):
        loop.symlink_to(loop)
    return root


def test_a_link_at_the_top_of_its_root_or_the_root_itself_may_lead_elsewhere(coco, tmp_path):
    disk = tmp_path / "disk"
    for name in ("train2017/1.jpg", "./train2017/1.jpg", "train2017/again.jpg"):
        assert inside(coco, name) == disk / "train2017/1.jpg"
    assert inside(coco, "plain.jpg").read_text() == "not shared"
    assert not inside(coco, "gone/1.jpg").exists()
    assert inside(coco, "deep/in/1.jpg") == coco / "val2017/1.jpg"
    (tmp_path / "link").symlink_to(coco)
    assert inside(tmp_path / "link", "val2017/1.jpg") == coco / "val2017/1.jpg"
    assert inside(tmp_path / "link", "train2017/1.jpg") == disk / "train2017/1.jpg"
    with pytest.raises(DataError, match="leaves its root"):
        inside(tmp_path / "link", "../disk/1.jpg")


@pytest.mark.parametrize(
    ("name", "link"),
    [("val2017/out.jpg", "val2017/out.jpg"), ("train2017/out.jpg", "train2017/out.jpg"),
     ("deep/out/train2017/1.jpg", "deep/out")],
)  # fmt: skip
def test_a_link_further_down_that_leaves_its_root_is_refused_and_named(coco, name, link):
    refusal = rf"path '{name}' leaves its root .*/root: {link} is a link to .*/disk.*at the top"
    with pytest.raises(DataError, match=refusal):
        inside(coco, name)


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
    raised = DataError("record 3: fix it")
    with pytest.raises(DataError, match=r"^record 3: fix it$"), replacing_folder(tmp_path / "out"):
        raise raised


def files_in(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.txt")}


def write_folder(folder, text, *, files=3):
    with replacing_folder(folder) as unfinished:
        for number in range(files):
            write_text(unfinished / "in" / f"{number}.txt", text)


def stopped_at(step, stop, folder):
    """Replace `folder` in a child in which `stop()` takes the place of one change of the disk."""
    child = os.fork()
    if child == 0:
        done = 0

        def hook(event, _):
            nonlocal done
            if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "open", "shutil.rmtree"):
                done += 1
                if done == step:
                    stop()

        sys.addaudithook(hook)
        try:
            write_folder(folder, "new")
        except BaseException:
            os._exit(3)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return status != 0


def interrupt():
    raise KeyboardInterrupt


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("stop", [interrupt, kill])
def test_a_folder_is_old_or_new_and_whole_wherever_its_replacing_stops(tmp_path, stop):
    folder, ended, steps = tmp_path / "out", set(), 0
    while True:
        write_folder(folder, "old", files=2)
        steps += 1
        if not stopped_at(steps, stop, folder):
            break
        if stop is kill:  # only what runs next can fix what a kill left
            finish_replacing(folder)
        found = files_in(folder)
        assert found in ({f"in/{n}.txt": "old" for n in (0, 1)},
                         {f"in/{n}.txt": "new" for n in (0, 1, 2)}), steps  # fmt: skip
        ended |= set(found.values())
        write_folder(folder, "next")
        assert list(tmp_path.iterdir()) == [folder]
    assert ended == {"old", "new"} and steps > 20
    assert files_in(folder) == {f"in/{n}.txt": "new" for n in (0, 1, 2)}


def test_a_replaced_folder_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path):
    folder = tmp_path / "out"
    write_folder(folder, "old")
    with pytest.raises(DataError, match="cannot save"), replacing_folder(folder):
        pass  # writes nothing: there is no new folder to rename
    assert set(files_in(folder).values()) == {"old"}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_linked_folder_is_replaced_where_the_link_leads(tmp_path):
    disk, link = tmp_path / "disk", tmp_path / "link"
    write_folder(disk / "out", "old")
    link.symlink_to(disk / "out")
    write_folder(link, "new")
    assert link.is_symlink() and set(files_in(disk / "out").values()) == {"new"}
    assert list(disk.iterdir()) == [disk / "out"]


def test_a_file_in_the_place_of_a_folder_is_refused_and_kept(tmp_path):
    write_text(tmp_path / "out", "mine")
    with pytest.raises(DataError, match="is not a folder"):
        write_folder(tmp_path / "out", "new")
    assert (tmp_path / "out").read_text() == "mine"


def test_the_remains_of_an_old_folder_do_not_come_back(tmp_path):
    # Killed while the old folder was being removed; then somebody deleted the new one.
    write_folder(tmp_path / "out", "new")
    shutil.copytree(tmp_path / "out", tmp_path / "out.replaced")
    shutil.rmtree(tmp_path / "out")
    finish_replacing(tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def read(monkeypatch):
    """The files whose content is read."""
    names = []

    def noting(path):
        names.append(path.name)
        return sha256(path)

    monkeypatch.setattr("cocoift.core.files.sha256", noting)
    return names


def test_only_files_that_look_changed_are_read_and_only_contents_count(tmp_path, read):
    kept, (a, b) = tmp_path / "kept.json", (tmp_path / "a.json", tmp_path / "b.json")
    a.write_text("1111"), b.write_text("2222")
    first = content_digests([a, b], kept=kept)
    assert first == {path: sha256(path) for path in (a, b)} and sorted(read) == [a.name, b.name]
    del read[:]
    assert content_digests([a, b], kept=kept) == first and not read
    a.touch()
    assert content_digests([a, b], kept=kept) == first and read == [a.name]
    del read[:]
    before = b.stat()
    b.write_text("3333")  # of the same size, and the time of its content set back
    os.utime(b, ns=(before.st_atime_ns, before.st_mtime_ns))
    later = content_digests([a, b], kept=kept)
    assert later[a] == first[a] and later[b] == sha256(b) != first[b] and read == [b.name]
    for content in ("", "[]", '{"x": 1}'):
        kept.write_text(content)
        assert content_digests([a, b], kept=kept) == later
    b.unlink()
    assert content_digests([a], kept=kept) == {a: first[a]}
    assert "b.json" not in kept.read_text()


def test_a_file_that_vanishes_before_it_is_read_is_one_clear_error(tmp_path):
    present, kept = tmp_path / "a.json", tmp_path / "kept.json"
    present.write_text("1111")
    with pytest.raises(DataError, match=r"b\.json: No such file or directory; run again$"):
        content_digests([present, tmp_path / "b.json"], kept=kept)
    assert not kept.exists()


def test_files_below_a_folder_are_found_through_links_and_once(coco):
    found = [path.relative_to(coco).as_posix() for path in files_below(coco)]
    assert sorted(set(found)) == sorted(found)
    assert "train2017/1.jpg" in found and "plain.jpg" in found
    assert not any("loop" in name or "gone" in name for name in found)
