"""What a run will train, ask and have judged, known before it begins."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from cocoift.core.files import DataError
from cocoift.evaluation import ablations
from cocoift.evaluation.ablations import AskedVariant
from cocoift.evaluation.benchmarks import Benchmark
from cocoift.evaluation.judging import ToJudge
from cocoift.evaluation.protocols import AFTER, ALONE, Protocol
from cocoift.evaluation.variants import Variant
from cocoift.study.study import Study


@dataclass(frozen=True, kw_only=True)
class AblationPlan:
    """What notebook 07 trains and asks.

    `asked` are all settings that have a model of their own, `cures` those of them; `variants` is
    what trains, by name, and `seeds` on which seeds it does; `openings` and `positions` are
    protocols by how they are called; `further` are the protocols of a model beside the headline's
    two, on `few_seeds`; `left_out` are the ablations whose data is absent.
    """

    asked: Sequence[AskedVariant]
    cures: Sequence[AskedVariant]
    variants: Mapping[str, Variant]
    seeds: Mapping[str, Sequence[int]]
    openings: Mapping[str, Protocol]
    positions: Mapping[str, Protocol]
    further: Mapping[str, Sequence[Protocol]]
    few_seeds: Sequence[int]
    left_out: Sequence[str]

    def by_seeds(self, verdicts: pd.DataFrame) -> list[tuple[list[AskedVariant], pd.DataFrame]]:
        """Return the settings on all seeds and those on few, each with its seeds' verdicts."""
        on_all = [each for each in self.asked if each.ablation in ablations.ON_ALL_SEEDS]
        others = [each for each in self.asked if each not in on_all]
        few = verdicts[verdicts.seed.isin(self.few_seeds)]
        return [(each, rows) for each, rows in ((on_all, verdicts), (others, few)) if each]


def ablation_plan(study: Study) -> AblationPlan:
    """Return what the ablations of a preset train and ask, without those whose data is absent."""
    chosen, mixtures = study.preset.ablations, study.preset.mixtures
    absent = {
        "answers": not (study.raw / chosen.gqa_questions).is_file(),
        "pretraining": study.preset.tiny_llava is None,
        "others": not (study.raw / study.preset.mix_file).is_file(),
    }
    left_out = [name for name in chosen.run if absent.get(name)]
    wanted = [name for name in chosen.run if name not in left_out]
    asked = ablations.asked_variants(
        wanted, doses=chosen.doses, image_counts=chosen.image_counts, groups=chosen.groups
    )
    cures = ablations.mitigation_variants(mixtures) if "cures" in wanted else []
    kinds = chosen.openings if "openings" in wanted else {}
    opened, placed = ablations.opening_protocols(kinds), ablations.position_protocols(kinds)
    further: dict[str, list[Protocol]] = {
        name: [*opened.values(), *placed.values()] for name in mixtures
    }
    if cures:
        full = ablations.mitigation_protocols(study.protocols())
        further["mix"] = [*further.get("mix", ()), *full]
    variants = ablations.trained([*asked, *cures], mixtures)
    on_all = {each.variant.name for each in asked if each.ablation in ablations.ON_ALL_SEEDS}
    seeds = {
        name: study.preset.seeds if name in {*on_all, *mixtures} else study.few_seeds
        for name in variants
    }
    return AblationPlan(
        asked=[*asked, *cures],
        cures=cures,
        variants=variants,
        seeds=seeds,
        openings=opened,
        positions=placed,
        further=further,
        few_seeds=study.few_seeds,
        left_out=left_out,
    )


def ablation_benchmark(study: Study) -> Benchmark:
    """Return the first benchmark that the preset's judge can score: the ablations ask that one.

    Raises `DataError` where there is none, and as `Study.benchmarks_to_ask` does.
    """
    found, judge = study.benchmarks_to_ask(), study.judge()
    for benchmark in found:
        if not benchmark.of_dialogs and any(map(judge.can_score, benchmark.questions)):
            return benchmark
    names = ", ".join(benchmark.name for benchmark in found)
    raise DataError(
        f"the ablations compare scores, and no answer to {names} "
        "can be scored; name a benchmark with answers first, or leave 07 out of `notebooks`"
    )


def asked_of(
    variants: Iterable[str],
    further: Mapping[str, Sequence[Protocol]],
    protocols: Mapping[str, Protocol],
) -> dict[str, list[Protocol]]:
    """Return the protocols under which notebook 07 asks each model, the base model first."""
    both = [protocols[ALONE], protocols[AFTER]]
    return {
        name: list(
            {protocol.name: protocol for protocol in [*both, *further.get(name, ())]}.values()
        )
        for name in ("base", *variants)
    }


def dialog_protocols(protocols: Mapping[str, Protocol]) -> dict[str, list[Protocol]]:
    """Return how the mitigations at inference ask a benchmark of dialogs, by model."""
    dropped = [protocol for protocol in protocols.values() if protocol.dropped]
    return {"mix": [*dropped, *ablations.mitigation_protocols(protocols)]}


def to_judge(study: Study, benchmarks: Sequence[Benchmark]) -> list[ToJudge]:
    """Return everything that the judge of a run is asked: by notebook 05, and by 07 beside it.

    Answers that both ask of the same models are judged once.  Raises `DataError` as
    `ablation_benchmark` does where ablations run.
    """
    runs = study.preset.notebooks or ["05", "07"]
    found: list[ToJudge] = []
    if benchmarks and "05" in runs:
        found += _of_notebook_05(study, benchmarks)
    if benchmarks and "07" in runs and study.preset.ablations.run:
        found += _of_notebook_07(study)
    return found


def _of_notebook_07(study: Study) -> Iterator[ToJudge]:
    asked, protocols = ablation_benchmark(study), study.protocols()
    known = {(name, protocol) for name in study.preset.evaluation.models for protocol in protocols}
    plan = ablation_plan(study)
    for name, further in asked_of(plan.variants, plan.further, protocols).items():
        for protocol in further:
            if (name, protocol.name) not in known:
                on_all = protocol.name in (ALONE, AFTER)
                times = len(plan.seeds.get(name, plan.few_seeds) if on_all else plan.few_seeds)
                yield ToJudge(asked.kind, asked.questions, protocol.name, times)
    cures = {each.variant.name for each in plan.cures}
    dialogs = [benchmark for benchmark in study.benchmarks() if benchmark.of_dialogs and cures]
    for benchmark in dialogs:
        for name, further in asked_of(cures, dialog_protocols(protocols), protocols).items():
            for protocol in further:
                if (name, protocol.name) not in known:
                    times = len(plan.few_seeds)
                    yield ToJudge(benchmark.kind, benchmark.questions, protocol.name, times)


def _of_notebook_05(study: Study, benchmarks: Sequence[Benchmark]) -> Iterator[ToJudge]:
    from cocoift.report.trust import graded_by_hand  # it loads torch

    evaluation = study.preset.evaluation
    models = len(evaluation.models) * len(study.preset.seeds) + len(evaluation.endpoints)
    for benchmark in benchmarks:
        for protocol in study.protocols().values():
            logged = [(answers.benchmark, answers.protocol) for answers in evaluation.logged]
            times = logged.count((benchmark.name, protocol.name))
            times += models if protocol.fits(benchmark) else 0
            yield ToJudge(benchmark.kind, benchmark.questions, protocol.name, times)
    mm_vet = [asked for asked in benchmarks if asked.kind == "mm_vet" and not asked.of_dialogs]
    by_hand = graded_by_hand(study.root / "data/judge_trust.json")[1]
    yield ToJudge((mm_vet or benchmarks)[0].kind, by_hand, ALONE, 1)
    for benchmark in mm_vet[:1]:
        yield ToJudge(benchmark.kind, benchmark.questions, ALONE, len(evaluation.graded))
