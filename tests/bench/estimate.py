"""What the study costs at 1, 10 and 1,000 times the paper's size: the table of the README.

    .venv/bin/python tests/bench/estimate.py

An estimate on paper: every figure below is measured by a bench, published, or an assumption.
"""

import pandas as pd

TURNS = 3_500_000  # of the paper's sources (tests/bench/make_corpus.py)
RECORDS = 118_287
CPU_SECONDS_PER_TURN = 19e-6  # tests/bench/merge.py at full size
PARALLEL = 0.85  # of two cores were busy there
A100_HOURS_PER_RECORD = 8 * 10 / 665_298  # LLaVA's README: 7B, ten hours on eight A100
LONGER = 2.0  # assumed: a merged record has twice the tokens of one of LLaVA-mix
ANSWERS = 2 * 3 * (218 + 279)  # protocols x models x questions of MM-Vet and InfiMM-Eval
ANSWER_TOKENS = 150  # assumed, with the opening round
TOKENS_PER_SECOND = 2_000  # assumed: vLLM, 7B, one A100, 64 requests at once
DOLLARS_PER_A100_HOUR, DOLLARS_PER_CORE_HOUR = 2.0, 0.05  # assumed

# How many machines one would take: cores for the merge, GPUs for the rest.
MACHINES = {
    1: {"merge": 2, "fine-tune": 8, "answer": 1},
    10: {"merge": 2, "fine-tune": 8, "answer": 1},
    1000: {"merge": 256, "fine-tune": 256, "answer": 8},
}


def rows():
    """Yield stage, size, machines, hours and dollars."""
    for size, machines in MACHINES.items():
        work = {  # hours on one core or one GPU
            "merge": size * TURNS * CPU_SECONDS_PER_TURN / PARALLEL / 3600,
            "fine-tune": size * RECORDS * A100_HOURS_PER_RECORD * LONGER,
            "answer": size * ANSWERS * ANSWER_TOKENS / TOKENS_PER_SECOND / 3600,
        }
        for stage, hours in work.items():
            kind = "cores" if stage == "merge" else "A100"
            price = DOLLARS_PER_CORE_HOUR if stage == "merge" else DOLLARS_PER_A100_HOUR
            count = machines[stage]
            yield stage, f"{size:,}x", f"{count} {kind}", hours / count, hours * price


def short(value):
    """Return a number with two significant digits."""
    return f"{float(f'{value:.2g}'):,g}"


def table():
    """Return the estimate as a Markdown table."""
    columns = ["stage", "size", "on", "hours", "dollars"]
    found = pd.DataFrame(rows(), columns=columns).sort_values("stage", kind="stable")
    lines = ["| " + " | ".join(columns) + " |", "|---|---|---|---:|---:|"]
    for stage, size, where, hours, dollars in found.itertuples(index=False):
        lines.append(f"| {stage} | {size} | {where} | {short(hours)} | {short(dollars)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
