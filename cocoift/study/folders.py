"""Where the files of a run are."""

from dataclasses import dataclass
from pathlib import Path

from cocoift.study.preset import Preset


@dataclass(frozen=True)
class Folders:
    """The folders and files of a preset, below the project's root."""

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
    def tokenizer_file(self) -> Path | None:
        """The tokenizer that counts tokens, if the preset names one."""
        name = self.preset.tokenizer_file
        return self.root / name if name else None
