"""The study: its presets, what notebooks open, and the runner that executes them."""

from cocoift.study.machine import forecast
from cocoift.study.preset import Preset
from cocoift.study.preset_files import module_folders, project_root, read_preset
from cocoift.study.runner import (
    NotebookFailed,
    environment,
    notebooks,
    noted_results,
    run_facts,
    run_notebook,
)
from cocoift.study.study import Study, open_study

__all__ = [
    "NotebookFailed",
    "Preset",
    "Study",
    "environment",
    "forecast",
    "module_folders",
    "notebooks",
    "noted_results",
    "open_study",
    "project_root",
    "read_preset",
    "run_facts",
    "run_notebook",
]
