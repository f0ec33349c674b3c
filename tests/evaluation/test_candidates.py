"""Local models to evaluate: how they are loaded does not change what they answer."""

from dataclasses import replace
from itertools import islice

import pytest

from cocoift.evaluation.benchmarks import read_benchmarks
from cocoift.evaluation.candidates import LocalModels, local_candidates
from cocoift.evaluation.evaluate import LocalRun, evaluate_local
from cocoift.evaluation.generation import generate
from cocoift.evaluation.protocols import read_protocols
from cocoift.evaluation.rollout import Head, opened_prompts, roll_out
from cocoift.study import read_preset
from cocoift.tuning.checkpoints import load_adapters, using
from cocoift.tuning.model import load_model, load_processor, quantised_modules
from cocoift.tuning.recipe import Training, TuningRecipe
from cocoift.tuning.train import train_all
from minicoco import CHAT


@pytest.fixture(scope="module")
def local(mixture, checkpoint, tmp_path_factory):
    """The untuned model and two adapters that have moved a little."""
    folder = tmp_path_factory.mktemp("adapters")
    recipe = TuningRecipe(rank=4, alpha=8, learning_rate=0.02, batch_tokens=600, workers=0)
    images = tuple(sorted(f"train2017/{path.name}" for path in (mixture / "train2017").iterdir()))
    trainings = {
        name: Training(
            mixture=mixture / f"{name}.json", images=images, image_root=mixture,
            checkpoint=str(checkpoint), adapter=folder / f"{name}-0", steps=3, seed=0,
            recipe=recipe, image_tokens=16, context_tokens=512, chat=CHAT, device="cpu",
        )
        for name in ("mix", "merged")
    }  # fmt: skip
    adapters = train_all(trainings)
    return LocalModels(
        base=str(checkpoint), adapters=adapters, seed=0, device="cpu", chat=CHAT, new_tokens=8
    )


@pytest.fixture(scope="module")
def asked(root, mini):
    """Mini's first benchmark, shortened, and its protocols in preset smoke."""
    settings = read_preset("smoke").evaluation
    (benchmark, *_) = read_benchmarks(settings.benchmarks, mini[0])
    del benchmark.questions[20:]
    protocols = read_protocols(settings.protocols, mini[0]).values()
    return benchmark, [protocol for protocol in protocols if protocol.fits(benchmark)]


def answers_from_four_bits(local, name, asked, folder):
    """Return a model's answers as they are without any of this package's short cuts."""
    benchmark, protocols = asked
    processor = load_processor(local.base)
    tuned = load_adapters(load_model(local.base, four_bit=True), local.adapters)
    assert any(quantised_modules(tuned).values())

    def answer(asks):
        with using(tuned, None if name == "base" else name) as model:
            return enumerate(generate(model, processor, asks, chat=CHAT, new_tokens=8))

    return {
        protocol.name: roll_out(
            benchmark.questions,
            protocol,
            answer,
            file=folder / f"{name}-{protocol.name}",
            head=Head("k", name, protocol.name),
            image_root=benchmark.images,
        )
        for protocol in protocols
    }


@pytest.mark.parametrize("processes", [1, 2], ids=["in turn", "at once"])
def test_dense_answers_are_those_of_four_bits_under_every_protocol(
    local, asked, tmp_path, processes
):
    benchmark, protocols = asked
    names = ("base", "mix", "merged")
    runs = evaluate_local(
        [LocalRun(local, name, protocols) for name in names],
        [benchmark], folder=tmp_path / "rollouts", processes=processes,
    )  # fmt: skip
    assert [(run.model, run.protocol) for run in runs] == [
        (name, protocol.name) for name in names for protocol in protocols
    ]
    dialogs = {(run.model, run.protocol): run.rollouts for run in runs}
    for name in names:
        for protocol, expected in answers_from_four_bits(local, name, asked, tmp_path).items():
            assert dialogs[name, protocol] == expected
    assert dialogs["mix", "single_round"] != dialogs["merged", "single_round"]


def test_seeds_that_share_a_base_are_not_taken_for_one(local, asked, tmp_path):
    benchmark, protocols = asked
    other = replace(local, seed=1, adapters={"mix": local.adapters["merged"]})
    todo = [LocalRun(candidate, "mix", protocols[:1]) for candidate in (local, other)]
    runs = evaluate_local(todo, [benchmark], folder=tmp_path)
    assert [(run.model, run.seed) for run in runs] == [("mix", 0), ("mix", 1)]
    assert runs[0].rollouts != runs[1].rollouts


def test_answers_of_one_process_are_read_and_not_asked_again_by_several(local, asked, tmp_path):
    benchmark, protocols = asked
    todo = [LocalRun(local, name, protocols[:1]) for name in ("base", "mix")]
    first = evaluate_local(todo, [benchmark], folder=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
    assert evaluate_local(todo, [benchmark], folder=tmp_path, processes=2) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")} == before


def test_an_adapter_that_is_asked_alone_is_merged_and_several_are_switched(local):
    alone = next(local_candidates(local, ["mix"]))
    together = dict(
        zip(("mix", "merged"), islice(local_candidates(local, ["mix", "merged"]), 2), strict=True)
    )
    assert alone.key == together["mix"].key != together["merged"].key


def test_an_untuned_checkpoint_is_measured_alone_and_not_in_four_bits(checkpoint, asked, tmp_path):
    benchmark, protocols = asked
    alone = LocalModels(
        base=str(checkpoint), adapters={}, seed=0, device="cpu", chat=CHAT, new_tokens=8
    )
    (run,) = evaluate_local([LocalRun(alone, "base", protocols[:1])], [benchmark], folder=tmp_path)
    whole, processor = load_model(checkpoint, four_bit=False), load_processor(checkpoint)

    def answer(asks):
        return enumerate(generate(whole, processor, asks, chat=CHAT, new_tokens=8))

    expected = roll_out(
        benchmark.questions,
        protocols[0],
        answer,
        file=tmp_path / "expected",
        head=Head("k", "base", protocols[0].name),
        image_root=benchmark.images,
    )
    assert run.rollouts == expected


def test_a_base_is_in_four_bits_where_its_adapters_were_trained_on_them(local):
    (alone,) = local_candidates(local, ["base"])
    base, _ = local_candidates(local, ["base", "mix"])
    assert alone.key == base.key


def test_a_streamed_answer_grows_into_the_one_that_is_generated_and_frees_the_base(local, asked):
    benchmark, protocols = asked
    settings = {"image_root": benchmark.images}
    candidates = list(local_candidates(local, ["base", "mix", "merged"]))
    base = candidates[0]
    prompts = opened_prompts(benchmark.questions[:3], protocols[1], base.answer, **settings)
    answers = {
        candidate.name: [text for _, text in candidate.answer(prompts)] for candidate in candidates
    }
    assert answers["base"] != answers["mix"]
    for prompt, texts in zip(prompts, zip(*answers.values(), strict=True), strict=True):
        for candidate, text in zip(candidates, texts, strict=True):
            grown = list(candidate.stream(prompt))
            assert grown[-1] == text
            assert len(grown) <= local.new_tokens
            next(interrupted := candidate.stream(prompt))
            interrupted.close()
    assert [text for _, text in base.answer(prompts)] == answers["base"]
