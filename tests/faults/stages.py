"""What the fault run kills: one stage of the study, started as `python stages.py STAGE FOLDER ...`.

Every stage reads what `prepare` left in FOLDER, writes below FOLDER/out, and starts where an
earlier attempt was stopped.
"""

import sys
from pathlib import Path

QUESTIONS = 60


def merge(folder):
    """Merge the turn tables in many parts and export both mixtures."""
    from cocoift.merge.export import export_mixture
    from cocoift.merge.layouts import MERGED, MIX
    from cocoift.merge.partitioned import MergeInputs, merge_tables
    from cocoift.merge.rules import Rules

    tables, out = sorted((folder / "turns").glob("*.parquet")), folder / "out"
    merge_tables(
        tables, out=out / "turns.parquet", inputs=MergeInputs(rules=Rules()), part_turns=500
    )
    for name, layout in (("merged", MERGED), ("mix", MIX)):
        export_mixture(out / "turns.parquet", out, name=name, layout=layout, budget=500,
                       image_dir="train2017")  # fmt: skip


def train(folder):
    """Train one adapter of thirty steps, saving every third."""
    from cocoift.tuning.data import split_images
    from cocoift.tuning.recipe import Training, TuningRecipe
    from cocoift.tuning.train import train
    from minicoco import CHAT

    mixture = folder / "mixture"
    recipe = TuningRecipe(rank=4, alpha=8, learning_rate=5e-3, batch_tokens=600, workers=0,
                          gradient_checkpointing=False, save_steps=3)  # fmt: skip
    train(Training(
        mixture=mixture / "merged.json", image_root=mixture, recipe=recipe, steps=30, seed=0,
        images=split_images(mixture / "merged.json", held_out=10).train, chat=CHAT,
        checkpoint=str(folder / "checkpoint"), adapter=folder / "out" / "merged-0",
        image_tokens=16, context_tokens=512, device="cpu", forms={"vqav2": "phrase"},
    ))  # fmt: skip


def questions(folder):
    from cocoift.evaluation.benchmarks import Question

    names = sorted(p.name for p in (folder / "mixture/train2017").iterdir())
    return [
        Question(id=f"q{n}", images=(names[n % len(names)],), text=f"What is {n}?", answer="a cat")
        for n in range(QUESTIONS)
    ]


def rollout(folder):
    """Prompt a model every question after one opening round."""
    from cocoift.evaluation.candidates import LocalModel
    from cocoift.evaluation.protocols import Protocol
    from cocoift.evaluation.rollout import Head, roll_out
    from cocoift.tuning.model import load_model, load_processor
    from minicoco import CHAT

    path = folder / "checkpoint"
    model, processor = load_model(path, four_bit=False), load_processor(path)
    roll_out(
        questions(folder), Protocol(name="multi", opening=("Where is it?",)),
        LocalModel(model=model, processor=processor, chat=CHAT, new_tokens=12, batch=4).answer,
        file=folder / "out" / "rollout.jsonl", head=Head("k", "m", "multi"), chunk=6,
        image_root=folder / "mixture/train2017",
    )  # fmt: skip


def judge(folder, url):
    """Have every answer judged by the server at `url`."""
    from cocoift.evaluation.endpoint import Endpoint
    from cocoift.evaluation.endpoint_judge import EndpointJudge, OpenAiJudge

    where = Endpoint(base_url=url, model="m", concurrency=4, retries=1, timeout=5.0)
    (folder / "prompt.txt").write_text("{question}")
    settings = OpenAiJudge(endpoint=where, prompts={"mm_vet": "prompt.txt"}, attempts=1)
    asked = questions(folder)
    judge = EndpointJudge(settings, root=folder, cache=folder / "out/judge.sqlite")
    found = judge.verdicts("mm_vet", asked, ["a"] * len(asked), "single_round")
    print(sum(verdict.score is None for (verdict,) in found), "unscored")


def curate(folder):
    """Take decision after decision, saying the number of each when it is confirmed."""
    from cocoift.merge.curation import Decision, append_decisions, read_decisions

    path = folder / "out" / "curation.jsonl"
    for image in range(1, 1001):
        if image not in read_decisions(path):
            decision = Decision(image_id=image, source="s", dialog_id="d", round=0, decision="flag")
            append_decisions(path, [decision])
            print(image, flush=True)


def notebook(folder):
    """Execute the merge notebook."""

    from cocoift.study import run_notebook

    root = Path(__file__).resolve().parents[2]
    run_notebook(root / "notebooks/02_merge.ipynb", preset=str(folder / "preset.yaml"),
                 reports=folder / "out" / "reports")  # fmt: skip


if __name__ == "__main__":
    stage, place, *more = sys.argv[1:]
    globals()[stage](Path(place), *more)
