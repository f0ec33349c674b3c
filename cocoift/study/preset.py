"""Presets: every setting of a run, typed, with its defaults.

The defaults are those of the real study (LLaVA-1.5 on upstream files).  A preset file states its
differences, from these defaults or from another preset that it `extends` (a name, or a path from
its own folder); null removes an inherited value.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from cocoift.core.parallel import Runner
from cocoift.core.schema import Count, Settings
from cocoift.evaluation.ablations import GROUPS, Ablation
from cocoift.evaluation.answers import AnswerFile, LoggedAnswers
from cocoift.evaluation.benchmarks import BenchmarkFiles, GradedAnswers
from cocoift.evaluation.choice import RESERVED
from cocoift.evaluation.endpoint import NamedEndpoint
from cocoift.evaluation.endpoint_judge import OpenAiJudge
from cocoift.evaluation.protocols import AFTER, ALONE, Factorial, ProtocolSettings
from cocoift.evaluation.reference_judge import ReferenceJudge
from cocoift.merge.layouts import MIXTURES, Mixture
from cocoift.merge.rules import Rules
from cocoift.tuning.chat import VICUNA_SYSTEM, FormatName
from cocoift.tuning.recipe import Assembly, TuningRecipe
from minicoco import MiniCoco, Recipe

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Evaluation(Settings, frozen=True):
    """Which models answer what, under which protocols, and who judges (notebooks 05 to 07).

    `models` are the local ones, `logged` those that another harness has asked.  `new_tokens` is
    the longest answer, `answer_batch` how many questions a local model answers at once (none: as
    many as the free memory holds, up to 64).  `openings` and `factorial` are further protocols for
    the first benchmark: one short round each, and rounds that cross what a history can differ in.
    A larger
    share of answers without a score than `most_unscored` stops notebook 05.  `graded` are answers
    that the judge is compared on.  `resamples` are those of the bootstrap over images.
    """

    models: list[Literal["base", Mixture]] = []
    endpoints: list[NamedEndpoint] = []
    logged: list[LoggedAnswers] = []
    benchmarks: dict[str, BenchmarkFiles] = {}
    protocols: dict[str, ProtocolSettings] = {}
    openings: list[str] = []
    factorial: Factorial | None = None
    judge: ReferenceJudge | OpenAiJudge = ReferenceJudge()
    graded: list[GradedAnswers] = []
    new_tokens: Count = 512
    answer_batch: Count | None = None
    most_unscored: Share = 0.02
    resamples: Count = 2_000

    def __post_init__(self) -> None:
        """Refuse models without the two protocols that every comparison rests on."""
        missing = {ALONE, AFTER} - self.protocols.keys()
        if missing and (self.models or self.endpoints or self.logged):
            raise ValueError(f"protocols lack {', '.join(sorted(missing))}")


class ProbeQuestions(Settings, frozen=True):
    """Questions in GQA's format with two answers each: a file and its images below `raw_dir`."""

    file: str
    images: str
    count: Count = 1_000


class ChoiceFiles(Settings, frozen=True):
    """True sentences, each with false ones, in SugarCrepe's format: below `raw_dir`.

    `foils` are files by what the false sentence exchanges; a sentence with a foil in each of them
    is an item.  `question` is asked where a file states none.
    """

    foils: dict[str, str]
    images: str
    question: str = "What do you see in this picture?"
    count: Count = 1_000

    def __post_init__(self) -> None:
        """Refuse no foils, and kinds that are called as a column of the tables."""
        if not self.foils:
            raise ValueError("foils names no file; name one for each kind")
        if taken := self.foils.keys() & set(RESERVED):
            raise ValueError(f"foils has {', '.join(taken)}; call that kind otherwise")


class Bias(Settings, frozen=True):
    """What notebook 06 reads besides the rollouts; `datasets` are below `work_dir`.

    `synonyms` names COCO's categories; what `captions` mention is in the image, as its instances
    are.
    """

    datasets: dict[str, str] = msgspec.field(
        default_factory=lambda: {name: f"merged/{name}.parquet" for name in MIXTURES}
    )
    answer_files: list[AnswerFile] = []
    probe: ProbeQuestions | None = None
    choice: ChoiceFiles | None = None
    synonyms: str = "data/coco_synonyms.txt"
    captions: list[str] = msgspec.field(
        default_factory=lambda: [
            "annotations/captions_train2017.json",
            "annotations/captions_val2017.json",
        ]
    )


class Ablations(Settings, frozen=True):
    """Which ablations notebook 07 runs; all but `openings` train adapters of their own.

    `seeds` are those of the ablations that the headline does not rest on (none: all of the
    preset's); `factors` and `layouts` run on all.  `doses` are shares of images laid out in
    LLaVA's style, `openings` rounds in order by kind.  `groups` are the sources that the ablation
    `sources` leaves out together.
    """

    run: list[Ablation] = []
    seeds: list[int] = []
    doses: Annotated[list[Share], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0]
    )
    image_counts: list[Count] = []
    groups: dict[str, list[str]] = msgspec.field(default_factory=lambda: dict(GROUPS))
    openings: dict[str, list[str]] = {}
    gqa_questions: str = "gqa/train_balanced_questions.json"


class Preset(Settings, frozen=True):
    """One run of the study.  Paths start at the project root; files in lists, at `raw_dir`.

    `{name}` stands for the preset's name in every text, `{seed}` in `checkpoint` for each seed.
    `notebooks` are the numbers of those to run (none: all). `checkpoint` is a folder or a name on
    the model hub; notebook 00 builds it with `tiny_llava` or `assembly`, and draws the data with
    `mini_coco`. `mixtures` are those that notebook 04 tunes on. `image_lists` name the images that
    may train (none: any COCO image), `licences` the licences of their images (none: any; by
    COCO's number or name, or as `CC BY 2.0`), `evaluation_sets` the images that must not.
    `tokenizer_file` counts the tokens of the merge (`None`: they are estimated). `processes`
    trainings or models run at once, a thread each; a GPU holds one. Notebook 08 talks to the
    `chat_checkpoints` too, by display name, and to the models of the `chat_presets` that were
    tuned here.
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
    licences: list[int | str] = []
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
    seeds: Annotated[list[int], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [0]
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: Count = 1
    runner: Runner = "native"
    mini_coco: MiniCoco | None = None
    tiny_llava: Recipe | None = None
    assembly: Assembly | None = None
    merge: Rules = Rules()
    held_out_images: Annotated[int, msgspec.Meta(ge=0)] = 100
    train_images: Count | None = None
    mixtures: list[Mixture] = msgspec.field(default_factory=lambda: list(MIXTURES))
    tuning: TuningRecipe = TuningRecipe()
    evaluation: Evaluation = Evaluation()
    bias: Bias = Bias()
    ablations: Ablations = Ablations()
    chat_checkpoints: dict[str, str] = {}
    chat_presets: list[str] = []

    def __post_init__(self) -> None:
        """Refuse a name that is no folder, values named twice, models that no mixture tunes."""
        if self.name in ("", "..") or self.name != Path(self.name).name:
            raise ValueError(f"name is {self.name!r}; it names folders, so write no path")
        for name in ("seeds", "mixtures"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} has {values}; name each only once")
        unknown = set(self.ablations.seeds) - set(self.seeds)
        if unknown:
            raise ValueError(f"ablations.seeds has {sorted(unknown)}; seeds does not")
        strange = set(self.evaluation.models) - {"base", *self.mixtures}
        if strange:
            raise ValueError(f"evaluation.models has {', '.join(strange)}; mixtures does not")
