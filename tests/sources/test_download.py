"""Downloads against a loopback server that breaks off, changes files and lies about lengths."""

import hashlib
import io
import shutil
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePath

import msgspec
import pytest

from cocoift.__main__ import main
from cocoift.core.files import DataError
from cocoift.sources import availability, read_catalogue
from cocoift.sources.download import download, fetch_source, unpack

CONTENT = bytes(range(256)) * 8_000


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/file.bin": CONTENT}
        self.break_after = None
        self.asked = []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.headers.get("Range"))
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        start = 0
        if self.headers.get("If-Range") == tag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.break_after])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def test_a_file_is_downloaded(server, tmp_path):
    path = download(f"{server.address}/file.bin", tmp_path / "a/file.bin")
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_a_file_that_the_disk_has_no_room_for_is_not_begun(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"0\.0 GB to come, 0\.0 GB free on disk"):
        download(f"{server.address}/file.bin", tmp_path / "file.bin")
    assert not list(tmp_path.iterdir())


def test_a_file_on_disk_is_not_asked_for_again(server, tmp_path):
    for _ in range(2):
        download(f"{server.address}/file.bin", tmp_path / "file.bin")
    assert server.asked == [None]


def test_a_broken_download_goes_on_where_it_broke(server, tmp_path):
    server.break_after = 300_000
    with pytest.raises(DataError, match="call again to resume"):
        download(f"{server.address}/file.bin", tmp_path / "file.bin")
    assert not (tmp_path / "file.bin").exists()
    have = (tmp_path / "file.bin.part").stat().st_size
    assert 0 < have <= 300_000
    server.break_after = None
    assert download(f"{server.address}/file.bin", tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={have}-"]


def test_a_file_that_changed_upstream_is_downloaded_anew(server, tmp_path):
    server.break_after = 300_000
    with pytest.raises(DataError):
        download(f"{server.address}/file.bin", tmp_path / "file.bin")
    server.break_after = None
    server.files["/file.bin"] = CONTENT[::-1]
    path = download(f"{server.address}/file.bin", tmp_path / "file.bin")
    assert path.read_bytes() == CONTENT[::-1]


def test_a_missing_address_is_told(server, tmp_path):
    with pytest.raises(DataError, match=r"/absent\.bin: 404 Client Error"):
        download(f"{server.address}/absent.bin", tmp_path / "x")


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(*members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def link(name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info, b""


def served(entry, server):
    """Let a server give what an entry downloads, and return the entry with its addresses."""
    items = []
    for number, item in enumerate(entry.downloads):
        place = f"/{number}/{PurePath(item.save_as or item.files[0]).name}"
        folder = PurePath(item.save_as or "").parent
        inner = {str(PurePath(name).relative_to(folder)): name for name in item.files}
        more = {"readme.txt": "x", "more/other_questions.json": "y"}
        server.files[place] = (
            zipped(**(inner or {"000000000009.jpg": "picture"}), **more)
            if item.unpack
            else item.files[0].encode()
        )
        items.append(msgspec.structs.replace(item, url=f"{server.address}{place}"))
    return msgspec.structs.replace(entry, downloads=items)


ENTRIES = read_catalogue(Path(__file__).resolve().parents[2] / "data/sources.yaml")


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.downloads])
def test_an_entry_fetched_alone_has_every_file_but_those_to_get_by_hand(name, server, tmp_path):
    entry = served(ENTRIES[name], server)
    fetch_source(entry, tmp_path)
    asked = len(server.asked)
    wanted = {file for part in entry.parts for file in part.values()}
    given = {file for item in entry.downloads for file in item.files}
    assert wanted <= given or entry.by_hand
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    if all(item.files for item in entry.downloads):  # of images all are wanted
        assert found == given
    assert not [file for file in found if file.endswith((".zip", ".gz"))]
    fetch_source(entry, tmp_path)
    assert len(server.asked) == asked
    if wanted:
        (row,) = availability({name: entry}, tmp_path).to_dict("records")
        assert row["state"] == ("present" if wanted <= given else "absent")
        assert (row["how_to_get"] == "") == (wanted <= given)


def test_a_wanted_file_is_found_wherever_it_lies_in_the_archive(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(zipped(**{"release/questions.json": "{}", "release/more.json": "[]"}))
    (found,) = unpack(path, tmp_path / "out", wanted=["questions.json"])
    assert found == tmp_path / "out/questions.json" and found.read_text() == "{}"
    with pytest.raises(DataError, match=r"0 members are called absent\.json, expected one"):
        unpack(path, tmp_path / "out", wanted=["absent.json"])


def test_what_nothing_fetches_is_said(catalogue, tmp_path):
    entry = msgspec.structs.replace(catalogue["aokvqa"], downloads=[])
    (row,) = availability({"aokvqa": entry}, tmp_path).to_dict("records")
    assert row["how_to_get"].startswith("nothing here fetches aokvqa/aokvqa_v1p0_train.json, ")


DAMAGED = {  # named, since an archive's own bytes tell the time it was made
    "a zip with a parent path": (zipped(**{"../evil.txt": "x"}), "leaves its root"),
    "a zip with an absolute path": (zipped(**{"/etc/evil.txt": "x"}), "leaves its root"),
    "a tar with a parent path": (tarred((tarfile.TarInfo("../evil.txt"), b"x")), "leaves its root"),
    "a tar with a link": (tarred(link("a", "/etc/passwd")), "is a link or a device"),
    "a zip bomb": (zipped(**{"bomb.txt": b"0" * 50_000_000}), "looks like a decompression bomb"),
    "half a zip": (zipped(**{"a.txt": "text"})[:-30], "delete it and download it again"),
    "no archive": (b"no archive", "delete it and download it again"),
}


@pytest.mark.parametrize(("content", "fault"), DAMAGED.values(), ids=DAMAGED)
def test_dangerous_and_damaged_archives_are_refused_before_writing(tmp_path, content, fault):
    archive = tmp_path / "in" / "a.zip"
    archive.parent.mkdir()
    archive.write_bytes(content)
    with pytest.raises(DataError, match=fault):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_a_zipped_link_is_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="is a link"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_the_command_lists_sources_and_refuses_unknown_ones(root, tmp_path, capsys):
    options = ["--catalogue", str(root / "data/sources.yaml"), "--raw", str(tmp_path)]
    main(["download", *options])
    assert "vqav2" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="imagenet"):
        main(["download", *options, "imagenet"])
