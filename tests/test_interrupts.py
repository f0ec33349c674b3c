"""Ctrl-C ends every command with one line and status 130; children end too, a rerun goes on."""

import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest
import yaml
from loopback import serving
from test_study import notebook

LINE = "interrupted; the same command goes on from what is done"


def started(folder, *words):
    """Start a command as a terminal does, in a process group of its own."""
    quiet = {"OMP_NUM_THREADS": "1", "OPENAI_API_KEY": "none"}
    return subprocess.Popen(
        [sys.executable, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=os.environ | quiet, start_new_session=True,
    )  # fmt: skip


def interrupted(running, until, *, group=True):
    """Press Ctrl-C as soon as `until` is true; return what was said on stdout and stderr."""
    while not until():
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    (os.killpg if group else os.kill)(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "Traceback" not in out + err
    return out, err


def ended(pid):
    """Tell whether a process has ended, though nobody may have asked for its status yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def project(root, tmp_path):
    """A project of two notebooks; the second one starts a child and waits."""
    parameters = "preset = 'p'\nchanges = {}"
    notebook(tmp_path / "notebooks/01_first.ipynb", "print(1)", parameters=parameters)
    wait = [
        "import os, pathlib, subprocess, time",
        "child = subprocess.Popen(['sleep', '600'])",
        f"here = pathlib.Path({str(tmp_path)!r})",
        "(here / 'new').write_text(f'{os.getpid()} {child.pid}')",
        "(here / 'new').rename(here / 'pids')",
        "from cocoift.core.parallel import ordered",
        "list(ordered(time.sleep, [0 if (here / 'go').exists() else 600] * 2, processes=2))",
    ]
    notebook(tmp_path / "notebooks/03_second.ipynb", "\n".join(wait), parameters=parameters)
    (tmp_path / "notebooks/presets").mkdir()
    (tmp_path / "notebooks/presets/p.yaml").write_text(yaml.safe_dump({"checkpoint": "c"}))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/sources.yaml").write_text("{}")
    (tmp_path / "dodo.py").write_text((root / "dodo.py").read_text())
    return tmp_path


@pytest.mark.parametrize("group", [True, False], ids=["terminal", "one process"])
@pytest.mark.parametrize("words", ["-m cocoift study p", "-m doit preset=p"])
def test_an_interrupted_study_names_its_notebook_and_goes_on_from_there(project, words, group):
    running = started(project, *words.split())
    out, err = interrupted(running, (project / "pids").exists, group=group)
    assert err == "\ninterrupted in 03_second; the same command goes on from there\n"
    assert out.splitlines()[-1].startswith("01_first ") and len(out.splitlines()) == 1
    kernel, child = map(int, (project / "pids").read_text().split())
    assert ended(kernel) and ended(child)
    left = sorted(path.name for path in (project / "reports/p").iterdir())
    assert [name for name in left if not name.startswith(".doit")] == [
        "01_first.html", "01_first.ipynb"]  # fmt: skip
    (project / "go").touch()
    again = started(project, *words.split())
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert "01_first" in out and "unchanged" in out


def test_an_interrupted_download_goes_on_where_it_stopped(tmp_path):
    content, asked, served = bytes(range(256)) * 4_000, [], threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers.get("Range"))
            start = int(asked[-1].removeprefix("bytes=").removesuffix("-")) if asked[-1] else 0
            self.send_response(206 if start else 200)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:] if start else content[:500_000])
            if not start:
                served.wait(60)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/file.bin"
    entry = {"title": "t", "licence": "l", "citation": "c", "page": "p", "parts": [],
             "downloads": [{"url": url}]}  # fmt: skip
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump({"big": entry}))
    options = ("-m", "cocoift", "download", "--raw", "raw", "--catalogue", "sources.yaml", "big")
    part = tmp_path / "raw/file.bin.part"
    running = started(tmp_path, *options)
    _, err = interrupted(running, lambda: part.exists() and part.stat().st_size > 400_000)
    served.set()
    assert err.rstrip().endswith(LINE)
    assert not (tmp_path / "raw/file.bin").exists()
    again = started(tmp_path, *options)
    out, err = again.communicate(timeout=60)
    server.shutdown()
    assert again.returncode == 0 and "present" in out, err
    assert (tmp_path / "raw/file.bin").read_bytes() == content and asked[1].startswith("bytes=4")


def test_an_interrupted_probe_of_a_server_waits_for_no_reply(tmp_path):
    with serving(lambda body, number: "red", delay=30.0) as server:
        words = ("-m", "cocoift", "probe-server", "--base-url", server.url, "--model", "m")
        begun = time.monotonic()
        out, err = interrupted(started(tmp_path, *words), lambda: server.requests)
        assert time.monotonic() - begun < 30
    assert err.rstrip().endswith(LINE) and not out
