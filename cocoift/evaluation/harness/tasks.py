"""Write a benchmark under several protocols as tasks of lmms-eval and of VLMEvalKit."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from cocoift.core.files import DataError, inside, refuse_filled, replacing_folder, write_text
from cocoift.core.images import bad_images, open_image, side_by_side
from cocoift.evaluation.benchmarks import Benchmark, Question
from cocoift.evaluation.protocols import Protocol
from cocoift.merge.formats import IMAGE, for_datasets

_SCHEMA = for_datasets(
    pa.schema(
        [
            ("question_id", pa.string()),
            ("images", pa.list_(IMAGE)),
            ("opening", pa.list_(pa.string())),
            ("replies", pa.list_(pa.string())),
            ("question", pa.string()),
            ("answer", pa.string()),
            ("closed", pa.bool_()),
        ]
    )
)


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """A benchmark and the protocols under which other harnesses are to ask it."""

    benchmark: Benchmark
    protocols: Sequence[Protocol]
    new_tokens: int = 512

    def name(self, protocol: Protocol) -> str:
        """Return the name of a protocol's task."""
        return f"cocoift_{self.benchmark.name}_{protocol.name}"


def write_tasks(tasks: Tasks, out: Path) -> Path:
    """Write `out/lmms_eval` and `out/vlmevalkit`; return `out`.

    Raises `DataError` for a protocol that shows another image or gives the replies of some rounds
    only, for an image that cannot be
    opened, and for a folder that holds something already; nothing is written then.
    """
    refuse_filled(out)
    for protocol in tasks.protocols:
        if protocol.picture != "own":
            raise DataError(f"protocol {protocol.name} shows another image; leave it out")
        if None in protocol.replies or (protocol.replies and tasks.benchmark.of_dialogs):
            raise DataError(
                f"protocol {protocol.name} gives the replies of some rounds only, which no harness "
                "can ask; leave it out"
            )
    names = [name for question in tasks.benchmark.questions for name in question.images]
    for bad in bad_images(names, tasks.benchmark.images):
        raise DataError(f"benchmark {tasks.benchmark.name}: {bad.reason}")
    with replacing_folder(out) as unfinished:
        _write_lmms_eval(tasks, unfinished / "lmms_eval", data=out.resolve() / "lmms_eval/data")
        _write_vlmevalkit(tasks, unfinished / "vlmevalkit")
    return out


def _write_lmms_eval(tasks: Tasks, folder: Path, *, data: Path) -> None:
    """Write a task per protocol and a group of all; `data` is where their rows will be.

    Format: `docs/task_guide.md` of EvolvingLMMs-Lab/lmms-eval.
    """
    (folder / "data").mkdir(parents=True)
    for protocol in tasks.protocols:
        name = tasks.name(protocol)
        rows = [_row(tasks, protocol, question) for question in tasks.benchmark.questions]
        table = pa.Table.from_pylist(rows, schema=_SCHEMA)
        pq.write_table(table, folder / f"data/{protocol.name}.parquet")
        write_text(folder / f"{name}.yaml", _task_yaml(tasks, protocol, data))
    group = {
        "group": f"cocoift_{tasks.benchmark.name}",
        "task": [*map(tasks.name, tasks.protocols)],
    }
    write_text(folder / f"cocoift_{tasks.benchmark.name}.yaml", yaml.safe_dump(group))
    source = files("cocoift.evaluation.harness").joinpath("lmms_eval_task.py")
    write_text(folder / "utils.py", source.read_text(encoding="utf-8"))


def _task_yaml(tasks: Tasks, protocol: Protocol, data: Path) -> str:
    own_replies = not protocol.replies and any(
        protocol.before(question) for question in tasks.benchmark.questions
    )
    task = {
        "task": tasks.name(protocol),
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": str(data / f"{protocol.name}.parquet")}},
        "test_split": "test",
        "output_type": "generate_until_multi_round" if own_replies else "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": {"max_new_tokens": tasks.new_tokens, "temperature": 0,
                              "do_sample": False},
        "metadata": [{"version": 1.0}],
    }  # fmt: skip
    functions = ("doc_to_visual", "doc_to_text", "doc_to_messages", "process_results")
    lines = [f"{name}: !function utils.{name}" for name in functions]
    lines.append("metric_list:")
    for metric, function, better in (("words", "mean_words", "true"),
                                     ("collapse", "share_collapsed", "false")):  # fmt: skip
        lines += [f"- metric: {metric}", f"  aggregation: !function utils.{function}",
                  f"  higher_is_better: {better}"]  # fmt: skip
    return yaml.safe_dump(task, sort_keys=False) + "\n".join(lines) + "\n"


def _row(tasks: Tasks, protocol: Protocol, question: Question) -> dict[str, Any]:
    return {
        "question_id": question.id,
        "images": [
            {"bytes": inside(tasks.benchmark.images, name).read_bytes(), "path": name}
            for name in question.images
        ],
        "opening": list(protocol.before(question)),
        "replies": [protocol.given(n, question.images[0]) for n in range(len(protocol.replies))],
        "question": protocol.asks(question),
        "answer": question.answer,
        "closed": question.is_closed,
    }


def _write_vlmevalkit(tasks: Tasks, folder: Path) -> None:
    """Write a TSV per protocol: single rounds as its custom VQA sets, several as its MMDU.

    Formats: `docs/en/Development.md` and `vlmeval/dataset/image_mt.py` of
    open-compass/VLMEvalKit.  There a model answers every opening round itself, so protocols with
    replies of a reference are left out.
    """
    folder.mkdir(parents=True)
    for protocol in tasks.protocols:
        if not protocol.replies:
            rows = pd.DataFrame(_tsv_rows(tasks, protocol))
            rows.to_csv(folder / f"{tasks.name(protocol)}.tsv", sep="\t", index=False)


def _tsv_rows(tasks: Tasks, protocol: Protocol) -> Iterator[dict[str, str]]:
    for question in tasks.benchmark.questions:
        opened = [open_image(inside(tasks.benchmark.images, name)) for name in question.images]
        buffer = io.BytesIO()
        side_by_side(opened).save(buffer, "png")
        asked, answers = protocol.asks(question), question.answer
        if before := protocol.before(question):
            texts = [*before, asked]
            asked = repr([f"<ImageHere>{texts[0]}", *texts[1:]])
            answers = repr([*("" for _ in before), question.answer])
        yield {
            "index": question.id,
            "image": base64.b64encode(buffer.getvalue()).decode(),
            "question": asked,
            "answer": answers,
        }
