"""Downloads against a loopback server that breaks off, changes files and lies about lengths."""

import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest

from cocoift.download import download, fetch_source, main, unpack
from cocoift.files import DataError

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


def test_a_file_is_downloaded_and_checked(server, tmp_path):
    digest = hashlib.sha256(CONTENT).hexdigest()
    path = download(f"{server.address}/file.bin", tmp_path / "a/file.bin", sha256_digest=digest)
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_a_file_on_disk_is_not_asked_for_again(server, tmp_path):
    for _ in range(2):
        download(f"{server.address}/file.bin", tmp_path / "file.bin")
    assert server.asked == [None]


def test_a_broken_download_goes_on_where_it_broke(server, tmp_path):
    server.break_after = 300_000
    with pytest.raises(DataError, match="call again to go on where it broke"):
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


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(DataError, match="its SHA-256 is not 00"):
        download(f"{server.address}/file.bin", tmp_path / "file.bin", sha256_digest="00")
    assert not list(tmp_path.glob("file.bin")) + list(tmp_path.glob("*.part"))


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


def test_a_source_is_fetched_unpacked_and_then_present(server, tmp_path, catalogue):
    server.files["/q.zip"] = zipped(**{"s.jsonl": "{}"})
    entry = msgspec.structs.replace(
        catalogue["vsr"],
        downloads=[
            type(catalogue["vsr"].downloads[0])(
                url=f"{server.address}/q.zip", unpack=True, save_as="vsr/q.zip"
            )
        ],
    )
    fetch_source(entry, tmp_path)
    assert (tmp_path / "vsr/s.jsonl").read_text() == "{}"
    fetch_source(entry, tmp_path)
    assert server.asked == [None]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (zipped(**{"../evil.txt": "x"}), "leaves its root"),
        (zipped(**{"/etc/evil.txt": "x"}), "leaves its root"),
        (tarred((tarfile.TarInfo("../evil.txt"), b"x")), "leaves its root"),
        (tarred(link("a", "/etc/passwd")), "is a link or a device"),
        (zipped(**{"bomb.txt": b"0" * 50_000_000}), "looks like a bomb"),
        (zipped(**{"a.txt": "text"})[:-30], "delete it and download it again"),
        (b"no archive", "delete it and download it again"),
    ],
)
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
    main(options)
    assert "vqav2" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*options, "imagenet"])
    assert "imagenet" in capsys.readouterr().err
