import pandas as pd
import pytest

from cocoift.evaluation.ablations import mitigation_variants
from cocoift.evaluation.benchmarks import Benchmark, Question
from cocoift.evaluation.rollout import Rollout, Round, Run
from cocoift.report import ablations, evaluation
from cocoift.report.ablations import COLUMNS


def run(model, dialogs):
    """A run under figure_1; dialogs are (question, image, replies to a, b and the question)."""
    rollouts = [
        Rollout(name, [image], [Round(q, reply) for q, reply in zip("abq", replies, strict=True)])
        for name, image, replies in dialogs
    ]
    questions = [Question(id=dialog.question_id, images=("i",), text="q") for dialog in rollouts]
    return Run(Benchmark("b", "mm_vet", questions, None, ""), model, 0, "figure_1", rollouts)


def test_rounds_count_an_opening_once_an_image_and_the_question_each_time():
    dialogs = [
        ("1", "x", ("a red car there", "red", "it is red")),
        ("2", "x", ("a red car there", "red", "a long answer to this")),
        ("3", "y", ("blue", "two", "a long answer here")),
    ]
    table = evaluation.rounds_table([run("mix", dialogs)], "figure_1")
    assert table.values.tolist() == [
        ["mix", 1, "a", 2.5, 0.5],
        ["mix", 2, "b", 1.0, 1.0],
        ["mix", 3, "the benchmark's", 4.0, pytest.approx(1 / 3)],
    ]
    assert evaluation.rounds_table([run("mix", dialogs)], "another").empty


def test_the_costs_of_a_cure_are_those_of_its_training_logs(tmp_path):
    import json

    sizes = {"mix": (100, 1000), "last-answer": (25, 1000), "every-apart": (100, 1100),
             "merged": (100, 800)}  # fmt: skip
    adapters = {}
    for name, (trained, read) in sizes.items():
        for seed in (0, 1):
            folder = adapters[name, seed] = tmp_path / f"{name}-{seed}"
            folder.mkdir()
            log = [{"loss": 1.0, "tokens": read // 2}, {"loss": 1.0, "tokens": read}, {"end": 1}]
            notes = {"supervised_tokens": trained, "log": log}
            (folder / "training.json").write_text(json.dumps(notes))
    worth = pd.DataFrame({"image": ["x", "y"], "tokens": [10, 30], "with_history": [10.0, 40.0],
                          "without": [12.0, 46.0], "seed": 0})  # fmt: skip
    variants = mitigation_variants(["mix", "merged"])
    table = ablations.cost_table(variants, adapters, worth, resamples=500).set_index("cure")
    assert table.trained_tokens["loss on the last answer"] == pytest.approx(25)
    assert table.tokens["prompt in every turn"] == pytest.approx(110)
    assert table.tokens["merged"] == pytest.approx(80)
    lost = table.loc[:, ["history", "low", "high"]].dropna()
    assert list(lost.index) == ["history dropped"]
    assert lost.iloc[0].tolist() == pytest.approx([8 / 40, 2 / 10, 6 / 30])
    few = ablations.cost_table(variants, adapters, worth[:1], resamples=500).set_index("cure")
    assert few.history["history dropped"] == pytest.approx(0.2) and few.low.isna().all()
    none = ablations.cost_table(variants, adapters, worth[:0], resamples=500)
    assert none.history.isna().all()


@pytest.mark.parametrize(
    ("worth", "shown"),
    [
        ((0.25, 0.1, 0.4), "+0.25 [+0.10, +0.40] nats per token"),
        ((0.3, None, None), "+0.30 nats per token"),
        ((None, None, None), ""),
    ],
)
def test_a_mitigations_row_holds_levels_with_intervals_and_what_it_costs(worth, shown):
    rows = [("cures", "history dropped", "m", "all", "multi_round", metric, 1, 0, 2)
            for metric in ("total", "collapse")]  # fmt: skip
    columns = ["cure", "trained_tokens", "tokens", "history", "low", "high"]
    costs = pd.DataFrame([("history dropped", 100.0, 80.0, *worth)], columns=columns)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    (row,) = ablations.mitigation_table(table, costs, "total").to_dict("records")
    assert row == {"mitigation": "history dropped", "score, after": "1 [0, 2]",
                   "collapsed, after": "1 [0, 2]", "trained tokens": "100 %", "tokens": "80 %",
                   "history lost": shown}  # fmt: skip
