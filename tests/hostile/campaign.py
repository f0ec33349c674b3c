"""Throw hostile inputs at everything that reads what a stranger wrote.

    .venv/bin/python -m pip install -r tests/hostile/requirements.txt
    .venv/bin/python tests/hostile/campaign.py [inputs per target] [target ...]

Half of the inputs are mutants that hypothesis draws from a whole file (a value replaced, dropped,
doubled or nested in the JSON; bytes cut, flipped, inserted), half come from atheris, which keeps
what reaches new code.  A target may raise `DataError` only.  What fails is saved in
`tests/hostile/corpus/<target>/` and replayed by `tests/test_hostile.py` ever after.
"""

import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import targets as hostile
from hypothesis import HealthCheck, given, settings
from mutants import mutants

CORPUS = Path(__file__).resolve().parent / "corpus"


def small_mini(folder):
    from minicoco.annotate import write_mini_coco

    write_mini_coco(folder, train=6, held_out=3, seed=1)
    return folder


def save(name, content):
    """Keep an input that failed, under a name that its content gives."""
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)


def by_hypothesis(name, target, seed, count):
    """Try so many mutants; return how many ran and what failed first, if anything did."""
    ran = 0

    @settings(max_examples=count, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(mutants(seed))
    def throw(content):
        nonlocal ran
        ran += 1
        last[0] = content
        hostile.tried(target, content)

    last = [b""]
    try:
        throw()
    except Exception as error:
        save(name, last[0])
        return ran, f"{type(error).__name__}: {error}"
    return ran, ""


def by_atheris(name, raw, seed, count):
    """Fuzz one target in a process of its own, guided by the code it reaches."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for part in ("seeds", "found"):
            (place / part).mkdir()
        (place / "seeds" / "whole").write_bytes(seed)
        words = [sys.executable, __file__, "--atheris", name, str(raw), f"-runs={count}", "-seed=1",
                 f"-max_len={max(4096, 2 * len(seed))}", f"-artifact_prefix={place / 'found'}/",
                 "-timeout=20", "-rss_limit_mb=4096", str(place / "seeds")]  # fmt: skip
        run = subprocess.run(words, capture_output=True, text=True, check=False)
        for path in (place / "found").iterdir():
            save(name, path.read_bytes())
        if run.returncode:
            lines = [line for line in run.stderr.splitlines() if "Error" in line or "ERROR" in line]
            return count, "; ".join(lines[:2]) or run.stderr[-300:]
    return count, ""


def fuzz(name, raw):
    """The child of `by_atheris`."""
    import atheris

    with atheris.instrument_imports(include=["cocoift"]):
        import cocoift.evaluation.answers  # noqa: F401
    scratch = Path(tempfile.mkdtemp())
    target = hostile.targets(Path(raw), scratch)[name]
    atheris.Setup([sys.argv[0], *sys.argv[4:]], lambda content: hostile.tried(target, content))
    atheris.Fuzz()


def main():
    if sys.argv[1:2] == ["--atheris"]:
        return fuzz(sys.argv[2], sys.argv[3])
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    total, failed = 0, []
    with tempfile.TemporaryDirectory() as folder:
        raw = small_mini(Path(folder) / "raw")
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        seeds, every = hostile.seeds(raw), hostile.targets(raw, scratch)
        for name in sys.argv[2:] or every:
            start, faults = time.perf_counter(), []
            for way, (ran, fault) in (
                ("hypothesis", by_hypothesis(name, every[name], seeds[name], count)),
                ("atheris", by_atheris(name, raw, seeds[name], count)),
            ):
                total += ran
                if fault:
                    faults.append(f"{way}: {fault}")
            failed += [f"{name}: {fault}" for fault in faults]
            print(f"{name:45}{time.perf_counter() - start:7.1f} s  {'; '.join(faults) or 'held'}",
                  flush=True)  # fmt: skip
    print(f"{total:,} inputs, {len(failed)} failures")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
