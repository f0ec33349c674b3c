"""What the study costs at 1, 10 and 1,000 times the paper's size: the tables of docs/scaling.md.

    .venv/bin/python tests/bench/estimate.py

An estimate on paper: every figure below is measured by a bench, published, or an assumption.
"""

import pandas as pd

TURNS = 3_500_000  # of the paper's sources (tests/bench/make_corpus.py)
IMAGES = 118_287
# Records and tokens of both mixtures of all these images, the image in each record: 8.5 and 1.4
# records an image.  Steps are the same, so the LLaVA-style ones are longer.
RECORDS = {"mix": round(8.5 * IMAGES), "merged": round(1.4 * IMAGES)}
TOKENS = {"mix": 714e6, "merged": 211e6}
CPU_SECONDS_PER_TURN = 19e-6  # tests/bench/merge.py at full size
PARALLEL = 0.85  # of two cores were busy there
# LLaVA's README: 7B on its 665,298 records, ten hours on eight A100; their tokens at our mean.
A100_HOURS_PER_TOKEN = 8 * 10 / (665_298 * TOKENS["mix"] / RECORDS["mix"])
BYTES_PER_SAMPLE = 1_100  # of an encoded sample in the host's memory, measured with tracemalloc
# Assumed from the peaks in bfloat16: how many A100 one of these is worth.
WORTH = {"A100 80 GB": 1.0, "H100 80 GB": 2.5, "RTX 4090 24 GB": 0.5}
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
            **{
                f"fine-tune, {name}": size * tokens * A100_HOURS_PER_TOKEN
                for name, tokens in TOKENS.items()
            },
            "answer": size * ANSWERS * ANSWER_TOKENS / TOKENS_PER_SECOND / 3600,
        }
        for stage, hours in work.items():
            kind = "cores" if stage == "merge" else "A100"
            price = DOLLARS_PER_CORE_HOUR if stage == "merge" else DOLLARS_PER_A100_HOUR
            count = machines[stage.partition(",")[0]]
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


def kinds():
    """Return, per kind of GPU, the hours of one for both mixtures and for answering, at 1x."""
    lines = ["| one GPU | fine-tune, mix | fine-tune, merged | answer | hours together |",
             "|---|---:|---:|---:|---:|"]  # fmt: skip
    answer = ANSWERS * ANSWER_TOKENS / TOKENS_PER_SECOND / 3600
    for name, worth in WORTH.items():
        hours = [tokens * A100_HOURS_PER_TOKEN / worth for tokens in TOKENS.values()]
        hours.append(answer / worth)
        cells = " | ".join(map(short, (*hours, sum(hours))))
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def host_memory():
    """Return what the encoded samples of each mixture take in the host's memory, in a sentence."""
    sizes = ", ".join(
        f"{count * BYTES_PER_SAMPLE / 1e9:.1f} GB for `{name}`" for name, count in RECORDS.items()
    )
    return (
        f"On the host, every process encodes its whole mixture ({sizes}) and from the first step "
        "on holds the samples of its own batches: an eighth of that on eight GPUs."
    )


if __name__ == "__main__":
    print(table(), kinds(), host_memory(), sep="\n\n")
