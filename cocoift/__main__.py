"""The command line: `cocoift COMMAND`, or `python -m cocoift COMMAND`."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from cocoift import __version__
from cocoift.core.files import DataError
from cocoift.lint import command as lint
from cocoift.merge.layouts import MIXTURES
from cocoift.tuning.chat import VICUNA_SYSTEM, ChatFormat, FormatName

Run = Callable[[argparse.Namespace], None]
# What a shell expects of a program that Ctrl-C ended: 128 and the signal's number.
INTERRUPTED = 128 + signal.SIGINT
PRESET = "a name in notebooks/presets, or a path to a YAML file or a run.json"


def main(arguments: list[str] | None = None) -> None:
    """Run one command; a `DataError` or Ctrl-C ends it with one line."""
    chosen = _parser().parse_args(arguments)
    try:
        chosen.run(chosen)
    except (OSError, DataError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # no traceback if it is pressed again
        print("\ninterrupted; the same command goes on from what is done", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cocoift", description="The study, step by step.")
    parser.add_argument("--version", action="version", version=f"cocoift {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Run, text: str, example: str) -> argparse.ArgumentParser:
        epilog = f"e.g. cocoift {name} {example}"
        added = commands.add_parser(name, help=text, description=text, epilog=epilog)
        added.set_defaults(run=run)
        return added

    study = command("study", _study, "run the notebooks that need it, in order", "mini")
    study.add_argument("preset", nargs="?", default="mini", help=PRESET)
    text = "on top of the preset, e.g. '{name: trial, seeds: [0, 1]}'; a new name, new folders"
    study.add_argument("--changes", metavar="YAML", default="{}", help=text)
    lint.add_commands(command)
    text = "probe a model behind a server: does one short answer make it terse?"
    example = "--base-url http://localhost:8000/v1 --model my-llava"
    _add_server(command("probe-server", _probe_server, text, example))
    _add_server(commands.add_parser("test")).set_defaults(run=_test)  # without help: unlisted
    text = "fetch sources, or list what is there"
    download = command("download", _download, text, "vqav2 coco_captions")
    download.add_argument("sources", nargs="*", help="names in the catalogue")
    download.add_argument("--list", action="store_true", help="list them; the same without a name")
    text = "folder of the raw files; the project's data/raw"
    download.add_argument("--raw", type=Path, help=text)
    download.add_argument("--catalogue", type=Path, help="the project's data/sources.yaml")
    text = "train one adapter, on one device or under `accelerate launch`"
    _add_adapter(command("train", _train, text, "llava-1.5-7b --mixture merged"))
    _add_writers(command)
    return parser


def _add_writers(command: Callable[[str, Run, str, str], argparse.ArgumentParser]) -> None:
    """Add the commands that write a folder for other programs."""
    text = "merge an adapter into its base: a checkpoint for vLLM and transformers"
    export = command("export", _export, text, "llava-1.5-7b data/served/merged --mixture merged")
    _add_adapter(export)
    _add_checkpoint(export)
    text = "write mixtures as a dataset folder for the hub: Parquet, configs and a card"
    dataset = command("dataset", _dataset, text, "mini data/hub --images")
    dataset.add_argument("preset", help=PRESET)
    dataset.add_argument("out", type=Path, help="folder for the dataset, new or empty")
    dataset.add_argument("--mixtures", nargs="+", choices=MIXTURES, default=["merged"])
    dataset.add_argument("--images", action="store_true", help="put the images into the files")
    dataset.add_argument("--pictures", dest="images", action="store_true", help=argparse.SUPPRESS)
    text = "write a benchmark and its protocols as tasks of lmms-eval and VLMEvalKit"
    tasks = command("tasks", _tasks, text, "mini data/tasks")
    tasks.add_argument("preset", help=PRESET)
    tasks.add_argument("out", type=Path, help="folder for the tasks, new or empty")
    tasks.add_argument("--benchmark", default="mm_vet", help="a name in the preset")
    names = ["single_round", "multi_round"]
    tasks.add_argument("--protocols", nargs="+", default=names, help="names in the preset")
    text = "build a base LLaVA from a language model, a vision tower and a stage-1 projector"
    example = "data/base-7b vicuna-7b clip-vit-large mm_projector.safetensors"
    assembly = command("assemble", _assemble, text, example)
    _add_checkpoint(assembly)
    assembly.add_argument("language", help="folder, or name on the hub, of the language model")
    assembly.add_argument("vision", help="folder, or name on the hub, of the vision tower")
    text = "mm_projector as safetensors; without it, one drawn at random"
    assembly.add_argument("projector", type=Path, nargs="?", help=text)
    text = "how it is asked"
    formats = get_args(FormatName)
    assembly.add_argument("--chat-format", choices=formats, default="vicuna_v1", help=text)
    text = "none by default, but in vicuna_v1 LLaVA-1.5's"
    assembly.add_argument("--system-prompt", help=text)


def _add_server(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    text = "of an OpenAI-compatible server, with /v1"
    command.add_argument("--base-url", required=True, help=text)
    command.add_argument("--model", required=True, help="its name on that server")
    name, text = "OPENAI_API_KEY", "environment variable that holds the key (any word, if none)"
    command.add_argument("--api-key-env", default=name, metavar="NAME", help=f"{text}; {name}")
    command.add_argument("--key-variable", dest="api_key_env", default=argparse.SUPPRESS,
                         help=argparse.SUPPRESS)  # fmt: skip
    command.add_argument("--concurrency", type=int, default=8, help="requests at a time; 8")
    command.add_argument("--timeout", type=float, default=120.0, help="seconds for one reply; 120")
    command.add_argument("--fresh", action="store_true", help="ask again what was answered before")
    return command


def _add_checkpoint(command: argparse.ArgumentParser) -> None:
    text = "folder for the checkpoint: new, or an earlier one"
    command.add_argument("out", type=Path, help=text)
    text = "replace a folder that holds other files"
    command.add_argument("--force", action="store_true", help=text)


def _add_adapter(command: argparse.ArgumentParser) -> None:
    command.add_argument("preset", help=PRESET)
    command.add_argument("--mixture", choices=MIXTURES, default="merged", help="what it trains on")
    command.add_argument("--seed", type=int, default=0)


def _study(chosen: argparse.Namespace) -> None:
    from doit.doit_cmd import DoitMain

    from cocoift.study import project_root, read_preset

    root, preset = project_root(), chosen.preset
    read_preset(preset, chosen.changes)
    if Path(preset).is_file():  # doit and the notebooks start in other folders
        preset = os.path.relpath(preset, root)
    os.chdir(root)
    sys.exit(DoitMain().run([f"preset={preset}", f"changes={chosen.changes}"]))


def _probe_server(chosen: argparse.Namespace) -> None:
    os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is loaded: one line tells of all questions
    from cocoift.core.progress import Progress
    from cocoift.evaluation.endpoint import Endpoint
    from cocoift.evaluation.server_check import check_server

    try:
        endpoint = Endpoint(
            base_url=chosen.base_url,
            model=chosen.model,
            key_variable=chosen.api_key_env,
            concurrency=chosen.concurrency,
            timeout=chosen.timeout,
        )
    except ValueError as error:
        raise DataError(f"--{error}".replace("base_url", "base-url")) from None
    # Before the study is loaded, which takes seconds.
    with Progress("first questions answered", 1):
        check_server(endpoint)
    from cocoift.study import NotebookFailed, served, served_report

    try:
        study = served.measure_served(served.served_changes(endpoint), fresh=chosen.fresh)
    except NotebookFailed as error:
        sys.exit(str(error))
    print(served_report.results(study))


def _test(chosen: argparse.Namespace) -> None:
    note = "`cocoift test` is now `cocoift probe-server`; the old name goes with the next version"
    print(note, file=sys.stderr)
    _probe_server(chosen)


def _download(chosen: argparse.Namespace) -> None:
    from cocoift.sources.download import fetch, listing
    from cocoift.study import project_root

    raw = chosen.raw or project_root() / "data/raw"
    catalogue = chosen.catalogue or project_root() / "data/sources.yaml"
    if chosen.list and chosen.sources:
        raise DataError("--list fetches nothing; leave the names out, or --list")
    found = fetch(chosen.sources, raw=raw, catalogue=catalogue)
    print(f"in {raw}:\n{listing(found)}")


def _train(chosen: argparse.Namespace) -> None:
    from cocoift.study import open_study
    from cocoift.tuning.train import train

    print(train(open_study(chosen.preset).training(chosen.mixture, chosen.seed)))


def _export(chosen: argparse.Namespace) -> None:
    from cocoift.study import open_study
    from cocoift.tuning.checkpoints import export, refuse_foreign

    if not chosen.force:
        refuse_foreign(chosen.out)
    study = open_study(chosen.preset)
    adapter = study.adapter(chosen.mixture, chosen.seed)
    print(export(adapter, chosen.out, checkpoint=study.base(chosen.seed), chat=study.chat))


def _dataset(chosen: argparse.Namespace) -> None:
    from cocoift.merge.hub import HubDataset, write_hub_dataset
    from cocoift.study import open_study

    study = open_study(chosen.preset)
    root = study.images if chosen.images else None
    dataset = HubDataset(merged=study.merged, mixtures=chosen.mixtures, image_root=root)
    print(write_hub_dataset(dataset, chosen.out).summary())
    print(f"publish it with: hf upload --repo-type dataset NAME {chosen.out}")


def _tasks(chosen: argparse.Namespace) -> None:
    from cocoift.evaluation.harness.tasks import write_tasks
    from cocoift.study import asking, open_study, steps

    study = open_study(chosen.preset)
    steps.draw_benchmarks(study)
    tasks = asking.harness_tasks(study, chosen.benchmark, chosen.protocols)
    print(write_tasks(tasks, chosen.out))


def _assemble(chosen: argparse.Namespace) -> None:
    from cocoift.tuning.assembly import Parts, assemble
    from cocoift.tuning.checkpoints import refuse_foreign

    if not chosen.force:
        refuse_foreign(chosen.out)
    default = VICUNA_SYSTEM if chosen.chat_format == "vicuna_v1" else ""
    system = default if chosen.system_prompt is None else chosen.system_prompt
    parts = Parts(language=chosen.language, vision=chosen.vision, projector=chosen.projector)
    print(assemble(chosen.out, parts, chat=ChatFormat(chosen.chat_format, system)))


if __name__ == "__main__":
    main()
