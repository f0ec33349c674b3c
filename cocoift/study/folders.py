"""Where the files of a run are."""

from dataclasses import dataclass
from pathlib import Path

from cocoift.core.files import DataError
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
        """The tokenizer that counts tokens, if the preset names one.

        Raises `DataError` for one that notebook 00 makes and has not made yet.
        """
        if self.preset.tokenizer_file is None:
            return None
        path = self.root / self.preset.tokenizer_file
        if path.is_relative_to(self.work) and not path.is_file():
            raise DataError(f"{path} is not there; run notebook 00_setup first")
        return path
