import pandas as pd
import pytest

from cocoift.evaluation.ablations import mitigation_variants
from cocoift.evaluation.benchmarks import Benchmark, Question
from cocoift.evaluation.effects import PAPERS_DIALOG
from cocoift.evaluation.evaluate import Run
from cocoift.evaluation.rollout import Rollout, Round
from cocoift.report import mitigations, openings

LABELS = {"mix": "LLaVA-style", "merged": "merged mixture"}


def run(model, dialogs):
    """A run under figure_1; dialogs are (question, image, replies to a, b and the question)."""
    rollouts = [
        Rollout(name, [image], [Round(q, reply) for q, reply in zip("abq", replies, strict=True)])
        for name, image, replies in dialogs
    ]
    questions = [Question(id=one.question_id, images=("i",), text="q") for one in rollouts]
    return Run(Benchmark("b", "mm_vet", questions, None, ""), model, 0, "figure_1", rollouts)


def test_rounds_count_an_opening_once_an_image_and_the_question_each_time():
    dialogs = [
        ("1", "x", ("a red car there", "red", "it is red")),
        ("2", "x", ("a red car there", "red", "a long answer to this")),
        ("3", "y", ("blue", "two", "a long answer here")),
    ]
    table = openings.rounds_table([run("mix", dialogs)], "figure_1")
    assert table.values.tolist() == [
        ["mix", 1, "a", 2.5, 0.5],
        ["mix", 2, "b", 1.0, 1.0],
        ["mix", 3, "the benchmark's", 4.0, pytest.approx(1 / 3)],
    ]
    assert openings.rounds_table([run("mix", dialogs)], "another").empty


def effect(contrast, value, half, metric="collapse"):
    ends = value - half, value + half
    rows = [(metric, contrast, seed, value, *ends) for seed in ("0", "all")]
    return pd.DataFrame(rows, columns=["metric", "contrast", "seed", "difference", "low", "high"])


def test_the_papers_dialog_is_told_by_the_paired_difference_of_both_mixtures():
    changes = [effect("change of mix, figure_1", 30, 4), effect("change of merged, figure_1", 9, 4)]

    def said(value, half):
        both = pd.concat([*changes, effect(PAPERS_DIALOG.name, value, half)])
        return openings.dialog_sentence(both, LABELS)

    assert "LLaVA-style +30.0 points [+26.0, +34.0]; merged mixture +9.0" in said(21, 5)
    assert "shortens the later answers of the LLaVA-style mixture more than" in said(21, 5)
    assert "no clear difference between the two mixtures (+21.0" in said(21, 30)
    assert "shortens the later answers of the merged mixture more" in said(-21, 5)
    assert openings.dialog_sentence(effect("another", 1, 1), LABELS) == ""


def test_a_wrong_reply_spreads_only_where_the_paired_loss_is_shown():
    both = pd.concat([effect("wrong reply of mix", -9, 3, "total"),
                      effect("wrong reply of merged", -2, 3, "total")])  # fmt: skip
    said = openings.wrong_reply_sentence(both, "total", LABELS)
    assert "LLaVA-style -9.0 points [-12.0, -6.0], the error spreads" in said
    assert "merged mixture -2.0 points [-5.0, +1.0], the error does not clearly spread" in said


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
                          "without": [12.0, 46.0]})  # fmt: skip
    variants = mitigation_variants(["mix", "merged"])
    table = mitigations.cost_table(variants, adapters, worth, resamples=500).set_index("cure")
    assert table.trained_tokens["loss on the last answer"] == pytest.approx(25)
    assert table.tokens["prompt in every turn"] == pytest.approx(110)
    assert table.tokens["merged"] == pytest.approx(80)
    lost = table.loc[:, ["history", "low", "high"]].dropna()
    assert list(lost.index) == ["history dropped"]
    assert lost.iloc[0].tolist() == pytest.approx([8 / 40, 2 / 10, 6 / 30])
    few = mitigations.cost_table(variants, adapters, worth[:1], resamples=500).set_index("cure")
    assert few.history["history dropped"] == pytest.approx(0.2) and few.low.isna().all()
    none = mitigations.cost_table(variants, adapters, worth[:0], resamples=500)
    assert none.history.isna().all()


def test_what_the_merge_adds_to_a_cure_is_what_the_paired_difference_shows():
    columns = ["ablation", "setting", "model", "seed", "protocol", "metric", "value", "low", "high"]
    names = ["LLaVA-style", "history dropped", "merged"]
    rows = [("cures", name, name, "all", "multi_round", metric, value, value - 1, value + 1)
            for metric, values in (("total", (31, 59, 53)), ("collapse", (56, 4, 10)))
            for name, value in zip(names, values, strict=True)]  # fmt: skip
    effects = pd.concat([effect("history dropped", -6, 2, "total"),
                         effect("history dropped", 6, 9)]).assign(ablation="cures")  # fmt: skip
    costs = pd.DataFrame({"cure": names, "history": [None, 0.25, None],
                          "low": [None, 0.1, None], "high": [None, 0.4, None]})  # fmt: skip
    said = mitigations.mitigations_sentence(
        pd.DataFrame(rows, columns=columns), effects, costs, "total"
    )
    assert "LLaVA-style: 31 and 56 %; history dropped: 59 and 4 %; merged: 53 and 10 %" in said
    assert "the merge lowers the score (-6.0 points [-8.0, -4.0]" in said
    assert "makes no clear difference to collapse (+6.0" in said
    assert said.endswith("+0.25 [+0.10, +0.40] nats per token: whatever a question refers back "
                         "to is gone.")  # fmt: skip


@pytest.mark.parametrize(
    ("worth", "said"),
    [
        ((0.25, 0.1, 0.4), "refers back to is gone"),
        ((0.04, -0.02, 0.1), "it makes no clear difference"),
        ((-0.02, -0.03, -0.01), "predicted better without it"),
        ((0.3, None, None), "that shows nothing"),
        ((None, None, None), "was not measured"),
    ],
)
def test_the_worth_of_the_history_is_claimed_as_its_interval_shows(worth, said):
    columns = ["ablation", "setting", "model", "seed", "protocol", "metric", "value", "low", "high"]
    rows = [("cures", "history dropped", "m", "all", "multi_round", metric, 1, 0, 2)
            for metric in ("total", "collapse")]  # fmt: skip
    costs = pd.DataFrame([("history dropped", *worth)], columns=["cure", "history", "low", "high"])
    effects = effect("LLaVA-style", 1, 1).assign(ablation="cures")
    text = mitigations.mitigations_sentence(
        pd.DataFrame(rows, columns=columns), effects, costs, "total"
    )
    assert said in text and "nan" not in text
