"""The study itself: clean notebooks, and a smoke run of all of them."""

import dis
import json
import re
import shutil
from pathlib import Path
from types import CodeType

import nbformat
import pandas as pd
import pytest
import recomputed
import torch
from cells import executed_outputs
from loopback import serving
from no_bfloat16 import NoBfloat16

from cocoift import study
from cocoift.core.text import has_format_prompt
from cocoift.evaluation.ablations import ABLATIONS
from cocoift.study.index import write_index

LONGEST_CELL = 15
MIXTURES = {"mix", "merged", "instructed"}


NOTEBOOKS = sorted(Path(__file__).resolve().parents[1].glob("notebooks/[0-9][0-9]_*.ipynb"))


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def source(request):
    return nbformat.read(request.param, as_version=4)


def test_notebooks_are_committed_without_outputs(source):
    for cell in source.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_has_a_name_of_its_own(path):
    names = [cell["id"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    assert len(names) == len(set(names))


def test_a_notebook_has_one_parameters_cell_and_short_cells(source):
    tagged = [c for c in source.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    code = [c for c in source.cells if c.cell_type == "code" and c not in tagged]
    assert max(len(cell.source.splitlines()) for cell in code) <= LONGEST_CELL


def test_a_notebook_opens_with_its_question_and_ends_with_an_answer(source):
    assert re.match(r"# .+\n\n\*.+\?\*", source.cells[0].source)
    assert any("**Answer.**" in cell.source for cell in source.cells[-3:])


def test_a_notebook_has_two_exercises_at_its_end(source):
    (exercises,) = [cell.source for cell in source.cells[-2:] if "## Exercises" in cell.source]
    assert re.findall(r"^\d\.", exercises, re.MULTILINE) == ["1.", "2."]


def rebound(source):
    """Return the names that a cell takes from another cell and then binds anew."""
    taken, bound, found = set(), set(), set()
    for step in dis.get_instructions(compile(source, "cell", "exec")):
        if step.opname == "LOAD_NAME":
            taken |= {step.argval} - bound
        elif isinstance(step.argval, CodeType):  # a comprehension or a function
            inner = dis.get_instructions(step.argval)
            taken |= {load.argval for load in inner if load.opname == "LOAD_GLOBAL"} - bound
        elif step.opname == "STORE_NAME":
            found |= {step.argval} & taken
            bound.add(step.argval)
    return found


def test_a_cell_that_is_run_twice_does_nothing_twice(source):
    found = {cell.id: rebound(cell.source) for cell in source.cells if cell.cell_type == "code"}
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("t = concat([t, u])", {"t"}),
        ("t += u", {"t"}),
        ("t = [one for one in u if one in t]", {"t"}),
        ("t = u\nt = f(t)", set()),
        ("x = [t for t in u]\nt = 1", set()),
    ],
)
def test_that_check_knows_a_table_that_grows(text, names):
    assert rebound(text) == names


def moved(folder):
    """Return the changes that move a preset's folders below this one."""
    names = {"raw_dir": "raw", "image_dir": "raw/images", "work_dir": "work"}
    names |= {"report_dir": "reports", "checkpoint": "checkpoint", "curation": "curation.jsonl"}
    names |= {"tokenizer_file": "checkpoint/tokenizer.json"}
    return {name: str(folder / below) for name, below in names.items()}


@pytest.fixture(scope="module")
def smoke(root, tmp_path_factory):
    """Run every notebook with preset smoke, its folders moved aside; return those folders."""
    folder = tmp_path_factory.mktemp("smoke")
    changes = moved(folder)
    start, watched = folder / "ipython/profile_default/startup", folder / "watched"
    start.mkdir(parents=True)
    watched.mkdir()
    shutil.copy(root / "tests/no_bfloat16.py", start)
    variables = {"IPYTHONDIR": str(folder / "ipython"), "WATCHED_OPERATIONS": str(watched)}
    with study.environment(**variables):
        for notebook in study.notebooks(root):
            study.run_notebook(
                notebook, preset="smoke", changes=changes, reports=folder / "reports"
            )
    yield folder / "work", folder / "reports"
    shutil.rmtree(folder, ignore_errors=True)


def test_no_tensor_of_the_study_is_bfloat16_on_a_cpu(smoke):
    work, _ = smoke  # its kernels fail at the first one
    watched = [int(path.read_text()) for path in (work.parent / "watched").iterdir()]
    assert len(watched) == len(NOTEBOOKS)
    assert sum(count > 10_000 for count in watched) >= 4  # 00, 04, 05, 07 compute
    with pytest.raises(AssertionError, match="makes a bfloat16 tensor"), NoBfloat16():
        torch.ones(2).to(torch.bfloat16)


def test_the_smoke_run_leaves_notebooks_pages_tables_and_figures(smoke, root):
    _, reports = smoke
    for path in study.notebooks(root):
        assert (reports / path.name).is_file()
        assert (reports / f"{path.stem}.html").is_file()
    tables = {path.stem for path in (reports / "tables").glob("*.csv")}
    assert {"sources", "merge_drops", "overlap", "answer_lengths", "leaked_images"} <= tables
    assert {"sight", "training", "training_forms", "training_sets"} <= tables
    assert len(list((reports / "figures").glob("*.png"))) >= 8


def test_the_tables_keep_their_contract(smoke):
    _, reports = smoke
    sources = pd.read_csv(reports / "tables/sources.csv")
    columns = ["source", "images", "dialogs", "turns", "published_turns", "median_answer_words"]
    assert set(columns) <= set(sources.columns)
    drops = pd.read_csv(reports / "tables/merge_drops.csv")
    assert list(drops.columns) == ["source", "reason", "turns"]
    assert "kept" in set(drops.reason)


def test_the_losses_of_all_mixtures_stand_in_one_table(smoke):
    work, reports = smoke
    losses = pd.read_csv(reports / "tables/training.csv")
    columns = ["mixture", "seed", "step", "loss", "tokens", "seconds"]
    assert list(losses.columns) == columns and set(losses.mixture) == MIXTURES
    steps = losses.groupby("mixture").step.max()
    assert steps.nunique() == 1 and steps["merged"] > 1
    for name in MIXTURES:
        assert (work / "adapters" / f"{name}-0" / "adapter_model.safetensors").is_file()


def test_every_figure_of_a_page_has_an_alternative_text(smoke):
    _, reports = smoke
    for page in reports.glob("*.html"):
        images = re.findall(r"<(?:img|svg) [^>]*>", page.read_text())
        assert images or page.stem in ("index", "09_open_questions")
        assert all(re.search(r'(?:alt|aria-label)="[^"]+"', image) for image in images)


def test_merged_records_mix_sources_and_state_the_format_anew(smoke):
    work, _ = smoke
    records = json.loads((work / "merged/merged.json").read_text())
    assert sum(len(set(record["sources"])) > 3 for record in records) > len(records) / 2
    later = [m["value"] for r in records for m in r["conversations"][2::2]]
    assert sum(map(has_format_prompt, later)) > len(later) / 3


def test_pages_show_no_warnings_no_nan_and_no_table_without_rows(smoke, root):
    _, reports = smoke
    for path in study.notebooks(root):
        assert executed_outputs(reports / path.name).faults() == []


@pytest.mark.slow
def test_an_empty_raw_folder_is_shown_as_absent_and_then_stops_with_one_error(root, tmp_path):
    changes = moved(tmp_path) | {"mini_coco": None, "tiny_llava": None, "image_lists": []}
    changes |= {"evaluation_sets": [], "evaluation": {"models": []}}
    options = {"preset": "smoke", "changes": changes, "reports": tmp_path / "reports"}
    setup, analysis, *_ = study.notebooks(root)
    study.run_notebook(setup, **options)
    assert "0 of 21 sources can be read" in (tmp_path / "reports/00_setup.html").read_text()
    with pytest.raises(study.NotebookFailed, match=r"no turn tables in .*; run notebook 00_setup"):
        study.run_notebook(analysis, **options)


def test_scores_are_tidy_and_gates_do_not_look_at_multi_round(smoke):
    _, reports = smoke
    scores = pd.read_csv(reports / "tables/scores.csv")
    columns = ["benchmark", "model", "seed", "protocol", "metric", "value", "low", "high", "n"]
    assert list(scores.columns)[:10] == [*columns, "unscored"]
    assert set(scores.model) == {"base", *MIXTURES}
    assert {"single_round", "multi_round", "blank_picture"} <= set(scores.protocol)
    assert {"total", "overall", "collapse"} <= set(scores.metric)
    obeyed = scores[scores.metric == "obedience"]
    assert set(obeyed.protocol) == {"single_round", "multi_round", "after_long"}
    assert ((scores.low <= scores.value + 1e-6) & (scores.value <= scores.high + 1e-6)).mean() > 0.9
    gates = pd.read_csv(reports / "tables/gates.csv")
    assert gates.model.value_counts().to_dict() == {"base": 7, **dict.fromkeys(MIXTURES, 2)}
    assert not gates.gate.str.contains("collapse").any()


def test_lengths_and_ablations_keep_their_contract(smoke):
    _, reports = smoke
    lengths = pd.read_csv(reports / "tables/lengths.csv")
    columns = ["model", "seed", "protocol", "round", "n", "median_words", "collapse_rate"]
    assert list(lengths.columns)[:9] == [*columns, "low", "high"]
    assert set(lengths[lengths.protocol == "five_rounds"]["round"]) == {1, 2, 3, 4, 5}
    ablations = pd.read_csv(reports / "tables/ablations.csv")
    columns = ["ablation", "setting", "seed", "protocol", "metric", "value", "low", "high"]
    assert [name for name in ablations if name != "model"] == columns
    # The openings have a second table: where among long rounds the short one stands.
    assert set(ablations.ablation) == {*ABLATIONS, "positions"}
    probe = pd.read_csv(reports / "tables/probe.csv")
    assert set(probe.protocol) == {"single_round", "multi_round"}
    choice = pd.read_csv(reports / "tables/choice.csv")
    columns = ["model", "seed", "protocol", "question_id", "image", "words", "truth"]
    assert list(choice.columns) == [*columns, "colour", "place", "object"]
    assert set(choice.model) == {"base", *MIXTURES}
    asked = choice.groupby("protocol").question_id.nunique()
    assert asked.to_dict() == dict.fromkeys(("single_round", "multi_round", "other_picture"), 12)


def test_what_05_has_asked_of_a_model_07_does_not_ask_again(smoke):
    work, reports = smoke
    asked = {path.name for path in (work / "ablations/rollouts/mm_vet").glob("*.jsonl")}
    assert "first-mixed-0-single_round.jsonl" in asked
    of_05 = tuple(f"{name}-0-" for name in ("base", *MIXTURES))
    assert not [name for name in asked if name.startswith(of_05)]
    models = pd.read_csv(reports / "tables/ablations.csv").model
    assert {"base", "mix", "merged"} <= set(models)


def test_every_effect_that_an_answer_states_is_that_of_its_contrast_in_the_tables(smoke):
    _, reports = smoke
    tables, found = recomputed.Tables(reports), 0
    for name in ("05_multi_round_eval", "06_bias_analysis", "07_ablations", "09_open_questions"):
        text = recomputed.answers(reports / f"{name}.ipynb")
        assert recomputed.unknown_effects(text, tables) == [], name
        assert recomputed.misnamed_effects(text, tables) == [], name
        found += len(recomputed.EFFECT.findall(text))
    assert found > 20


def test_the_answer_of_06_holds_what_its_tables_say_of_every_model(smoke):
    _, reports = smoke
    text = recomputed.answers(reports / "06_bias_analysis.ipynb")
    expected = recomputed.bias_numbers(recomputed.Tables(reports))
    assert len(expected) == 4
    assert [part for parts in expected.values() for part in parts if part not in text] == []


def test_every_number_of_the_finding_in_the_index_and_in_09_is_one_of_the_tables(smoke, root):
    work, reports = smoke
    changes = moved(work.parent) | {"report_dir": str(reports)}
    write_index(study.Study(root, study.read_preset("smoke", changes)))
    tables, text = recomputed.Tables(reports), recomputed.index_text(reports / "index.html")
    assert recomputed.unknown_effects(text, tables) == []
    assert recomputed.unknown_levels(text, tables) == []
    plain = recomputed.answers(reports / "09_open_questions.ipynb").split("**Answer.**")[1]
    assert plain.count("After one short answer") == 2
    sentences = [line for line in plain.splitlines() if line.startswith("- ")]
    assert recomputed.unknown_levels("\n".join(sentences), tables) == []


def test_that_check_knows_a_number_that_no_table_has(tmp_path):
    (tmp_path / "tables").mkdir()
    rows = [("b", "total", "change of mix", seed, value, -9.5, -2.25)
            for seed, value in (("0", -7.0), ("1", 1.0), ("all", -5.04))]  # fmt: skip
    columns = ["benchmark", "metric", "contrast", "seed", "difference", "low", "high"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "tables/effects.csv", index=False)
    tables = recomputed.Tables(tmp_path)
    right = "lower score (-5.0 points [-9.5, -2.2], same sign on 1 of 2 seeds)"
    assert recomputed.unknown_effects(right, tables) == []
    for wrong in (right.replace("-5.0", "-5.1"), right.replace("1 of 2", "2 of 2")):
        assert len(recomputed.unknown_effects(wrong, tables)) == 1
    assert recomputed.misnamed_effects(f"- **change of LLaVA-style**: {right}.", tables) == []
    other = right.replace("score", "collapse")
    for wrong in (f"- **change of merged**: {right}.", f"- **change of LLaVA-style**: {other}."):
        assert len(recomputed.misnamed_effects(wrong, tables)) == 1


def shown_by(folder):
    """Return everything that an executed notebook 06 says, prints or lists."""
    cells = nbformat.read(folder / "06_bias_analysis.ipynb", as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    data = [text for output in outputs for text in output.get("data", {}).values()]
    return "\n".join(map(str, [*data, *(output.get("text", "") for output in outputs)]))


def test_answer_files_and_a_dataset_of_ones_own_stand_beside_a_benchmark(
    smoke, root, real, tmp_path
):
    work, _ = smoke
    lines = (real / "llava/coco2014_val_gpt4_qa_30x3.jsonl").read_text().splitlines()
    rows = [
        {"id": row["id"], "image": [row["image"]],
         "conversations": [{"from": "user", "value": f"<image>\n{row['instruction']}"},
                           {"from": "bot", "value": row["output"]}]}
        for row in map(json.loads, lines)
    ]  # fmt: skip
    odd = {"id": "odd", "conversations": [{"from": "human", "value": "Why?"}]}
    (tmp_path / "mine.json").write_text(json.dumps([*rows, odd]))
    answers = {"file": str(real / "llava_bench_wild/answers/llava-v1.5-13b.jsonl")}
    bias = {"answer_files": [answers], "datasets": {"mine": str(tmp_path / "mine.json")}}
    changes = moved(work.parent) | {"report_dir": str(tmp_path), "bias": {"probe": None, **bias}}
    notebook = root / "notebooks/06_bias_analysis.ipynb"
    study.run_notebook(notebook, preset="smoke", changes=changes, reports=tmp_path)
    lengths = pd.read_csv(tmp_path / "tables/lengths.csv")
    assert set(lengths.model) == {"base", *MIXTURES, "llava-v1.5-13b"}
    llava = lengths[(lengths.model == "llava-v1.5-13b") & (lengths.seed == "all")]
    assert llava.n.tolist() == [60]
    shown = shown_by(tmp_path)
    assert "mine.json: 1 of 46 conversations cannot be read, such as record 'odd'" in shown
    assert "mine: no answer follows a short one" in shown
    assert re.search(r"llava-v1.5-13b \d+ words, \d+ % collapsed", shown)


@pytest.mark.slow
def test_bias_without_any_answers_says_so(root, tmp_path):
    (tmp_path / "p.yaml").write_text("checkpoint: none\nbias: {datasets: {}}\n")
    changes = dict.fromkeys(("raw_dir", "work_dir", "report_dir"), str(tmp_path))
    notebook, preset = root / "notebooks/06_bias_analysis.ipynb", str(tmp_path / "p.yaml")
    study.run_notebook(notebook, preset=preset, changes=changes, reports=tmp_path)
    assert "There was nothing to compare." in shown_by(tmp_path)


@pytest.mark.slow
def test_bias_is_analysed_on_real_answer_files_alone(root, real, tmp_path):
    files = [
        {"file": "llava_bench_wild/answers/llava-v1.5-13b.jsonl"},
        {"model": "gpt-4", "file": "llava/qa90_gpt4_answer.jsonl", "format": "llava_bench",
         "questions": "llava/qa90_questions.jsonl"},
    ]  # fmt: skip
    (tmp_path / "p.yaml").write_text("checkpoint: none")
    changes = {"raw_dir": str(real), "work_dir": str(tmp_path), "report_dir": str(tmp_path),
               "bias": {"answer_files": files},
               "instances": ["coco_instances/instances_train2017.json"]}  # fmt: skip
    notebook, preset = root / "notebooks/06_bias_analysis.ipynb", str(tmp_path / "p.yaml")
    study.run_notebook(notebook, preset=preset, changes=changes, reports=tmp_path / "out")
    read = pd.read_csv(tmp_path / "tables/answers_read.csv").set_index("model")
    assert read.answers.to_dict() == {"llava-v1.5-13b": 60, "gpt-4": 42}
    lengths = pd.read_csv(tmp_path / "tables/lengths.csv").set_index(["model", "seed"])
    lines = (real / files[0]["file"]).read_text().splitlines()
    words = [len(json.loads(line)["text"].split()) for line in lines]
    found = lengths.loc[("llava-v1.5-13b", "all")]
    assert found.median_words == pd.Series(words).median()
    assert found.collapse_rate == pytest.approx(100 * sum(n <= 3 for n in words) / 60)
    shown = shown_by(tmp_path / "out")
    assert "gpt4_answer.jsonl" in shown
    assert re.search(r"llava-v1.5-13b \d+ words, \d+ % collapsed", shown)
    assert "merged/merged.parquet" in shown.split("not on disk: ")[1]


def test_an_endpoint_is_evaluated_and_judged_by_the_same_notebook(
    smoke, root, tmp_path, monkeypatch
):
    work, _ = smoke
    monkeypatch.setenv("LOOPBACK_KEY", "sk-not-to-be-seen")

    def reply(body, number):
        content = body["messages"][0]["content"]
        if isinstance(content, str):
            return "0.5"
        assert content[0]["image_url"]["url"].startswith("data:image/png;base64,")
        return "beach" if len(body["messages"]) == 1 else "The picture was taken at the beach."

    changes = moved(tmp_path) | {"raw_dir": str(work.parent / "raw"), "image_dir": "absent"}
    with serving(reply) as server:
        where = {"base_url": server.url, "model": "served", "key_variable": "LOOPBACK_KEY"}
        prompts = {"mm_vet": "data/judges/mm_vet.txt", "infimm_eval": "data/judges/infimm_eval.txt"}
        judge = {"kind": "openai", "prompts": prompts, "prices": [1.0, 1.0], "endpoint": where}
        changes["evaluation"] = {"models": [], "endpoints": [{"name": "served", **where}]}
        changes["evaluation"]["judge"] = judge
        notebook = root / "notebooks/05_multi_round_eval.ipynb"
        reports = tmp_path / "reports"
        study.run_notebook(notebook, preset="smoke", changes=changes, reports=reports)
    scores = pd.read_csv(tmp_path / "reports/tables/scores.csv")
    judged = scores[scores.benchmark != "held_out"]
    assert set(scores.model) == {"served"} and judged.judge.str.startswith("served, prompt ").all()
    total = scores[(scores.metric == "total") & (scores.seed == "all")].set_index("protocol")
    assert set(total.value) == {50.0} and {"single_round", "multi_round"} <= set(total.index)
    collapse = scores[(scores.metric == "collapse") & (scores.seed == "all")].set_index(
        ["benchmark", "protocol"]
    )
    assert collapse.value["mm_vet", "single_round"] == 100.0
    assert collapse.value["mm_vet", "multi_round"] == 0.0
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"sk-not-to-be-seen" not in path.read_bytes(), path
