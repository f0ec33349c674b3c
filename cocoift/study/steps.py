"""What notebooks do with an opened study: draw, build, train, ask, gather."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pandas as pd
from msgspec import structs

from cocoift.core.files import (
    digest,
    read_json,
    read_manifest,
    sha256,
    write_manifest,
    write_text,
)
from cocoift.evaluation.benchmarks import Benchmark
from cocoift.evaluation.protocols import AFTER, ALONE, OTHER_PICTURE
from cocoift.merge.curation import curated_turns, read_decisions
from cocoift.merge.partitioned import MergeInputs
from cocoift.study.study import Study
from cocoift.tuning.recipe import Training

# Modules that load torch are imported by the functions that need them.
if TYPE_CHECKING:
    from transformers import LlavaProcessor

    from cocoift.evaluation.variants import Variant
    from cocoift.tuning.data import TrainingSet
    from minicoco.scenes import World


def draw_world(study: Study) -> "World | None":
    """Draw the preset's mini-COCO in place of an older one; `None` where the data is real."""
    from minicoco.annotate import replace_mini_coco

    mini = study.preset.mini_coco
    return replace_mini_coco(study.raw, **structs.asdict(mini)) if mini else None


def draw_benchmarks(study: Study) -> None:
    """Draw mini's benchmarks unless notebook 00 has drawn them with the rest of its world."""
    from minicoco.annotate import add_benchmarks

    mini = study.preset.mini_coco
    if mini and not (study.raw / "mm_vet/mm-vet.json").is_file():
        add_benchmarks(study.raw, seed=mini.seed, pixels=mini.pixels, count=mini.benchmark)


def write_inputs(study: Study) -> Path:
    """List what later notebooks read: turn tables, image lists, the bases' files."""
    preset = study.preset
    listed = [*preset.image_lists, *preset.evaluation_sets, preset.mix_file]
    files = [*study.turn_tables.glob("*.parquet"), *(study.raw / name for name in listed)]
    for seed in preset.seeds:
        base = Path(study.base(seed))
        files += [base / name for name in ("model.safetensors", "tokenizer.json")]
    return write_manifest(study.work / "interim" / "manifest.json", files, root=study.work)


def merge_inputs(study: Study) -> MergeInputs:
    """Return the rules, images, tokenizer and decisions that the merge follows."""
    return MergeInputs(
        rules=study.preset.merge,
        scope=study.scope(),
        tokenizer_file=str(study.tokenizer_file) if study.tokenizer_file else None,
        curated=curated_turns(read_decisions(study.curation)),
    )


def _held_out_images(study: Study) -> tuple[str, ...]:
    from cocoift.tuning.data import split_images

    merged, count = study.merged / "merged.json", study.preset.held_out_images
    return split_images(merged, held_out=count).held_out


def held_out_set(study: Study, mixture: str, processor: "LlavaProcessor") -> "TrainingSet":
    """Return the samples of a mixture on the images that no training sees."""
    from cocoift.tuning.train import training_set

    training = study.training(mixture, study.preset.seeds[0])
    return training_set(replace(training, images=_held_out_images(study)), processor)


def all_answers(study: Study, benchmarks: Sequence[Benchmark]) -> tuple[pd.DataFrame, list[str]]:
    """Return the answers that notebook 06 reads, and what is left out."""
    from cocoift.report.bias import gather

    bias = study.preset.bias
    return gather(
        benchmarks,
        rollouts=read_manifest(study.work / "rollouts" / "manifest.json", root=study.work),
        datasets={name: study.work / path for name, path in bias.datasets.items()},
        files=bias.answer_files,
        raw=study.raw,
    )


class _Answered(msgspec.Struct):
    """What the verdicts of notebook 05 are verdicts on."""

    inputs: str
    verdicts: str
    date: str


def save_verdicts(study: Study, verdicts: pd.DataFrame) -> None:
    """Save notebook 05's verdicts, and beside the rollouts what they are verdicts on."""
    study.save(verdicts, "verdicts", packed=True)
    made = _Answered(
        inputs=_inputs_of_answers(study),
        verdicts=sha256(study.tables / "verdicts.csv.gz"),
        date=datetime.now(UTC).date().isoformat(),
    )
    stamp = json.dumps(msgspec.to_builtins(made), indent=1)
    write_text(study.work / "rollouts" / "answers.json", f"{stamp}\n")


def present_answers(study: Study) -> tuple[Mapping[tuple[str, str], pd.DataFrame], str]:
    """Return notebook 05's answers by benchmark and image, and in a sentence where they are from.

    None where that notebook has not run, or has run on other data or settings than the present
    ones.
    """
    from cocoift.inspector.data import answers_by_image

    stamp, verdicts = study.work / "rollouts" / "answers.json", study.tables / "verdicts.csv.gz"
    again = "run notebook 05, then this one again"
    if not (stamp.is_file() and verdicts.is_file()):
        return {}, f"No model has answered yet: {again}."
    made = read_json(stamp, _Answered, fix=f"delete it, then {again}")
    if (made.inputs, made.verdicts) != (_inputs_of_answers(study), sha256(verdicts)):
        return {}, f"The answers of {made.date} are to other data or settings: {again}."
    return answers_by_image(verdicts), f"Answers of notebook 05, {made.date}, to this data."


def _inputs_of_answers(study: Study) -> str:
    """Return a digest of the sources, the merge and the settings that models' answers follow."""
    settings = msgspec.to_builtins(study.preset)
    for section in ("bias", "ablations", "chat_checkpoints", "chat_presets", "notebooks"):
        del settings[section]
    made = [study.work / "interim/manifest.json", study.merged / "manifest.json"]
    return digest([settings, [sha256(path) if path.is_file() else "" for path in made]])


def probe_margins(study: Study) -> tuple[pd.DataFrame, str]:
    """Return `probe.probe` of every local model, and what was probed or why nothing was."""
    from cocoift.evaluation.candidates import local_candidates
    from cocoift.evaluation.probe import probe, read_pairs

    asked, models = study.preset.bias.probe, study.preset.evaluation.models
    if not (asked and models and (study.raw / asked.file).is_file()):
        return pd.DataFrame(), "Nothing is probed: no local models, or no questions on disk."
    images, protocols = study.raw / asked.images, study.protocols()
    pairs = read_pairs(study.raw / asked.file, count=asked.count, image_root=images)
    if not pairs:
        return pd.DataFrame(), f"Nothing is probed: {asked.images} holds no image of the questions."
    both = [protocols[ALONE], protocols[AFTER]]
    parts = [
        probe(candidate, pairs, both, image_root=images)
        for seed in study.preset.seeds
        for candidate in local_candidates(study.local_models(seed), models)
    ]
    return pd.concat(parts, ignore_index=True), f"{len(pairs)} questions are probed."


def forced_choices(study: Study) -> tuple[pd.DataFrame, str]:
    """Return `choice.choose` of every local model, and what it chose between or why nothing.

    Asked alone, after the short round and, where the preset has that protocol, alone with another
    image.
    """
    from cocoift.evaluation.candidates import local_candidates
    from cocoift.evaluation.choice import choose, read_choices

    named, models = study.preset.bias.choice, study.preset.evaluation.models
    files = {kind: study.raw / name for kind, name in named.foils.items()} if named else {}
    if not (named and models and all(path.is_file() for path in files.values())):
        return pd.DataFrame(), "Nothing is chosen between: no local models, or no foils on disk."
    images, protocols = study.raw / named.images, study.protocols()
    items, dropped = read_choices(files, asked=named.question, count=named.count, image_root=images)
    left = "".join(f" {count} sentences {reason}." for reason, count in dropped.items())
    if not items:
        return pd.DataFrame(), f"Nothing is chosen between.{left}"
    asked = [protocols[name] for name in (ALONE, AFTER, OTHER_PICTURE) if name in protocols]
    parts = [
        choose(candidate, items, asked, image_root=images)
        for seed in study.preset.seeds
        for candidate in local_candidates(study.local_models(seed), models)
    ]
    first = items[0]
    false = " ".join(f"{kind.capitalize()} exchanged: {text}" for kind, text in first.foils.items())
    note = f"{len(items)} true sentences, such as: {first.truth} {false}{left}"
    return pd.concat(parts, ignore_index=True), note


def history_worth(study: Study) -> pd.DataFrame:
    """Return `history.history_worth` of the LLaVA-style models on held-out images."""
    from cocoift.evaluation.history import history_worth

    images = _held_out_images(study)
    parts = [history_worth(replace(study.training("mix", seed), images=images))
             for seed in study.few_seeds]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def variant_trainings(
    study: Study,
    variants: "Mapping[str, Variant]",
    *,
    sentences: Mapping[str, str],
    seeds: Mapping[str, Sequence[int]] | None = None,
) -> dict[tuple[str, int], Training]:
    """Return the training of every variant and seed, those of notebook 04 first.

    Writes the mixtures of those that have their own, and builds the bases that were taught several
    rounds.  `sentences` maps GQA's question ids to full answers; `seeds` are those of a variant,
    all of the preset's where it names none.
    """
    from cocoift.evaluation.variants import WHOLE, same_records, write_variant
    from cocoift.study.tiny_llavas import build_several

    folder, found = study.work / "ablations", {}
    on = {name: (seeds or {}).get(name, study.preset.seeds) for name in variants}
    several = {seed for name in variants if variants[name].taught == "several" for seed in on[name]}
    bases = build_several(study, sorted(several)) if several else {}
    turns, budget = study.merged / "turns.parquet", study.preset.merge.budget
    for name in sorted(variants, key=lambda name: name not in WHOLE):
        variant, mixture, laid_out = variants[name], None, same_records(variants[name])
        if laid_out is None and variant.others == "none":
            mixture = write_variant(variant, turns, folder, budget=budget, sentences=sentences)
        for seed in on[name]:
            plain = study.training(laid_out or "merged", seed, images=variant.images)
            if variant.taught == "several":
                plain = replace(plain, checkpoint=str(bases[seed]))
            adapter = plain.adapter if name in WHOLE else folder / "adapters" / f"{name}-{seed}"
            training = replace(plain, mixture=mixture or plain.mixture, adapter=adapter)
            found[name, seed] = _as_variant(study, training, variant)
    return found


def _as_variant(study: Study, training: Training, variant: "Variant") -> Training:
    """Return a training with what a variant changes besides the records."""
    from cocoift.tuning.data import count_records

    changed = {"loss_on": variant.loss_on, "attend": variant.attend}
    changed = {name: value for name, value in changed.items() if value not in ("all", "record")}
    if changed:
        training = replace(training, recipe=structs.replace(training.recipe, **changed))
    if variant.others != "none":
        training = _diluted(study, training, variant)
    steps = study.preset.tuning.steps
    if variant.left_out:
        # Without some sources fewer records may be left than steps ask for.
        left = steps(count_records(training.mixture, training.images))
        training = replace(training, steps=min(training.steps, left))
    if variant.overlap != "as it is":
        # Half of the images have all sources, so half of the steps are one pass over them.
        training = replace(training, steps=max(1, training.steps // 2))
    return training


def _diluted(study: Study, training: Training, variant: "Variant") -> Training:
    """Return a training in which records of the preset's `mix_file` replace some of merged."""
    from cocoift.evaluation.others import other_records, write_diluted

    others = other_records(
        study.raw / study.preset.mix_file, variant.others, image_root=training.image_root
    )
    mixture, images = write_diluted(
        variant, training.mixture, training.images, others, folder=study.work / "ablations"
    )
    return replace(training, mixture=mixture, images=images)
