"""Notebook 03 in a real JupyterLab and a real browser: run, filter, flag, go on."""

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
from test_inspector_data import folder  # noqa: F401

from cocoift.inspector.data import Filter, open_inspection
from cocoift.merge.curation import read_decisions
from cocoift.study.runner import this_interpreter

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
TOKEN = "inspect"
# Cells out of sight stay in the page; nothing asks for news from elsewhere.
SETTINGS = {
    "notebook-extension/tracker": '{"windowingMode": "none"}',
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}


@pytest.fixture(scope="module")
def project(folder, mini, root, tmp_path_factory):  # noqa: F811
    """A project folder with notebook 03 on the merged mini-COCO of the tests."""
    if not CHROMIUM:
        pytest.skip("no Chromium; install Debian's `chromium` or name one in $CHROMIUM")
    raw, _ = mini
    place = tmp_path_factory.mktemp("project")
    (place / "notebooks" / "presets").mkdir(parents=True)
    work = place / "work"
    (work / "interim").mkdir(parents=True)
    shutil.copytree(folder / "merged", work / "merged")
    shutil.copy(folder / "instances.parquet", work / "interim")
    preset = {"checkpoint": "none", "catalogue": str(root / "data/sources.yaml"),
              "raw_dir": str(raw), "image_dir": str(raw / "images"), "work_dir": "work",
              "report_dir": "reports", "curation": "work/curation.jsonl"}  # fmt: skip
    (place / "notebooks/presets/p.yaml").write_text(json.dumps(preset))
    parameters = {"preset": "p"}
    source, out = root / "notebooks/03_inspect.ipynb", place / "notebooks/03_inspect.ipynb"
    papermill.execute_notebook(source, out, parameters, prepare_only=True, progress_bar=False)
    for name, setting in SETTINGS.items():
        path = place / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(setting)
    return place


@pytest.fixture(scope="module")
def lab(project):
    """JupyterLab on a free port of this machine; yields its address once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
               f"--port={port}", "--ip=127.0.0.1", f"--IdentityProvider.token={TOKEN}",
               "--LabApp.news_url=None", "--LabApp.check_for_updates_class="
               "jupyterlab.NeverCheckForUpdate", f"--ServerApp.root_dir={project}"]  # fmt: skip
    places = {f"JUPYTER_{n}_DIR": str(project / n) for n in ("CONFIG", "DATA", "RUNTIME")}
    with this_interpreter():
        environment = os.environ | places | {"JUPYTERLAB_SETTINGS_DIR": str(project / "settings")}
        with (project / "lab.log").open("w") as log:
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


def connected(lab):
    """Wait until the notebook's kernel is idle and a websocket is open to it."""
    for _ in range(240):
        with urllib.request.urlopen(f"{lab}/api/sessions?token={TOKEN}") as answer:
            kernels = [session["kernel"] for session in json.load(answer)]
        if any(k["execution_state"] == "idle" and k["connections"] for k in kernels):
            return
        time.sleep(0.25)
    raise TimeoutError(f"no kernel is connected: {kernels}")


@pytest.fixture(scope="module")
def page(lab, project):
    """Notebook 03, all cells run; requests of the page are in `page.asked`."""
    api = pytest.importorskip("playwright.sync_api", reason="no playwright; make test installs it")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 1100})
        page.set_default_timeout(90_000)
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(f"{lab}/lab/tree/notebooks/03_inspect.ipynb?token={TOKEN}")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        connected(lab)
        page.get_by_text("| Idle").wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name=re.compile("^Run All Cells")).first.click()
        try:
            page.get_by_text("Answer.", exact=True).wait_for()
        except api.TimeoutError:
            page.screenshot(path=str(project / "failed.png"))
            raise
        page.get_by_role("button", name="next ▶").scroll_into_view_if_needed()
        yield page
        browser.close()


def counter(page):
    return page.locator('span[role="status"]').first.inner_text()


def test_the_widget_is_there_and_steps_from_image_to_image(page):
    before = counter(page)
    assert before.startswith("1 of ")
    page.get_by_role("button", name="next ▶").click()
    page.wait_for_function(f"() => document.body.innerText.includes('2 of {before[5:]}')")
    assert page.locator("svg[role=img] image").count() >= 1


def test_a_person_filters_flags_a_turn_goes_on_and_the_flag_is_on_disk(page, project):
    page.get_by_label("source", exact=True).select_option(label="SVIT")
    opened = open_inspection(project / "work/merged", image_root=project)
    count = len(opened.images(Filter(source="svit")))
    page.wait_for_function(f"() => document.body.innerText.includes('of {count}')")
    turn = page.get_by_label("turn", exact=True)
    turn.select_option(index=2)
    page.get_by_label("note", exact=True).fill("seen in a browser")
    page.get_by_role("button", name="⚑ flag").click()
    page.get_by_text("written to curation.jsonl").wait_for()
    page.get_by_role("button", name="next ▶").click()
    (turns,) = read_decisions(project / "work/curation.jsonl").values()
    (decision,) = turns.values()
    assert decision.note == "seen in a browser" and decision.decision == "flag"


def test_buttons_are_reached_and_pressed_by_keyboard_with_a_visible_focus(page):
    page.get_by_role("button", name="next ▶").focus()
    before = counter(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "random"
    page.keyboard.press("Shift+Tab")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    shadow = "getComputedStyle(document.activeElement).boxShadow"
    assert page.evaluate(outline) != "none" or page.evaluate(shadow) != "none"
    page.keyboard.press("Enter")
    page.wait_for_function(
        f"() => document.querySelector('span[role=status]').innerText !== '{before}'"
    )


def test_no_request_leaves_this_machine(page, lab):
    strange = {url for url in page.asked if not url.startswith((lab, "data:", "blob:"))}
    assert strange == set()
