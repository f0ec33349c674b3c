"""Load the exported tasks with lmms-eval and VLMEvalKit themselves; let scripted models answer.

    python3 -m venv data/bench/lmms && data/bench/lmms/bin/pip install lmms-eval "filelock<4"
    .venv/bin/python -m cocoift tasks mini data/bench/tasks
    data/bench/lmms/bin/python tests/bench/harnesses.py data/bench/tasks data/bench/logs

Both have versions of torch and transformers of their own, hence the environment.  VLMEvalKit is not
on PyPI; its part runs where a clone of it is on PYTHONPATH.  The logs go into a preset:
`evaluation.logged: [{name: terse, benchmark: mm_vet, protocol: multi_round, file: ...}]`.
"""

import importlib.util
import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.loggers import EvaluationTracker
from lmms_eval.tasks import TaskManager

LONG = "There is a yellow cup at the top right and a red book at the bottom left."


class Scripted(lmms):
    """A model that says a word where a short answer is asked for, else a sentence.

    A terse one goes on with a word after a word.
    """

    is_simple = False

    def __init__(self, *, terse):
        super().__init__()
        self.terse = terse

    def reply(self, chat):
        texts = [part["text"] for turn in chat for part in turn["content"] if "text" in part]
        assert chat[0]["content"][0]["type"] == "image"
        short = "short phrase" in texts[-1] or (self.terse and "park" in texts)
        return "park" if short else LONG

    def generate_until(self, requests):
        rows = []
        for request in requests:
            _, messages, _, number, task, split = request.args
            rows.append(self.reply(messages(self.task_dict[task][split][number])))
        return rows

    def generate_until_multi_round(self, requests):
        """The loop of `lmms_eval/models/chat/vllm.py`."""
        rows = []
        for request in requests:
            _, messages, _, number, task, split = request.args
            doc, replies, info = self.task_dict[task][split][number], [], None
            chat, over = messages(doc), False
            while not over:
                replies.append(self.reply(chat))
                chat, over, _, info = messages(doc, round_idx=len(replies), previous_output=replies,
                                               previous_round_info=info)  # fmt: skip
            rows.append(replies)
        return rows

    def loglikelihood(self, requests):
        raise NotImplementedError


def with_lmms_eval(folder, out):
    names = sorted(path.stem for path in folder.glob("cocoift_*_*_*.yaml"))
    print(f"lmms-eval {version('lmms_eval')}")
    for name, terse in (("terse", True), ("open", False)):
        manager = TaskManager(include_path=str(folder), model_name="chat")
        found = simple_evaluate(model=Scripted(terse=terse), tasks=names, task_manager=manager,
                                batch_size=1, log_samples=True, bootstrap_iters=0)  # fmt: skip
        tracker = EvaluationTracker(output_path=str(out))
        tracker.general_config_tracker.model_name_sanitized = name
        tracker.date_id = "run"  # which the command line sets
        for task, rows in found["samples"].items():
            metrics = found["results"][task]
            print(f"{name:6} {task:36} {len(rows):4} rows, words {metrics['words,none']:.1f}, "
                  f"collapsed {metrics['collapse,none']:.0%}")  # fmt: skip
            tracker.save_results_samples(task_name=task, samples=rows)


class Talker:
    """The terse model as VLMEvalKit calls one."""

    def chat(self, turns, dataset=None):
        earlier = [turn["content"] for turn in turns if turn["role"] == "assistant"]
        short = "short phrase" in turns[-1]["content"][-1]["value"]
        return "park" if short or "park" in earlier else LONG


def with_vlmevalkit(folder, out):
    os.environ["LMUData"] = str(out)  # noqa: SIM112
    from vlmeval.dataset import MMDUDataset, build_dataset
    from vlmeval.inference_mt import chat_mt
    from vlmeval.smp import dump

    for path in sorted(folder.glob("*.tsv")):
        shutil.copy(path, out)
        if "<ImageHere>" in path.read_text():
            MMDUDataset.DATASET_URL[path.stem] = ""
        rows = build_dataset(path.stem)
        asked = [rows.build_prompt(number) for number in range(len(rows))]
        several = rows.TYPE == "MT"
        answers = [chat_mt(Talker(), chat, path.stem) if several else LONG for chat in asked]
        dump(rows.data.drop(columns="image").assign(prediction=answers), f"{out}/terse_{path.name}")
        print(f"VLMEvalKit, {type(rows).__name__}: {path.stem}, {len(rows)} rows")


def main(tasks, out):
    tasks, out = Path(tasks), Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with_lmms_eval(tasks / "lmms_eval", out)
    if importlib.util.find_spec("vlmeval"):
        with_vlmevalkit(tasks / "vlmevalkit", out)


if __name__ == "__main__":
    main(*sys.argv[1:])
