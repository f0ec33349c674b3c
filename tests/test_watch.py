"""While a notebook runs, a line says its cell, what its progress bars say, and the time left."""

import io
import re
import subprocess
import sys

from test_study import notebook, outputs

from cocoift import study
from cocoift.core import bars, progress
from cocoift.study.watch import Watch


def test_a_running_notebook_says_its_cell_and_its_bars_which_leave_nothing_in_the_page(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(progress, "_KEPT", 0.3)
    cells = ["import time", "from cocoift.core.bars import tqdm"]
    cells += ["bar = tqdm(total=600, initial=100, desc='mix-0', unit=' steps')"]
    cells += ["bar.set_postfix(loss='1.21')", "time.sleep(1.2)", "bar.update(100)"]
    cells += ["time.sleep(1)", "print('done')"]
    path = notebook(tmp_path / "04_a.ipynb", "\n".join(cells), parameters="preset = 'p'")
    study.run_notebook(path, preset="mini", reports=tmp_path / "r")
    printed = capfd.readouterr().out
    state = r"04_a +cell 3 of 3, 00:0\d; mix-0: 200/600 steps, loss=1\.21, 00:0\d left"
    assert re.search(state, printed), printed
    assert outputs(tmp_path / "r/04_a.ipynb") == "done\n"


def test_bars_of_child_processes_are_told_while_they_are_open_and_no_longer(tmp_path, monkeypatch):
    channel = tmp_path / "bars"
    channel.touch()
    monkeypatch.setenv(bars.CHANNEL, str(channel))
    watch = Watch("07_b", channel, cells=9)
    child = (
        "from cocoift.core.bars import tqdm; a = tqdm(total=4, desc='merged-1', unit=' dialogs')"
    )
    subprocess.run([sys.executable, "-c", f"{child}; import os; os._exit(0)"], check=True)
    mine = bars.tqdm(range(7), desc="judging", unit=" answers")
    walk = iter(mine)
    next(walk)
    assert watch.line().endswith("; merged-1: 0/4 dialogs; judging: 0/7 answers")
    mine.close()
    assert watch.line().endswith("; merged-1: 0/4 dialogs")
    watch.begin_cell(study_cell("code"), 0)
    assert re.fullmatch(r"07_b +cell 1 of 9, 00:00", watch.line())


def test_a_day_long_run_is_told_of_ever_less_often(tmp_path):
    (tmp_path / "bars").touch()
    watch = Watch("04_c", tmp_path / "bars", cells=9)
    assert watch.every == 10
    pauses = []
    for seconds in (60, 1_000, 100_000):
        watch.started -= seconds
        watch.line()
        pauses.append(watch.every)
    assert pauses[0] == 10 and 50 < pauses[1] < 60 and pauses[2] == 300


def study_cell(kind):
    class Cell:
        cell_type = kind

    return Cell()


def test_without_a_runner_a_bar_is_tqdms_own(monkeypatch):
    monkeypatch.delenv(bars.CHANNEL, raising=False)
    shown = io.StringIO()
    assert list(bars.tqdm(range(3), file=shown, desc="x", mininterval=0)) == [0, 1, 2]
    assert "3/3" in shown.getvalue()
