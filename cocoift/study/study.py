"""What a notebook opens first: a preset, and what follows from it."""

import ast
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cocoift.core.files import DataError
from cocoift.evaluation.benchmarks import Benchmark, benchmarks_for, read_benchmarks
from cocoift.evaluation.protocols import (
    AFTER,
    Protocol,
    factorial_protocols,
    read_protocols,
    single_openings,
)
from cocoift.evaluation.reference_judge import ReferenceJudge
from cocoift.merge.layouts import MIXTURES
from cocoift.report.tables import LABELS, save_table, settings_table
from cocoift.sources import Entry, read_catalogue, without_optional
from cocoift.sources.scope import Scope, read_scope
from cocoift.study.preset import Preset
from cocoift.study.preset_files import module_folders, project_root, read_preset
from cocoift.tuning.chat import ChatFormat
from cocoift.tuning.data import count_records, split_images
from cocoift.tuning.recipe import Training, base_of

# Modules that load torch are imported by the methods that need them.
if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.figure import Figure

    from cocoift.evaluation.candidates import LocalModels
    from cocoift.evaluation.judging import Judge
    from cocoift.tuning.model import Device
    from minicoco.scenes import Scene


@dataclass(frozen=True)
class Study:
    """An opened preset: its folders, its sources, and how its models are trained and asked."""

    root: Path
    preset: Preset

    @property
    def raw(self) -> Path:
        """The folder of the upstream files."""
        return self.root / self.preset.raw_dir

    @property
    def images(self) -> Path:
        """The folder that holds `train2017`."""
        return self.root / self.preset.image_dir

    @property
    def work(self) -> Path:
        """The folder of everything the study makes but its report."""
        return self.root / self.preset.work_dir

    @property
    def turn_tables(self) -> Path:
        """The folder of the turn tables, one file per source."""
        return self.work / "interim" / "turns"

    @property
    def merged(self) -> Path:
        """The folder of the merged set and the mixtures."""
        return self.work / "merged"

    @property
    def tables(self) -> Path:
        """The folder of the report's tables."""
        return self.root / self.preset.report_dir / "tables"

    @property
    def figures(self) -> Path:
        """The folder of the report's figures."""
        return self.root / self.preset.report_dir / "figures"

    @property
    def curation(self) -> Path:
        """The file of a person's decisions on turns."""
        return self.root / self.preset.curation

    @property
    def few_seeds(self) -> list[int]:
        """The seeds of the ablations that the headline does not rest on."""
        return self.preset.ablations.seeds or self.preset.seeds

    @property
    def tokenizer_file(self) -> Path | None:
        """The tokenizer that counts tokens, if the preset names one.

        Raises `DataError` for one that notebook 00 makes and has not made yet.
        """
        if self.preset.tokenizer_file is None:
            return None
        path = self.root / self.preset.tokenizer_file
        if path.is_relative_to(self.work) and not path.is_file():
            raise DataError(f"{path} is not there; run notebook 00_setup first")
        return path

    @cached_property
    def sources(self) -> dict[str, Entry]:
        """The catalogue's sources, optional ones where the preset names them."""
        catalogue = read_catalogue(self.root / self.preset.catalogue)
        return without_optional(catalogue, self.preset.optional_sources)

    @property
    def titles(self) -> dict[str, str]:
        """The titles of the sources by name."""
        return {name: entry.title for name, entry in self.sources.items()}

    @property
    def labels(self) -> dict[str, str]:
        """How tables and figures call each model."""
        chats = {f"{name}, {model}": f"{name}, {LABELS[model]}"
                 for name, other in self.chat_studies.items()
                 for model in other.preset.evaluation.models}  # fmt: skip
        named = (*self._further, *self.preset.chat_checkpoints)
        return LABELS | {name: name for name in named} | chats

    @cached_property
    def chat_studies(self) -> "dict[str, Study]":
        """The `chat_presets` whose base and adapters of the first seed are on disk, by name."""
        others = [Study(self.root, read_preset(name)) for name in self.preset.chat_presets]
        return {other.preset.name: other for other in others if other.has_models}

    @property
    def has_models(self) -> bool:
        """Whether the base and the adapters of the first seed are on disk."""
        # Not by `local_models`, which loads torch: every notebook asks for the labels.
        seed, tuned = self.preset.seeds[0], {*self.preset.evaluation.models} - {"base"}
        notes = [self.adapter(name, seed) / "training.json" for name in tuned]
        return all(path.is_file() for path in (Path(self.base(seed), "config.json"), *notes))

    @property
    def models(self) -> list[str]:
        """The names of all models to evaluate, local ones first."""
        return [*self.preset.evaluation.models, *self._further]

    @property
    def _further(self) -> list[str]:
        asked = self.preset.evaluation
        names = [served.name for served in asked.endpoints] + [log.name for log in asked.logged]
        return list(dict.fromkeys(names))

    @property
    def device(self) -> "Device":
        """Where models are trained and asked; raises `DataError` for a GPU that is not there."""
        from cocoift.tuning.model import pick_device

        return pick_device(self.preset.device)

    @property
    def chat(self) -> ChatFormat:
        """How local models are talked to."""
        return ChatFormat(self.preset.chat_format, self.preset.system_prompt)

    def scope(self) -> Scope:
        """Return which images may train; raises `DataError` for a listed file that is absent."""
        names = [*self.preset.image_lists, *self.preset.evaluation_sets]
        for name in names:
            if not (self.raw / name).is_file():
                raise DataError(f"{self.raw / name} is not there; {self._how_to_get(name)}")
        lists = [self.raw / name for name in self.preset.image_lists]
        sets = [self.raw / name for name in self.preset.evaluation_sets]
        return read_scope(lists, sets, licences=self.preset.licences)

    def _how_to_get(self, name: str) -> str:
        if self.preset.mini_coco:
            return "run notebook 00_setup first, which draws it"
        brings = [source for source, entry in self.sources.items()
                  if any(name in download.files for download in entry.downloads)]  # fmt: skip
        if brings:
            return f"fetch it first: cocoift download {brings[0]}"
        return "put it there, or correct image_lists or evaluation_sets in the preset"

    def benchmarks(self) -> list[Benchmark]:
        """Return the benchmarks that are on disk."""
        return read_benchmarks(self.preset.evaluation.benchmarks, self.raw)

    def benchmarks_to_ask(self) -> list[Benchmark]:
        """Return the benchmarks on disk.

        Raises `DataError` if there is none, or no model to answer them.
        """
        if not self.models:
            raise DataError(
                f"preset {self.preset.name} names no model to ask: name some in evaluation.models "
                "or evaluation.endpoints, or leave this notebook out of `notebooks`"
            )
        return benchmarks_for(self.models, self.preset.evaluation.benchmarks, self.raw)

    def protocols(self) -> dict[str, Protocol]:
        """Return the protocols by name; openings and factorial are for the first benchmark."""
        asked = self.preset.evaluation
        first = next(iter(asked.benchmarks), "")
        found = read_protocols(asked.protocols, self.raw)
        headline = found[AFTER].opening if AFTER in found else ()
        openings = single_openings(asked.openings, headline=headline, only=first)
        found |= {protocol.name: protocol for protocol in openings}
        if asked.factorial:
            found |= factorial_protocols(asked.factorial, self.raw, only=first)
        return found

    def base(self, seed: int) -> str:
        """Return the base checkpoint of a seed: a folder, or a name on the model hub."""
        return base_of(self.preset.checkpoint, seed, self.root)

    def adapter(self, mixture: str, seed: int) -> Path:
        """Return the folder of the adapter trained on a mixture with a seed.

        Raises `DataError` for a mixture that no preset has.
        """
        if mixture not in MIXTURES:
            raise DataError(f"there is no mixture {mixture!r}; there are {', '.join(MIXTURES)}")
        return self.work / "adapters" / f"{mixture}-{seed}"

    def forms(self) -> dict[str, str]:
        """Return the form of answer that each source asks for."""
        return {name: entry.form for name, entry in self.sources.items() if entry.form}

    def training(self, mixture: str, seed: int, *, images: int | None = None) -> Training:
        """Return the training on a mixture (`merged`, `mix`, `instructed`) with a seed.

        Images and steps come from the merged mixture, so that all mixtures train on the same
        images for the same number of steps; `images` trains on fewer than the preset says.
        Raises `DataError` when a mixture is absent, and as `adapter` does.
        """
        adapter = self.adapter(mixture, seed)
        preset, merged = self.preset, self.merged / "merged.json"
        count = images or preset.train_images
        split = split_images(merged, held_out=preset.held_out_images, train=count)
        return Training(
            mixture=self.merged / f"{mixture}.json",
            images=split.train,
            image_root=self.images,
            checkpoint=self.base(seed),
            adapter=adapter,
            steps=preset.tuning.steps(count_records(merged, split.train)),
            seed=seed,
            recipe=preset.tuning,
            image_tokens=preset.merge.image_tokens,
            context_tokens=preset.merge.context_tokens,
            chat=self.chat,
            device=self.device,
            forms=self.forms(),
        )

    def local_models(self, seed: int, adapters: Mapping[str, Path] | None = None) -> "LocalModels":
        """Return the local models of a seed, with notebook 04's adapters if none are given."""
        from cocoift.evaluation.candidates import LocalModels

        tuned = [name for name in self.preset.evaluation.models if name != "base"]
        return LocalModels(
            base=self.base(seed),
            adapters=adapters or {name: self.adapter(name, seed) for name in tuned},
            seed=seed,
            device=self.device,
            chat=self.chat,
            new_tokens=self.preset.evaluation.new_tokens,
            batch=self.preset.evaluation.answer_batch,
        )

    @cached_property
    def scenes(self) -> "dict[str, Scene]":
        """The scenes of mini's benchmark by image name; none where the data is real."""
        from minicoco.benchmark import benchmark_scenes

        mini = self.preset.mini_coco
        if mini is None:
            return {}
        return benchmark_scenes(mini.seed, pixels=mini.pixels, count=mini.benchmark)

    def judge(self) -> "Judge":
        """Return the preset's judge; raises `DataError` for a prompt that cannot be read."""
        from cocoift.evaluation.endpoint_judge import EndpointJudge
        from cocoift.evaluation.judging import OfflineJudge
        from minicoco.benchmark import graded_scenes
        from minicoco.sight import claims_by_image

        settings, world = self.preset.evaluation.judge, self.preset.mini_coco
        if not isinstance(settings, ReferenceJudge):
            return EndpointJudge(settings, root=self.root, cache=self.work / "judge.sqlite")
        if world is None:
            return OfflineJudge()
        return OfflineJudge(claims_by_image(self.scenes | graded_scenes(pixels=world.pixels)))

    def save(self, table: pd.DataFrame, name: str, *, packed: bool = False) -> pd.DataFrame:
        """Save a table in the report as CSV."""
        save_table(table, self.tables / f"{name}.csv{'.gz' if packed else ''}")
        return table

    def show(self, figure: "Figure", name: str) -> "HTML":
        """Save a figure in the report and return it for display."""
        from cocoift.report.figures import show

        return show(figure, self.figures / f"{name}.png")

    def values(self, *names: str) -> pd.DataFrame:
        """Return values of the preset for display; names may be dotted: `tuning.rank`."""
        return settings_table(self.preset, names, title=self.preset.name)


def open_study(preset: str, changes: Mapping[str, Any] | str | None = None) -> Study:
    """Open a preset for a notebook, whose `parameters` cell sets these two names.

    Modules in the project's folder and beside the preset can be imported afterwards, so that a
    catalogue's `reader` may be a user's own.  Raises `DataError` as `read_preset` does, and for a
    parameter that papermill was given and no notebook has.
    """
    strange = sorted(set(_injected_names()) - {"preset", "changes"})
    if strange:
        raise DataError(
            f"papermill was given {', '.join(strange)}; notebooks have the parameters `preset` "
            f"and `changes`, so write -y 'changes: {{{strange[0]}: ...}}'"
        )
    study = Study(project_root(), read_preset(preset, changes))
    sys.path += [str(folder) for folder in module_folders(preset) if str(folder) not in sys.path]
    return study


def _injected_names() -> Sequence[str]:
    """Return the names that papermill's own cell of this session sets, if there is one."""
    try:
        from IPython import get_ipython
    except ImportError:
        return []
    shell = get_ipython()
    for cell in reversed(shell.user_ns.get("In", []) if shell else []):
        if cell.startswith("# Parameters"):
            targets = (
                statement.targets[0]
                for statement in ast.parse(cell).body
                if isinstance(statement, ast.Assign)
            )
            return [target.id for target in targets if isinstance(target, ast.Name)]
    return []
