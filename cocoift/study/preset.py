"""Presets: every setting of a run, typed, with its defaults.

The defaults are those of the real study (LLaVA-1.5 on upstream files).  A preset file states its
differences, from these defaults or from another preset that it `extends`.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from cocoift.core.files import DataError
from cocoift.core.parallel import Runner
from cocoift.core.schema import Settings
from cocoift.evaluation.ablations import GROUPS, Ablation
from cocoift.evaluation.answers import AnswerFile, LoggedAnswers
from cocoift.evaluation.benchmarks import BenchmarkFiles, GradedAnswers
from cocoift.evaluation.endpoint import NamedEndpoint
from cocoift.evaluation.judge_api import OpenAiJudge
from cocoift.evaluation.judges import ReferenceJudge
from cocoift.evaluation.protocols import AFTER, ALONE, ProtocolSettings
from cocoift.merge.layouts import MIXTURES, Mixture
from cocoift.merge.rules import Rules
from cocoift.mini.recipe import MiniCoco, Recipe
from cocoift.tuning.chat_formats import VICUNA_SYSTEM, FormatName
from cocoift.tuning.recipe import Assembly, TuningRecipe


class Evaluation(Settings, frozen=True):
    """Which models answer what, under which protocols, and who judges (notebooks 05 to 07).

    `models` are the local ones, `logged` those that another harness has asked.  `new_tokens` is
    the longest answer, `answer_batch` how many questions a local model answers at once (none: as
    many as the free memory holds, up to 64).  A larger
    share of answers without a score than `most_unscored` stops notebook 05.  `graded` are answers
    that the judge is compared on.  `resamples` are those of the bootstrap over images.
    """

    models: list[Literal["base", Mixture]] = []
    endpoints: list[NamedEndpoint] = []
    logged: list[LoggedAnswers] = []
    benchmarks: dict[str, BenchmarkFiles] = {}
    protocols: dict[str, ProtocolSettings] = {}
    judge: ReferenceJudge | OpenAiJudge = ReferenceJudge()
    graded: list[GradedAnswers] = []
    new_tokens: int = 512
    answer_batch: int | None = None
    most_unscored: float = 0.02
    resamples: int = 2_000

    def __post_init__(self) -> None:
        """Refuse models without the two protocols that every comparison rests on."""
        missing = {ALONE, AFTER} - self.protocols.keys()
        if missing and (self.models or self.endpoints or self.logged):
            raise ValueError(f"protocols lack {', '.join(sorted(missing))}")


class ProbeQuestions(Settings, frozen=True):
    """Questions in GQA's format with two answers each: a file and its images below `raw_dir`."""

    file: str
    images: str
    count: int = 1_000


class Bias(Settings, frozen=True):
    """What notebook 06 reads besides the rollouts; `datasets` are below `work_dir`."""

    datasets: dict[str, str] = msgspec.field(
        default_factory=lambda: {name: f"merged/{name}.parquet" for name in MIXTURES}
    )
    answer_files: list[AnswerFile] = []
    probe: ProbeQuestions | None = None
    synonyms: str = "data/coco_synonyms.txt"


class Ablations(Settings, frozen=True):
    """Which ablations notebook 07 runs; all but `openings` train adapters of their own.

    `doses` are shares of images laid out as in the baseline, `openings` rounds in order by kind.
    `groups` are the sources that the ablation `sources` leaves out together.
    """

    run: list[Ablation] = []
    doses: list[float] = msgspec.field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])
    image_counts: list[int] = []
    groups: dict[str, list[str]] = msgspec.field(default_factory=lambda: dict(GROUPS))
    openings: dict[str, list[str]] = {}
    gqa_questions: str = "gqa/train_balanced_questions.json"


class Preset(Settings, frozen=True):
    """One run of the study.  Paths start at the project root; files in lists, at `raw_dir`.

    `{name}` stands for the preset's name in every text, `{seed}` in `checkpoint` for each seed.
    `notebooks` are the numbers of those to run (none: all). `checkpoint` is a folder or a name on
    the model hub; notebook 00 builds it with `tiny_llava` or `assembly`, and draws the data with
    `mini_coco`. `mixtures` are those that notebook 04 tunes on. `image_lists` name the images that
    may train (none: any COCO image), `licences` the licences of their pictures (none: any; by
    COCO's number or name, or as `CC BY 2.0`), `evaluation_sets` the images that must not.
    `tokenizer_file` counts the tokens of the merge (`None`: they are estimated). `processes`
    trainings or models run at once, a thread each; a GPU holds one. `chat_checkpoints` are
    further checkpoints for notebook 08, by display name.
    """

    name: str
    checkpoint: str
    notebooks: list[str] = []
    catalogue: str = "data/sources.yaml"
    raw_dir: str = "data/raw"
    image_dir: str = "data/raw/images"
    work_dir: str = "data/{name}"
    report_dir: str = "reports/{name}"
    curation: str = "data/{name}/curation.jsonl"
    optional_sources: list[str] = []
    image_lists: list[str] = msgspec.field(
        default_factory=lambda: ["annotations/instances_train2017.json"]
    )
    licences: list[str] = []
    evaluation_sets: list[str] = msgspec.field(
        default_factory=lambda: ["evaluation/qa90_questions.jsonl"]
    )
    instances: list[str] = msgspec.field(
        default_factory=lambda: [
            "annotations/instances_train2017.json",
            "annotations/instances_val2017.json",
        ]
    )
    mix_file: str = "llava_mix/llava_v1_5_mix665k.json"
    tokenizer_file: str | None = None
    chat_format: FormatName = "vicuna_v1"
    system_prompt: str = VICUNA_SYSTEM
    seeds: list[int] = msgspec.field(default_factory=lambda: [0])
    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: int = 1
    runner: Runner = "native"
    mini_coco: MiniCoco | None = None
    tiny_llava: Recipe | None = None
    assembly: Assembly | None = None
    merge: Rules = Rules()
    held_out_images: int = 100
    train_images: int | None = None
    mixtures: list[Mixture] = msgspec.field(default_factory=lambda: list(MIXTURES))
    tuning: TuningRecipe = TuningRecipe()
    evaluation: Evaluation = Evaluation()
    bias: Bias = Bias()
    ablations: Ablations = Ablations()
    chat_checkpoints: dict[str, str] = {}

    def __post_init__(self) -> None:
        """Refuse models that notebook 04 does not tune."""
        untuned = set(self.evaluation.models) - {"base", *self.mixtures}
        if untuned:
            raise ValueError(f"evaluation.models has {', '.join(untuned)}; mixtures does not")


def project_root() -> Path:
    """Return the folder that holds `notebooks/presets`, from any folder below it.

    Raises `DataError` when there is none.
    """
    here = Path.cwd().resolve()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if (folder / "notebooks" / "presets").is_dir():
            return folder
    raise DataError("no folder `notebooks/presets` above this one; start in the project's folder")


def read_preset(preset: str | Path, changes: Mapping[str, Any] | str | None = None) -> Preset:
    """Read a preset, by its name in `notebooks/presets` or its path, with `changes` on top.

    A path may be a `run.json`, whose run it repeats.  `changes` is a mapping or, as `papermill -p`
    gives it, the YAML of one.  Raises `DataError` naming the file and the field for a preset that
    is absent, empty or no mapping, and for an unknown field, a wrong type or a missing value.
    """
    path = _path(preset)
    values = _extended(path, ())
    if isinstance(changes, str):
        changes = yaml.safe_load(changes)
    if not isinstance(changes, Mapping | None):
        raise DataError(f"changes are {changes!r}; give a mapping, e.g. {{'seeds': [0, 1]}}")
    values = {"name": path.stem, **_merged(values, changes or {})}
    try:
        plain = msgspec.convert(values, Preset)
        named = _replaced(msgspec.to_builtins(plain), "{name}", plain.name)
        return msgspec.convert(named, Preset)
    except msgspec.ValidationError as error:
        raise DataError(f"preset {path}: {error}{_hint(str(error))}") from error


def _path(preset: str | Path) -> Path:
    if not isinstance(preset, str | Path) or not str(preset):
        raise DataError(f"preset is {preset!r}; give a name in notebooks/presets, or a path")
    if str(preset).endswith((".yaml", ".json")):
        return project_root() / preset if not Path(preset).is_file() else Path(preset)
    return project_root() / f"notebooks/presets/{preset}.yaml"


def _extended(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    """Return what a preset file says, on top of what the one that it extends says."""
    if path in below:
        raise DataError(f"preset {path}: extends itself; {' -> '.join(p.stem for p in below)}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        values = values["parameters"] if path.suffix == ".json" else values
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise DataError(f"preset {path}: {error}; presets there: {known}") from error
    if not isinstance(values, dict) or not values:
        what = "no mapping" if values else "empty"
        raise DataError(f"preset {path} is {what}; write `extends: mini` and your changes")
    base = values.pop("extends", None)
    if base is None:
        return values
    beside = path.with_name(f"{base}.yaml")
    return _merged(_extended(beside if beside.is_file() else _path(base), (*below, path)), values)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes`: mappings of one kind are merged, all else is replaced."""
    merged = dict(base)
    for name, value in changes.items():
        present = merged.get(name)
        if isinstance(value, Mapping) and isinstance(present, Mapping):
            same_kind = value.get("kind", present.get("kind")) == present.get("kind")
            value = _merged(present if same_kind else {}, value)
        merged[name] = value
    return merged


def _replaced(value: Any, mark: str, text: str) -> Any:
    """Return a JSON-like value with a mark replaced in every text."""
    if isinstance(value, dict):
        return {key: _replaced(one, mark, text) for key, one in value.items()}
    if isinstance(value, list):
        return [_replaced(one, mark, text) for one in value]
    return value.replace(mark, text) if isinstance(value, str) else value


def _hint(error: str) -> str:
    """Return which known field an unknown one was probably meant to be."""
    found = re.search(r"unknown field `([^`]*)`", error)
    fields = {name for kind in _kinds(Preset) for name in kind.__struct_fields__}
    close = difflib.get_close_matches(found[1], sorted(fields), n=1) if found else []
    return f"; did you mean `{close[0]}`?" if close else ""


def _kinds(kind: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """Return a struct and those of its fields that are structs with defaults of their own."""
    inner = [type(one) for one in kind.__struct_defaults__ if isinstance(one, msgspec.Struct)]
    return [kind, *(found for one in inner for found in _kinds(one))]
