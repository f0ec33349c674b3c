"""How a study asks its models: sanity checks, benchmarks, held-out questions, ablations."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from cocoift.core.files import DataError, write_manifest
from cocoift.core.frames import stacked
from cocoift.evaluation.benchmarks import Benchmark
from cocoift.evaluation.protocols import AFTER, Protocol
from cocoift.study.planned import asked_of, dialog_protocols
from cocoift.study.preset import Preset
from cocoift.study.study import Study

# Modules that load torch are imported by the functions that need them.
if TYPE_CHECKING:
    from cocoift.evaluation.candidates import Candidate
    from cocoift.evaluation.harness.tasks import Tasks
    from cocoift.evaluation.rollout import Run
    from cocoift.evaluation.sanity import HeldOutRound
    from cocoift.tuning.recipe import Training


def held_out_halves(study: Study) -> "tuple[list[HeldOutRound], list[HeldOutRound]]":
    """Return the rounds of the images that no training sees: half for checks, half for outcomes.

    Both are empty where nothing was merged.
    """
    from cocoift.evaluation.sanity import halves, read_held_out

    merged = study.merged / "merged.json"
    if not merged.is_file():
        return [], []
    held_out = study.preset.held_out_images
    return halves(read_held_out(merged, forms=study.forms(), held_out=held_out))


def sanity_checks(study: Study, rounds: "Sequence[HeldOutRound]") -> pd.DataFrame:
    """Return the sanity checks of every local model on these rounds, with model and seed.

    Those of tuned models are `sanity.check_table`, those of a tiny LLaVA
    `minicoco.sight.base_checks`.  Empty without local models or rounds.
    """
    from cocoift.evaluation.candidates import local_candidates
    from cocoift.evaluation.sanity import COLUMNS, check_table
    from minicoco.sight import base_checks

    models, mini = study.preset.evaluation.models, study.preset.mini_coco
    if not (models and rounds):
        return pd.DataFrame()
    opening, parts = study.protocols()[AFTER].opening, []
    for seed in study.preset.seeds:
        for candidate in local_candidates(study.local_models(seed), models):
            if candidate.name != "base":
                table = check_table(
                    candidate.answer, rounds, opening=opening, image_root=study.images
                )
            elif mini and study.preset.tiny_llava:
                closed = [r.prompt(study.images) for r in rounds if r.is_closed]
                table = base_checks(
                    candidate.answer, closed, opening=opening, seed=mini.seed, pixels=mini.pixels
                )
            else:
                continue
            parts.append(table.assign(model=candidate.name, seed=candidate.seed))
    return stacked(parts, [*COLUMNS, "model", "seed"])


def adherence_benchmark(study: Study, rounds: "Sequence[HeldOutRound]") -> Benchmark | None:
    """Return the questions that adherence is measured on: of these rounds.

    Without rounds, questions on mini's benchmark images; without mini, `None`.
    """
    from cocoift.evaluation.adherence import held_out_benchmark
    from minicoco.benchmark import closed_and_open

    if rounds:
        return held_out_benchmark(rounds, image_root=study.images)
    if not study.scenes:
        return None
    drawn = list(closed_and_open(study.scenes, study.preset.seeds[0]))
    return held_out_benchmark(drawn, image_root=study.raw / "mm_vet/images")


def adherence_runs(study: Study, rounds: "Sequence[HeldOutRound]") -> "list[Run]":
    """Ask every model `adherence_benchmark` alone, after a short round and after a long one."""
    from cocoift.evaluation.adherence import adherence_protocols

    asked = adherence_benchmark(study, rounds)
    return ask(study, [asked], adherence_protocols(study.protocols())) if asked else []


def roll_out(study: Study, benchmarks: Sequence[Benchmark]) -> "list[Run]":
    """Put every question to every model under every protocol; list the rollouts for later."""
    runs = ask(study, benchmarks, list(study.protocols().values()))
    files = [run.file for run in runs if run.file]
    write_manifest(study.work / "rollouts" / "manifest.json", files, root=study.work)
    return runs


def ask(
    study: Study, benchmarks: Sequence[Benchmark], protocols: Sequence[Protocol]
) -> "list[Run]":
    """Put every question to every model, local and behind endpoints, under these protocols."""
    from cocoift.evaluation.evaluate import LocalRun, evaluate, evaluate_local

    preset, folder = study.preset, study.work / "rollouts"
    asked = [
        LocalRun(study.local_models(seed), name, protocols)
        for seed in (preset.seeds if preset.evaluation.models else ())
        for name in preset.evaluation.models
    ]
    runs = evaluate_local(asked, benchmarks, folder=folder, processes=preset.processes)
    for candidate in _served(preset):
        runs += evaluate(candidate, benchmarks, protocols, folder=folder)
    return runs + _logged(study, benchmarks, protocols, folder)


def _logged(
    study: Study, benchmarks: Sequence[Benchmark], protocols: Sequence[Protocol], folder: Path
) -> "list[Run]":
    """Return what other harnesses logged of these benchmarks under these protocols."""
    from cocoift.evaluation.harness.logs import logged_run

    by_benchmark = {benchmark.name: benchmark for benchmark in benchmarks}
    by_protocol = {protocol.name: protocol for protocol in protocols}
    return [
        logged_run(answers, by_benchmark[answers.benchmark], by_protocol[answers.protocol],
                   raw=study.raw, folder=folder)
        for answers in study.preset.evaluation.logged
        if answers.benchmark in by_benchmark and answers.protocol in by_protocol
    ]  # fmt: skip


def _served(preset: Preset) -> "Iterator[Candidate]":
    from cocoift.evaluation.candidates import endpoint_candidates

    answers = preset.evaluation
    return endpoint_candidates(
        answers.endpoints, system=preset.system_prompt, new_tokens=answers.new_tokens
    )


def harness_tasks(study: Study, benchmark: str, protocols: Sequence[str]) -> "Tasks":
    """Return a benchmark and protocols of a preset for other harnesses.

    Raises `DataError` for names that the preset does not have, or not on disk.
    """
    from cocoift.evaluation.harness.tasks import Tasks

    benchmarks, known = {found.name: found for found in study.benchmarks()}, study.protocols()
    for wanted, names in (([benchmark], list(benchmarks)), (protocols, list(known))):
        for name in set(wanted) - set(names):
            raise DataError(f"no {name!r} here; there are: {', '.join(names) or 'none'}")
    return Tasks(
        benchmark=benchmarks[benchmark],
        protocols=[known[name] for name in protocols],
        new_tokens=study.preset.evaluation.new_tokens,
    )


def chat_models(study: Study) -> "list[Candidate]":
    """Return the models of notebook 08: local ones of the first seed, other checkpoints, endpoints.

    Adapters on the same base share it in memory.  Models of the `chat_presets` come after those of
    the study, as `<preset>, <model>`, where all of their files are there.
    """
    from cocoift.evaluation.candidates import local_candidates

    preset = study.preset
    local, names = study.local_models(preset.seeds[0]), preset.evaluation.models
    found = list(local_candidates(local, names)) if names else []
    for name, checkpoint in preset.chat_checkpoints.items():
        alone = replace(local, base=checkpoint, adapters={})
        found += [replace(candidate, name=name) for candidate in local_candidates(alone, ["base"])]
    for name, other in study.chat_studies.items():
        models, asked = other.local_models(other.preset.seeds[0]), other.preset.evaluation.models
        for candidate in local_candidates(models, asked):
            found.append(replace(candidate, name=f"{name}, {candidate.name}"))
    return [*found, *_served(preset)]


def adherence_of_variants(
    study: Study, trainings: "Mapping[tuple[str, int], Training]", names: Collection[str]
) -> "list[Run]":
    """Ask these variants `adherence_benchmark` alone and after the short round."""
    asked = adherence_benchmark(study, held_out_halves(study)[1])
    chosen = _on_few_seeds(study, trainings, names)
    return roll_out_variants(study, asked, chosen, {}) if asked else []


def dialogs_of_variants(
    study: Study, trainings: "Mapping[tuple[str, int], Training]", names: Collection[str]
) -> "list[Run]":
    """Ask these variants the questions that need a round before them, as mitigations ask them."""
    chosen, further = _on_few_seeds(study, trainings, names), dialog_protocols(study.protocols())
    return [
        run
        for benchmark in study.benchmarks()
        if benchmark.of_dialogs and names
        for run in roll_out_variants(study, benchmark, chosen, further)
    ]


def _on_few_seeds(
    study: Study, trainings: "Mapping[tuple[str, int], Training]", names: Collection[str]
) -> "dict[tuple[str, int], Training]":
    return {
        (name, seed): training
        for (name, seed), training in trainings.items()
        if name in names and seed in study.few_seeds
    }


def roll_out_variants(
    study: Study,
    benchmark: Benchmark,
    trainings: "Mapping[tuple[str, int], Training]",
    further: Mapping[str, Sequence[Protocol]],
) -> "list[Run]":
    """Ask every variant, and the base models, alone and after the short round.

    `further` are protocols under which single models are asked too, on the seeds of the ablations.
    A base of its own is asked as the variant `SEVERAL`.  What notebook 05 has asked of its models
    is not asked again.
    """
    from cocoift.evaluation.evaluate import LocalRun, evaluate_local
    from cocoift.evaluation.variants import SEVERAL

    asked_by_05, ablations = study.work / "rollouts", study.work / "ablations" / "rollouts"
    several = ablations / "several"
    groups: dict[tuple[int, str], dict[str, Training]] = {}
    for (name, seed), training in trainings.items():
        groups.setdefault((seed, training.checkpoint), {})[name] = training
    places: dict[Path, list[LocalRun]] = {asked_by_05: [], ablations: [], several: []}
    order = study.preset.seeds.index
    for (seed, checkpoint), ours in sorted(groups.items(), key=lambda group: order(group[0][0])):
        local = replace(
            study.local_models(seed, {name: each.adapter for name, each in ours.items()}),
            base=checkpoint,
        )
        by_model = asked_of(ours, further if seed in study.few_seeds else {}, study.protocols())
        for name, protocols in by_model.items():
            place = asked_by_05 if name in ("base", *study.preset.mixtures) else ablations
            place = place if checkpoint == study.base(seed) else several
            places[place].append(LocalRun(local, name, protocols))
    found, processes = [], study.preset.processes
    for folder, asked in places.items():
        runs = evaluate_local(asked, [benchmark], folder=folder, processes=processes)
        named = {"base": SEVERAL.name} if folder == several else {}
        found += [replace(run, model=named.get(run.model, run.model)) for run in runs]
    return found
