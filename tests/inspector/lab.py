"""A project folder with one notebook, in a real JupyterLab and a real browser."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import papermill
import pytest

from cocoift.study.runner import this_interpreter

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
TOKEN = "inspect"
# Cells out of sight stay in the page; nothing asks for news from elsewhere.
SETTINGS = {
    "notebook-extension/tracker": '{"windowingMode": "none"}',
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}


def make_project(place, notebook, preset):
    """Put a notebook into a project folder of its own, with a preset `p`."""
    if not CHROMIUM:
        pytest.skip("no Chromium; install Debian's `chromium` or name one in $CHROMIUM")
    (place / "notebooks" / "presets").mkdir(parents=True)
    (place / "notebooks/presets/p.yaml").write_text(json.dumps(preset))
    out, parameters = place / "notebooks" / notebook.name, {"preset": "p"}
    papermill.execute_notebook(notebook, out, parameters, prepare_only=True, progress_bar=False)
    for name, setting in SETTINGS.items():
        path = place / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(setting)
    return place


@contextlib.contextmanager
def running_lab(project, **variables):
    """JupyterLab on a free port of this machine; yields its address once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
               f"--port={port}", "--ip=127.0.0.1", f"--IdentityProvider.token={TOKEN}",
               "--LabApp.news_url=None", "--LabApp.check_for_updates_class="
               "jupyterlab.NeverCheckForUpdate", f"--ServerApp.root_dir={project}"]  # fmt: skip
    places = {f"JUPYTER_{n}_DIR": str(project / n) for n in ("CONFIG", "DATA", "RUNTIME")}
    places["JUPYTERLAB_SETTINGS_DIR"] = str(project / "settings")
    with this_interpreter(), (project / "lab.log").open("w") as log:
        environment = os.environ | places | variables
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(240):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{address}/api?token={TOKEN}").close()
                    break
                time.sleep(0.25)
            yield address
        finally:
            server.terminate()
            server.wait(20)


@contextlib.contextmanager
def run_notebook_page(lab, name, project):
    """A notebook's page, all cells run; requests of the page are in `page.asked`."""
    api = pytest.importorskip("playwright.sync_api", reason="no playwright; make test installs it")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 1100})
        page.set_default_timeout(90_000)
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(f"{lab}/lab/tree/notebooks/{name}?token={TOKEN}")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        _connected(lab)
        page.get_by_text("| Idle").wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name=re.compile("^Run All Cells")).first.click()
        try:
            page.get_by_text("Answer.", exact=True).wait_for()
        except api.TimeoutError:
            page.screenshot(path=str(project / "failed.png"))
            raise
        yield page
        browser.close()


def _connected(lab):
    """Wait until the notebook's kernel is idle and a websocket is open to it."""
    for _ in range(240):
        with urllib.request.urlopen(f"{lab}/api/sessions?token={TOKEN}") as answer:
            kernels = [session["kernel"] for session in json.load(answer)]
        if any(k["execution_state"] == "idle" and k["connections"] for k in kernels):
            return
        time.sleep(0.25)
    raise TimeoutError(f"no kernel is connected: {kernels}")


def strangers(page, lab):
    """Return the addresses beyond this server that the page has asked."""
    return {url for url in page.asked if not url.startswith((lab, "data:", "blob:"))}
