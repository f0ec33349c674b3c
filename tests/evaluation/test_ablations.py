"""Ablations: variants differ in one thing, and answers say what the numbers say."""

import dataclasses
import json
from collections import Counter

import pandas as pd
import pytest
from kept_turns import IMAGE, asked, kept
from msgspec import structs

from cocoift.core.files import DataError
from cocoift.evaluation.ablations import (
    ABLATIONS,
    CHOPPED,
    LONG,
    MASKED,
    MERGED_WITHOUT,
    WITHOUT_VISDIAL,
    asked_variants,
    mitigation_protocols,
    mitigation_variants,
    opening_protocols,
    position_protocols,
)
from cocoift.evaluation.benchmarks import Question
from cocoift.evaluation.effects import effect_table
from cocoift.evaluation.protocols import Protocol
from cocoift.evaluation.score import COLLAPSE, Metric
from cocoift.evaluation.variants import (
    HALF,
    WHOLE,
    Variant,
    full_answers,
    same_records,
    variant_records,
    write_variant,
)
from cocoift.merge.layouts import MERGED, MIX, Layout, records
from cocoift.merge.rules import Rules
from cocoift.report import ablations as report
from cocoift.report.told import NOT_MEASURED, told
from cocoift.study import Preset, Study, planned, steps
from cocoift.study.preset import Ablations
from cocoift.tuning.recipe import TuningRecipe
from minicoco import Recipe

BUDGET = {"budget": 1000, "image_dir": "train2017"}


def images(count):
    """`count` images with the turns of `IMAGE`, each under its own id."""

    def moved(item, image_id):
        return type(item)(item.turn._replace(image_id=image_id), *_rest(item))

    return [[moved(item, image_id) for item in IMAGE] for image_id in range(1, count + 1)]


def _rest(item):
    return item.record, item.position, item.tokens, item.licence


def made(variant, sentences=None, turns=None):
    found = variant_records(variant, turns or images(60), sentences=sentences or {}, **BUDGET)
    return list(found)


def test_no_dose_is_the_merged_mixture_and_the_whole_dose_the_llava_style_one():
    for share, layout in ((0.0, MERGED), (1.0, MIX)):
        variant = Variant(name="x", layout=MIX, share=share)
        assert made(variant) == list(records(images(60), layout=layout, **BUDGET))


def test_a_larger_dose_holds_the_images_of_a_smaller_one():
    def as_in_mix(share):
        merged = {record.image: record for record in made(WHOLE["merged"])}
        found = made(Variant(name="x", layout=MIX, share=share))
        return {record.image for record in found if record != merged[record.image]}

    quarter, half = as_in_mix(0.25), as_in_mix(0.5)
    assert quarter < half
    assert 0.1 < len(quarter) / 60 < 0.4 < len(half) / 60 < 0.7


def test_both_answers_variants_ask_the_same_questions_and_only_the_answers_differ():
    turns = [
        [
            kept("gqa", "7", 0, "What is it?", "cup"),
            kept("gqa", "8", 0, "Where?", "beach"),
            kept("vqav2", "1", 0, "What color is it?", "red"),
            kept("svit", "s", 0, "What do you see?", "A cup at the beach.", "free"),
        ]
    ]
    sentences = {"7": "It is a cup.", "8": "It is at the beach."}
    short, full = (
        made(Variant(name=k, layout=MIX, answers=k), sentences, turns)
        for k in ("short", "sentence")
    )
    assert [r.sources for r in short] == [r.sources for r in full] == [["gqa", "gqa"], ["svit"]]
    assert [m.value for m in short[0].conversations[1::2]] == ["cup", "beach"]
    assert [m.value for m in full[0].conversations[1::2]] == list(sentences.values())
    assert asked(short[0])[1] == asked(full[0])[1] == "Where?"
    assert asked(full[0])[0] == "What is it? Answer the question in a full sentence."
    assert short[1] == full[1]


def test_the_two_by_two_holds_both_mixtures_and_two_more():
    found = asked_variants(["factors"], doses=(), image_counts=(), groups={})
    layouts = [dataclasses.astuple(each.variant.layout) for each in found]
    assert sorted(layouts) == sorted(
        {(p, s, 0, "own") for p in ("first", "every") for s in ("apart", "mixed")}
    )
    assert [a.variant.name for a in found] == ["mix", "first-mixed", "every-apart", "merged"]
    assert found[0].variant.layout == Layout(prompts="first", sources="apart")


def test_the_ends_of_the_dose_and_all_images_are_not_trained_again():
    found = asked_variants(["dose", "images"], doses=(0, 0.5, 1), image_counts=(50,), groups={})
    names = [(each.setting, each.variant.name) for each in found]
    assert names == [("0 %", "merged"), ("50 %", "dose-50"), ("100 %", "mix"),
                     ("0", "base"), ("50", "images-50"), ("all", "merged")]  # fmt: skip


def test_a_group_of_sources_is_left_out_and_the_rest_stays_merged():
    groups = {"terse dialogs": ["visdial"], "short questions": ["vqav2", "aokvqa"]}
    found = asked_variants(["sources"], doses=(), image_counts=(), groups=groups)
    names = {each.setting: each.variant.name for each in found}
    assert names == {"all sources": "merged", "without terse dialogs": "without-terse-dialogs",
                     "without short questions": "without-short-questions"}  # fmt: skip
    for record, whole in zip(made(found[2].variant), made(WHOLE["merged"]), strict=True):
        kept = [name for name in whole.sources if name not in groups["short questions"]]
        assert record.sources == kept and len(kept) < len(whole.sources)


def variants_of(*names):
    found = asked_variants(names, doses=(), image_counts=(), groups={})
    return {each.setting: each.variant for each in found}


def test_each_arm_of_the_layouts_changes_one_thing_of_merged_or_of_the_baseline():
    arms = variants_of("layouts")
    assert list(arms) == ["LLaVA-style", LONG, WITHOUT_VISDIAL, "merged", CHOPPED, MASKED,
                          MERGED_WITHOUT]  # fmt: skip
    for setting, whole, changed in (
        (LONG, "mix", {"layout": dataclasses.replace(MIX, rounds="many")}),
        (WITHOUT_VISDIAL, "mix", {"left_out": ("visdial",)}),
        (CHOPPED, "merged", {"layout": dataclasses.replace(MERGED, rounds="few")}),
        (MASKED, "merged", {"attend": "turn"}),
        (MERGED_WITHOUT, "merged", {"left_out": ("visdial",)}),
    ):
        name = arms[setting].name
        assert arms[setting] == dataclasses.replace(WHOLE[whole], name=name, **changed)
    assert "visdial" not in {name for r in made(arms[WITHOUT_VISDIAL]) for name in r.sources}
    assert same_records(arms[MASKED]) == "merged"


def test_overlapping_sources_keep_as_many_turns_on_the_same_images_as_on_disjoint_ones():
    # The sources of `IMAGE`: half of them in HALF, half not.
    same, disjoint = (
        made(variants_of("overlap")[name], turns=images(400))
        for name in ("same images", "disjoint images")
    )
    counts = [Counter(source for record in found for source in record.sources)
              for found in (same, disjoint)]  # fmt: skip
    for source, count in counts[0].items():
        assert counts[1][source] == pytest.approx(count, rel=0.25)
    assert {len({s in HALF for s in record.sources}) for record in same} == {2}
    assert {len({s in HALF for s in record.sources}) for record in disjoint} == {1}
    assert len({r.image for r in disjoint}) == pytest.approx(2 * len({r.image for r in same}), 0.2)


def test_both_arms_of_the_overlap_train_for_the_same_half_of_the_steps(study, monkeypatch):
    whole = study.merged / "merged.json"
    monkeypatch.setattr("cocoift.evaluation.variants.write_variant", lambda *_, **__: whole)
    found = steps.variant_trainings(
        study, {each.name: each for each in variants_of("overlap").values()}, sentences={}
    )
    assert {training.steps for training in found.values()} == {
        study.training("merged", 1).steps // 2
    }


def test_masked_turns_train_on_the_merged_mixture_itself(study):
    masked = variants_of("layouts")[MASKED]
    found = steps.variant_trainings(
        study, {"merged": WHOLE["merged"], masked.name: masked}, sentences={}
    )
    plain, ours = found["merged", 1], found[masked.name, 1]
    assert ours.mixture == plain.mixture and ours.recipe.attend == "turn"
    assert ours.key() != plain.key()


def test_a_base_taught_several_rounds_is_built_beside_the_presets_own(study, monkeypatch):
    tiny = dataclasses.replace(study, preset=structs.replace(study.preset, tiny_llava=Recipe()))
    built = []
    monkeypatch.setattr(
        "minicoco.llava.build_tiny_llava",
        lambda folder, recipe, shipped: built.append((folder, recipe)),
    )
    arms = {each.name: each for each in variants_of("pretraining").values()}
    trained = {name: arms[name] for name in ("mix", "mix-several", "merged-several")}
    found = steps.variant_trainings(tiny, trained, sentences={})
    ((folder, recipe),) = set(built)
    assert folder == study.work / "several-1" and recipe.rounds == "several"
    assert {key[0]: training.checkpoint for key, training in found.items()} == {
        "mix": study.base(1), "mix-several": str(folder),
        "merged-several": str(folder)}  # fmt: skip
    assert found["mix-several", 1].mixture == found["mix", 1].mixture
    with pytest.raises(DataError, match="builds mini's base; take it out"):
        steps.variant_trainings(study, trained, sentences={})


def test_ablations_that_the_headline_does_not_rest_on_run_on_the_seeds_a_preset_names(study):
    chosen = Ablations(run=["layouts", "overlap", "openings"], seeds=[1])
    many = structs.replace(study.preset, seeds=[0, 1, 2], ablations=chosen)
    plan = planned.ablation_plan(dataclasses.replace(study, preset=many))
    assert plan.seeds["merged-masked"] == plan.seeds["merged"] == [0, 1, 2]
    assert plan.seeds["overlap-same"] == plan.few_seeds == [1]
    answers = pd.DataFrame({"seed": [0, 1, 2]})
    (all_arms, all_rows), (few_arms, few_rows) = plan.by_seeds(answers)
    assert {each.ablation for each in all_arms} == {"layouts"} and len(all_rows) == 3
    assert {each.ablation for each in few_arms} == {"overlap"} and list(few_rows.seed) == [1]
    with pytest.raises(ValueError, match=r"ablations.seeds has \[7\]; seeds does not"):
        structs.replace(many, ablations=structs.replace(chosen, seeds=[7])).__post_init__()


def test_an_unknown_ablation_is_named_with_those_there_are():
    with pytest.raises(DataError, match=rf"\['doze'\] are none of {', '.join(ABLATIONS)}"):
        asked_variants(["doze"], doses=(), image_counts=(), groups={})


def test_a_mixture_is_written_once_and_again_when_its_turns_change(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from cocoift.core.schema import KEPT_SCHEMA

    def write(turns):
        rows = [[*item.turn, *_rest(item)] for item in turns]
        columns = [list(column) for column in zip(*rows, strict=True)]
        arrays = [pa.array(c, field.type) for c, field in zip(columns, KEPT_SCHEMA, strict=True)]
        pq.write_table(pa.Table.from_arrays(arrays, schema=KEPT_SCHEMA), tmp_path / "turns.parquet")

    def interrupted(*_):
        raise KeyboardInterrupt

    variant = Variant(name="dose-50", layout=MIX, share=0.5)
    given = {"budget": 1000, "sentences": {}}
    write(IMAGE)
    path = write_variant(variant, tmp_path / "turns.parquet", tmp_path, **given)
    first = path.stat().st_mtime_ns
    assert json.loads(path.read_text())
    write_variant(variant, tmp_path / "turns.parquet", tmp_path, **given)
    assert path.stat().st_mtime_ns == first
    write(IMAGE[:3])
    write_variant(variant, tmp_path / "turns.parquet", tmp_path, **given)
    assert path.stat().st_mtime_ns > first
    short = path.read_bytes()
    write(IMAGE)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("cocoift.evaluation.variants.write_text", interrupted)
        write_variant(variant, tmp_path / "turns.parquet", tmp_path, **given)
    assert path.read_bytes() != short
    write(IMAGE[:3])
    write_variant(variant, tmp_path / "turns.parquet", tmp_path, **given)
    assert path.read_bytes() == short


@pytest.fixture
def study(mixture, checkpoint, tmp_path):
    merged = tmp_path / "work" / "merged"
    merged.parent.mkdir()
    merged.symlink_to(mixture)
    (tmp_path / "sources.yaml").write_text("{}")
    preset = Preset(
        name="p",
        checkpoint=str(checkpoint),
        catalogue="sources.yaml",
        work_dir="work",
        image_dir=str(mixture),
        seeds=[1],
        device="cpu",
        held_out_images=5,
        merge=Rules(image_tokens=16, context_tokens=512),
        tuning=TuningRecipe(records_per_step=4),
    )
    return Study(tmp_path, preset)


def test_an_arm_trains_as_merged_does_but_for_its_images(study, tmp_path):
    variants = {"merged": WHOLE["merged"], "few": Variant(name="few", images=8)}
    found = steps.variant_trainings(study, variants, sentences={})
    plain, few = found["merged", 1], found["few", 1]
    adapter = tmp_path / "work/ablations/adapters/few-1"
    assert few == dataclasses.replace(study.training("merged", 1, images=8), adapter=adapter)
    assert plain.adapter == tmp_path / "work/adapters/merged-1" and few.mixture == plain.mixture


def test_loss_on_the_last_answer_is_the_variants_own_and_changes_its_key(study):
    last = Variant(name="last-answer", layout=MIX, loss_on="last")
    found = steps.variant_trainings(study, {"mix": WHOLE["mix"], "last-answer": last}, sentences={})
    assert found["mix", 1].recipe == study.preset.tuning
    assert found["last-answer", 1].recipe.loss_on == "last"
    same = dataclasses.replace(found["last-answer", 1], recipe=study.preset.tuning)
    assert same.key() != found["last-answer", 1].key()


def test_fewer_images_are_some_of_more_images_with_fewer_steps(study):
    few, more, every = (study.training("merged", 1, images=count) for count in (8, 16, None))
    assert set(few.images) < set(more.images) < set(every.images)
    assert (few.steps, more.steps, every.steps) == (2, 4, 8)


def test_full_answers_are_gqas_and_a_missing_file_has_none(real, tmp_path):
    (text,) = full_answers(real / "gqa/questions.json").values()
    assert text == "The picture is hanging above the chalkboard."
    assert full_answers(tmp_path / "none.json") == {}


def test_openings_grow_round_by_round():
    found = opening_protocols({"short": ["a", "b"], "long": ["c"]})
    assert {label: protocol.opening for label, protocol in found.items()} == {
        "none": (), "short x 1": ("a",), "short x 2": ("a", "b"), "long x 1": ("c",)}  # fmt: skip


def test_the_short_round_takes_each_place_among_two_long_ones():
    found = position_protocols({"short": ["s", "t"], "long": ["a", "b", "c"]})
    assert {label: protocol.opening for label, protocol in found.items()} == {
        "short 1st of 3": ("s", "a", "b"), "short 2nd of 3": ("a", "s", "b"),
        "short 3rd of 3": ("a", "b", "s")}  # fmt: skip
    assert position_protocols({"short": ["s"], "long": ["a"]}) == {} == opening_protocols({})


def test_a_full_sentence_is_asked_for_with_and_without_the_short_round():
    plain = {n: Protocol(name=n, opening=o)
             for n, o in (("single_round", ()), ("multi_round", ("Where?",)))}  # fmt: skip
    alone, after = mitigation_protocols(plain)
    assert (alone.opening, after.opening) == ((), ("Where?",))
    asked = Question(id="q", images=("a.png",), text="What is it?")
    assert alone.asks(asked) == "What is it? Answer in a full sentence."
    assert {alone.name, after.name}.isdisjoint(plain)


def test_the_model_without_its_history_answers_as_if_it_were_asked_alone():
    mixtures = ["mix", "merged"]
    both = verdicts({"mix": (3, 27), "merged": (3, 6), "last-answer": (9, 12),
                     "every-apart": (0, 15)})  # fmt: skip
    sentence = both[both.model == "mix"].replace(
        {"protocol": {"single_round": "sentence_alone", "multi_round": "sentence_after_short"}}
    )
    sentence = sentence.assign(words=9)
    found = report.variant_table(
        mitigation_variants(mixtures), pd.concat([both, sentence]), [METRIC], resamples=100
    )
    whole = found[(found.seed == "all") & (found.metric == COLLAPSE)]
    value = whole.set_index(["setting", "protocol"]).value
    assert value["LLaVA-style", "multi_round"] == pytest.approx(90)
    assert value["history dropped", "multi_round"] == pytest.approx(10)
    assert value["history dropped", "difference"] == pytest.approx(0)
    assert value["sentence asked for", "multi_round"] == pytest.approx(0)
    effects = report.compared(
        mitigation_variants(mixtures), pd.concat([both, sentence]), [METRIC], resamples=100
    )
    after = report.effects_of(effects, "cures", COLLAPSE)
    gap = after[after.seed == "all"].set_index("contrast").difference
    assert gap.to_dict() == pytest.approx(
        {"LLaVA-style": -70, "history dropped": 10, "sentence asked for": 20,
         "loss on the last answer": -20, "prompt in every turn": -30})  # fmt: skip


def test_a_single_dose_is_compared_with_nothing():
    made = asked_variants(["dose"], doses=(0.5,), image_counts=(), groups={})
    answers = verdicts({"dose-50": (3, 20)})
    assert told(report.compared(made, answers, [METRIC], resamples=50)) == NOT_MEASURED


def verdicts(collapse):
    """Verdicts of the four variants on 30 pictures: {model: (collapsed alone, after)} of 30."""
    found = []
    for model, shares in collapse.items():
        for protocol, count in zip(("single_round", "multi_round"), shares, strict=True):
            for n in range(30):
                words, opening = 1 if n < count else 9, "a word" if n < 24 else "more than 3 words"
                found.append((model, 0, protocol, f"q{n}", f"i{n}", words, 1.0, "", 0, opening))
    columns = ["model", "seed", "protocol", "question_id", "image", "words", "score", "reason",
               "repeat", "opening_reply"]  # fmt: skip
    return pd.DataFrame(found, columns=columns)


METRIC = Metric(COLLAPSE, {f"q{n}": 1.0 for n in range(30)}, of="collapsed")


def factors(collapse):
    return effect_table(verdicts(collapse), [METRIC], report.factor_contrasts(), resamples=300)


EVERY, MIXED, BOTH = (f"{name} - LLaVA-style" for name in (
    "prompt in every turn, sources apart", "prompt in the first turn, sources mixed",
    "both, which is merged"))  # fmt: skip


def test_effects_of_the_two_by_two_are_those_computed_by_hand():
    collapse = {"mix": (0, 27), "first-mixed": (0, 18), "every-apart": (0, 6), "merged": (0, 3)}
    table = factors(collapse)
    table = table[table.seed == "all"].set_index("contrast")
    percent = {"interaction": 90 + 10 - 60 - 20, EVERY: 20 - 90, MIXED: 60 - 90, BOTH: 10 - 90}
    assert set(table.index) == percent.keys()
    for name, expected in percent.items():
        assert table.difference[name] == pytest.approx(expected)
        assert table.low[name] <= expected <= table.high[name]


@pytest.mark.parametrize(
    ("collapse", "verdicts"),
    [
        ({"mix": (0, 29), "first-mixed": (0, 28), "every-apart": (0, 2), "merged": (0, 1)},
         ["no difference shown", "lower", "no difference shown", "lower"]),
        ({"mix": (0, 29), "first-mixed": (0, 2), "every-apart": (0, 28), "merged": (0, 1)},
         ["no difference shown", "no difference shown", "lower", "lower"]),
        ({"mix": (0, 29), "first-mixed": (0, 2), "every-apart": (0, 2), "merged": (0, 1)},
         ["higher", "lower", "lower", "lower"]),
        ({"mix": (3, 3), "first-mixed": (3, 3), "every-apart": (3, 3), "merged": (3, 3)},
         ["no difference shown"] * 4),
    ],
)  # fmt: skip
def test_what_one_factor_does_and_whether_they_interact_is_told_as_the_numbers_say(
    collapse, verdicts
):
    lines = told(factors(collapse)).splitlines()
    assert len(lines) == len(verdicts) + 2 == 6  # and a line on what the intervals are over
    assert all(verdict in line for verdict, line in zip(verdicts, lines, strict=False))


def test_the_interaction_on_collapse_was_named_before_and_all_else_is_exploratory():
    collapse = {"mix": (0, 29), "first-mixed": (0, 2), "every-apart": (0, 2), "merged": (0, 1)}
    variants = asked_variants(["factors"], doses=(), image_counts=(), groups={})
    table = report.compared(variants, verdicts(collapse), [METRIC], resamples=100)
    named = table[table.family == "headline"]
    assert set(named.contrast) == {"interaction"} and set(named.metric) == {COLLAPSE}
    assert (named.holm == named.p)[named.seed == "all"].all()


def gaps(name, collapse):
    """Return the differences of an ablation with variants of fixed names, after the short round."""
    arms = asked_variants([name], doses=(), image_counts=(), groups={})
    found = report.compared(arms, verdicts(collapse), [METRIC], resamples=100)
    of_all = found[found.seed == "all"]
    return {name: rows.set_index("contrast").difference.to_dict()
            for name, rows in of_all.groupby("ablation")}  # fmt: skip


def test_every_arm_of_the_layouts_is_compared_with_the_mixture_it_changes():
    found = gaps("layouts", {
        "mix": (3, 27), "apart-long": (0, 30), "mix-without-visdial": (0, 24), "merged": (0, 3),
        "merged-chopped": (6, 6), "merged-masked": (0, 0), "merged-without-visdial": (0, 6),
    })  # fmt: skip
    assert found["layouts"] == pytest.approx({
        "merged, chopped - merged": 10, "merged, turns masked - merged": -10,
        "apart, long - LLaVA-style": 10, "without VisDial - LLaVA-style": -10,
        "LLaVA-style - merged, chopped": 70, "without VisDial - merged": 10,
        "LLaVA-style - merged, both without VisDial": 60})  # fmt: skip
    assert found["layouts, single-round"] == pytest.approx({
        "apart, long": -10, "baseline without VisDial": -10, "merged": -10,
        "merged, chopped": 10, "merged, turns masked": -10,
        "merged without VisDial": -10})  # fmt: skip


def test_pretraining_overlap_and_other_data_are_compared_with_what_they_change():
    found = gaps("pretraining", {
        "base": (0, 3), "base-several": (0, 0), "mix": (0, 27), "mix-several": (0, 12),
        "merged": (0, 3), "merged-several": (0, 3),
    })  # fmt: skip
    assert list(found["pretraining"].values()) == pytest.approx([-10, -50, 0, 30])
    found = gaps("overlap", {"overlap-same": (0, 3), "overlap-none": (0, 9)})
    assert found["overlap"] == pytest.approx({"same images - disjoint images": -20})
    shares = {f"{kind}-{share}": (0, 3 + share // 10)
              for kind in ("text-only", "non-COCO") for share in (10, 30, 50)}  # fmt: skip
    found = gaps("others", {"merged": (0, 3), **shares})
    assert found["others"]["text-only, 30 %"] == pytest.approx(10)
    assert len(found["others"]) == 6


def test_arm_tables_hold_every_seed_all_seeds_and_the_paired_change():
    table = verdicts({"mix": (0, 27), "merged": (0, 3)})
    both = pd.concat([table, table.assign(seed=1)])
    found = report.variant_table(
        asked_variants(["dose"], doses=(0.0, 1.0), image_counts=(), groups={}),
        both,
        [METRIC],
        resamples=100,
    )
    assert list(found.columns) == list(report.COLUMNS)
    assert set(found.seed) == {"0", "1", "all"}
    changes = found[(found.protocol == "difference") & (found.seed == "all")]
    change = changes.set_index("setting").value
    assert change["100 %"] == pytest.approx(90) and change["0 %"] == pytest.approx(10)
    replies = found[(found.metric == report.OBEYS) & (found.seed == "all")]
    assert set(replies.protocol) == {"multi_round"} and set(replies.value) == {80.0}


def test_positions_are_compared_within_a_model_last_against_first():
    protocols = position_protocols({"short": ["s"], "long": ["a", "b"]})
    table = verdicts({"mix": (3, 27)}).replace(
        {"protocol": {"single_round": "short_1st", "multi_round": "short_3rd"}}
    )
    moved = report.position_effects(protocols, table, [METRIC], resamples=100)
    assert moved.contrast.unique().tolist() == ["mix"]
    assert moved.difference.tolist() == pytest.approx([80, 80])
    assert told(moved).startswith("- **LLaVA-style**: higher collapse (+80.0 points")


def test_that_both_factors_together_do_more_is_told_of_their_interaction():
    both = {"mix": (0, 27), "first-mixed": (0, 6), "every-apart": (0, 6), "merged": (0, 3)}
    assert "**interaction**: higher collapse" in told(factors(both))
