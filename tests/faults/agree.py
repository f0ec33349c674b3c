"""Do two runs agree?  Compare the tables of two report folders.

    .venv/bin/python tests/faults/agree.py reports/mini /elsewhere/reports/mini

Data, counts and texts must be equal; what a training made (losses, scores, lengths, log-odds) may
differ by TOLERANCE, relative: other processors add in another order.  Times are not compared.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

TOLERANCE = 1e-3
TIMES = ("seconds", "tokens_per_second", "hours")
# Tables of what was read and merged; every other one depends on a training.
EXACT = ("sources", "reading", "overlap", "answer_lengths", "forms", "instruction_diversity",
         "prompt_placement", "llava_mix", "merge_drops", "leaked_images", "conflicts",
         "after_short_answer")  # fmt: skip


def difference(first, second):
    """Return the largest relative difference of two tables; infinite when they differ in kind."""
    if first.shape != second.shape or list(first) != list(second):
        return float("inf")
    worst = 0.0
    for name in (name for name in first if name not in TIMES):
        a, b = first[name], second[name]
        if not (pd.api.types.is_numeric_dtype(a) and pd.api.types.is_numeric_dtype(b)):
            worst = max(worst, 0.0 if a.fillna("").equals(b.fillna("")) else float("inf"))
            continue
        a, b = a.to_numpy(float), b.to_numpy(float)
        if (np.isnan(a) != np.isnan(b)).any():
            return float("inf")
        gap = np.nan_to_num(np.abs(a - b) / np.maximum(1e-9, np.maximum(np.abs(a), np.abs(b))))
        worst = max(worst, float(gap.max(initial=0.0)))
    return worst


def main():
    first, second = (Path(name) / "tables" for name in sys.argv[1:3])
    names = sorted({path.stem for path in (*first.glob("*.csv"), *second.glob("*.csv"))})
    bad = 0
    for name in names:
        files = [folder / f"{name}.csv" for folder in (first, second)]
        there = all(path.is_file() for path in files)
        gap = difference(*map(pd.read_csv, files)) if there else float("inf")
        allowed = 0.0 if name in EXACT else TOLERANCE
        bad += gap > allowed
        print(f"{name:28}{gap:12.2g}  {'agree' if gap <= allowed else 'DIFFER'}")
    print(f"{len(names)} tables, {bad} differ")
    sys.exit(bool(bad) or not names)


if __name__ == "__main__":
    main()
