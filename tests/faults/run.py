"""The fault run: kill every stage at random moments, fill its disk, cut its network.

    .venv/bin/python tests/faults/run.py [stage ...]

After every fault the stage runs again, undisturbed, and must leave what a run without faults
leaves.  Prints one row per stage and fault: kills, results that differ, acknowledged work that was
lost, files that were half-written under their final name, judge calls paid twice although the
reply was recorded, temporary files left over.  Linux; the disk faults need root (a tmpfs).
"""

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, contextmanager
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from safetensors import safe_open

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from loopback import serving  # noqa: E402

KILLS = {"merge": 14, "train": 8, "rollout": 8, "judge": 10, "curate": 10, "notebook": 6}
COLUMNS = ("kills", "differ", "lost", "half_written", "paid_twice", "left_over")
JUMPY = """
import random, time
_real, _rng = time.time, random.Random(0)
time.time = lambda: _real() + _rng.choice((-1, 0, 1)) * 400 * 86400
"""


def prepare(folder):
    """Write what the stages read: turn tables, a tiny checkpoint, a mixture, a preset."""
    import conftest
    import yaml

    from cocoift.sources import read_all, read_catalogue, without_optional
    from minicoco import Recipe
    from minicoco.annotate import write_mini_coco
    from minicoco.llava import build_tiny_llava

    root = HERE.parents[1]
    write_mini_coco(folder / "raw", train=400, held_out=20, seed=3)
    catalogue = without_optional(read_catalogue(root / "data/sources.yaml"), ())
    read_all(catalogue, folder / "raw", folder / "turns")
    build_tiny_llava(folder / "checkpoint", Recipe(scenes=96, tower_steps=1, language_steps=1,
                                                   width=64, layers=2, vocabulary=300))  # fmt: skip

    class Factory:
        def mktemp(self, name):
            (folder / name).mkdir()
            return folder / name

    conftest.mixture.__wrapped__(Factory())
    preset = {"extends": "smoke", "raw_dir": str(folder / "raw"),
               "image_dir": str(folder / "raw/images"),
               "work_dir": str(folder / "out/work"), "report_dir": str(folder / "out/reports"),
               "curation": str(folder / "none.jsonl"), "tokenizer_file": None}  # fmt: skip
    (folder / "preset.yaml").write_text(yaml.safe_dump(preset))


class Stage:
    """One stage in one folder: starts it, checks what it left, and notes what went wrong."""

    def __init__(self, name, folder, server=None):
        self.name, self.folder, self.out = name, folder, folder / "out"
        self.server, self.found = server, Counter(dict.fromkeys(COLUMNS, 0))
        self.acknowledged = 0

    def start(self, **environment):
        self.out.mkdir(exist_ok=True)
        if self.name == "notebook" and not (self.out / "work").exists():
            turns = self.out / "work/interim/turns"
            turns.parent.mkdir(parents=True)
            turns.symlink_to(self.folder / "turns")
        words = [sys.executable, str(HERE / "stages.py"), self.name, str(self.folder)]
        words += [self.server.url] if self.server else []
        quiet = {"TQDM_DISABLE": "1", "OPENAI_API_KEY": "sk-x", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            words, env=os.environ | quiet | environment, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def finish(self, running):
        """Wait for a run; return whether it ended well and what it said."""
        printed, errors = running.communicate(timeout=300)
        if self.name == "curate":
            numbers = [int(line) for line in printed.split()]
            self.acknowledged = max([self.acknowledged, *numbers])
        return running.returncode == 0, printed + errors

    def kill(self, after):
        """Start, kill the whole process group after so many seconds, and look at the files."""
        running = self.start()
        try:
            running.wait(after)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            self.found["kills"] += 1
        self.finish(running)
        self.found["half_written"] += len(half_written(self.out))
        self.found["lost"] += self.missing()

    def missing(self):
        """Return how many acknowledged decisions the file does not hold."""
        if self.name != "curate":
            return 0
        from cocoift.merge.curation import read_decisions

        held = read_decisions(self.out / "curation.jsonl")
        return sum(number not in held for number in range(1, self.acknowledged + 1))

    def recorded(self):
        path = self.out / "judge.sqlite"
        with closing(sqlite3.connect(path)) as base:
            base.execute("PRAGMA query_only = 1")
            tables = base.execute("SELECT name FROM sqlite_master").fetchall()
            return base.execute("SELECT COUNT(*) FROM replies").fetchone()[0] if tables else 0

    def recover(self, expected):
        """Run undisturbed; note what differs from an undisturbed run and what is left over."""
        calls = recorded = 0
        if self.name == "judge":
            time.sleep(0.3)  # what was in flight when the kill came arrives at the server
            calls, recorded = len(self.server.requests), self.recorded()
        well, printed = self.finish(self.start())
        if not well or "1 unscored" in printed:
            print(printed[-2000:])
        if self.name == "judge":
            again = len(self.server.requests) - calls
            self.found["paid_twice"] += max(0, again - (len(expected["replies"]) - recorded))
        self.found["differ"] += not well or results(self.out) != expected
        marks = (".tmp", ".run-", ".running.", ".unfinished", ".replaced")
        temporary = [p for p in self.out.rglob("*") if any(mark in p.name for mark in marks)]
        self.found["left_over"] += len(temporary)
        clear(self.out)
        self.acknowledged = 0


def clear(out):
    for path in sorted(out.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def half_written(out):
    """Return the files under their final names that are not whole."""
    broken = []
    for path in out.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(out).parts)
        beside = ".unfinished" in str(path) or ".replaced" in str(path)
        if not path.is_file() or hidden or beside:
            continue
        try:
            if path.suffix == ".parquet":
                pq.read_table(path)
            elif path.suffix in (".json", ".ipynb"):
                json.loads(path.read_text())
            elif path.suffix == ".safetensors":
                with safe_open(path, "pt") as file:
                    [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
            elif path.suffix == ".html" and not path.read_text().rstrip().endswith("</html>"):
                raise ValueError("no end")
            elif path.suffix == ".sqlite":
                with closing(sqlite3.connect(path)) as base:
                    assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        except Exception as error:
            print(f"half-written: {path}: {error}")
            broken.append(path)
    return broken


def results(out):
    """Return what a finished stage left, without what differs from run to run (times)."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if not path.is_file() or path.suffix in (".ipynb", ".html", ".png", ".sqlite-wal"):
            continue
        if path.suffix == ".sqlite":
            with closing(sqlite3.connect(path)) as base:
                query = "SELECT key, reply FROM replies"
                found["replies"] = dict(base.execute(query).fetchall())
        elif path.name == "curation.jsonl":
            # Only what is decided: a line that a full disk cut short stays, and is passed over.
            from cocoift.merge.curation import read_decisions

            found[name] = {image: sorted(turns) for image, turns in read_decisions(path).items()}
        elif name == "rollout.jsonl":
            found[name] = sorted(set(path.read_text().splitlines()))
        elif path.name == "training.json":
            log = json.loads(path.read_text())["log"]
            found[name] = [row.get("loss") for row in log]
        elif "tensorboard" not in name and not path.name.startswith(".") and "-shm" not in name:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@contextmanager
def small_disk(out, size):
    """Let `out` be a file system of its own, `size` long."""
    out.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", out], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", out], check=True)


def remount(out, options):
    subprocess.run(["mount", "-o", f"remount,{options}", out], check=True)


def refused(stage, printed, reason):
    """Note when a stage that could not write did not say so in one clear error."""
    if "DataError" not in printed or reason.lower() not in printed.lower():
        print(f"{stage.name}: no clear error:\n{printed[-1500:]}")
        stage.found["differ"] += 1


def rows(folder, rng, chosen):
    """Yield (stage, fault, counts) as they are found."""

    network = {"up": lambda: True}

    def reply(body, number):
        return "0.5" if network["up"]() else (503, b"gone")

    for name, kills in chosen.items():
        with serving(reply, delay=0.05) as server:
            served = server if name == "judge" else None
            stage = Stage(name, folder, served)
            start = time.perf_counter()
            well, printed = stage.finish(stage.start())
            assert well, printed
            seconds, expected = time.perf_counter() - start, results(stage.out)
            clear(stage.out)
            stage.acknowledged = 0
            while stage.found["kills"] < kills:
                for _ in range(rng.randint(1, 3)):  # a rerun may be killed too
                    stage.kill(rng.uniform(0.2, 1.0) * seconds)
                stage.recover(expected)
            yield name, "kill -9", stage.found
            stage = Stage(name, folder, served)
            jumpy = folder / "jumpy"
            jumpy.mkdir(exist_ok=True)
            (jumpy / "sitecustomize.py").write_text(JUMPY)
            well, printed = stage.finish(stage.start(PYTHONPATH=str(jumpy)))
            stage.found["differ"] += not well
            stage.recover(expected)
            yield name, "clock jumps", stage.found
            if os.geteuid() == 0:
                yield name, "disk full", disk_full(Stage(name, folder, served), expected)
                yield name, "read-only", read_only(Stage(name, folder, served), expected)
            if name == "judge":
                yield name, "network cut", network_cut(folder, expected, server, network)


def disk_full(stage, expected):
    sizes = {"merge": "200k", "train": "200k", "rollout": "8k", "judge": "72k", "curate": "8k",
             "notebook": "300k"}  # fmt: skip
    with small_disk(stage.out, sizes[stage.name]):
        _, printed = stage.finish(stage.start())
        refused(stage, printed, "full" if stage.name == "judge" else "space")
        remount(stage.out, "size=200m")
        stage.found["half_written"] += len(half_written(stage.out))
        stage.found["lost"] += stage.missing()
        stage.recover(expected)
    return stage.found


def read_only(stage, expected):
    with small_disk(stage.out, "200m"):
        if stage.name == "notebook":
            stage.finish(stage.start())
        remount(stage.out, "ro")
        _, printed = stage.finish(stage.start())
        refused(stage, printed, "read" if stage.name != "judge" else "judge.sqlite")
        remount(stage.out, "rw")
        stage.recover(expected)
    return stage.found


def network_cut(folder, expected, server, network):
    """Cut the judge's network half-way; it must stop, keep what came, and ask the rest again."""
    before = len(server.requests)
    network["up"] = lambda: len(server.requests) - before <= 20
    stage = Stage("judge", folder, server)
    well, printed = stage.finish(stage.start())
    stage.found["differ"] += well or "10 equal failures in a row" not in printed
    network["up"] = lambda: True
    stage.recover(expected)
    return stage.found


def main():
    rng = random.Random(0)
    chosen = {name: KILLS[name] for name in sys.argv[1:] or KILLS}
    table = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for stage, fault, found in rows(folder, rng, chosen):
            table.append({"stage": stage, "fault": fault} | {c: found[c] for c in COLUMNS})
            print(stage, fault, dict(found), flush=True)
    whole = pd.DataFrame(table)
    print(whole.to_string(index=False))
    totals = whole[list(COLUMNS)].sum()
    print("total", totals.to_dict())
    sys.exit(bool(totals.drop("kills").any()))


if __name__ == "__main__":
    main()
