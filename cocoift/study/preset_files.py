"""Preset files: where they are, how they extend each other, and what is wrong with one."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from cocoift.core.files import DataError
from cocoift.core.text import tidy
from cocoift.study.preset import Preset


def project_root() -> Path:
    """Return the folder that holds `notebooks/presets`, from any folder below it.

    Raises `DataError` when there is none.
    """
    here = Path.cwd().resolve()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if (folder / "notebooks" / "presets").is_dir():
            return folder
    raise DataError("no folder `notebooks/presets` above this one; start in the project's folder")


def module_folders(preset: str | Path) -> list[Path]:
    """Return where the modules of a user's own readers may be: the project, the preset's folder."""
    return [project_root(), _path(preset).resolve().parent]


def read_preset(preset: str | Path, changes: Mapping[str, Any] | str | None = None) -> Preset:
    """Read a preset, by its name in `notebooks/presets` or its path, with `changes` on top.

    A path may be a `run.json`, whose run it repeats.  `changes` is a mapping or, as `papermill -p`
    gives it, the YAML of one.  Raises `DataError` naming the file and the field for a preset that
    is absent, empty or no mapping, and for an unknown field, a wrong type or a missing value.
    """
    path = _path(preset)
    values = _extended(path, ())
    if isinstance(changes, str):
        try:
            changes = yaml.safe_load(changes)
        except yaml.YAMLError as error:
            raise DataError(tidy(f"changes are no YAML: {error}")) from error
    if not isinstance(changes, Mapping | None):
        raise DataError(f"changes are {changes!r}; give a mapping, e.g. {{'seeds': [0, 1]}}")
    values = {"name": path.stem, **_merged(values, changes or {})}
    try:
        plain = msgspec.convert(values, Preset)
        named = _replaced(msgspec.to_builtins(plain), "{name}", plain.name)
        return msgspec.convert(named, Preset)
    except msgspec.ValidationError as error:
        raise DataError(f"preset {path}: {error}{_hint(str(error))}") from error


def _path(preset: str | Path, *, folder: Path | None = None) -> Path:
    """Return the file of a preset, given by name or path.

    Sought in `folder` (none: where the program was started, for a path), then among the presets
    by name, or below the project's root by path.
    """
    if not isinstance(preset, str | Path) or not str(preset):
        raise DataError(f"preset is {preset!r}; give a name in notebooks/presets, or a path")
    is_path = str(preset).endswith((".yaml", ".yml", ".json"))
    file = Path(preset if is_path else f"{preset}.yaml")
    near = file if folder is None else folder / file
    if (is_path or folder) and near.is_file():
        return near
    return project_root() / ("" if is_path else "notebooks/presets") / file


def _extended(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    """Return what a preset file says, on top of what the one that it extends says."""
    if path.resolve() in [path_below.resolve() for path_below in below]:
        raise DataError(f"preset {path}: extends itself; {' -> '.join(p.stem for p in below)}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        values = values["parameters"] if path.suffix == ".json" else values
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        by = f"; extended by {below[-1]}" if below else ""
        fault = tidy(str(error))  # of YAML it has several lines
        raise DataError(f"preset {path}: {fault}; presets there: {known}{by}") from error
    if not isinstance(values, dict) or not values:
        what = "no mapping" if values else "empty"
        raise DataError(f"preset {path} is {what}; write `extends: mini` and your changes")
    base = values.pop("extends", None)
    if base is None:
        return values
    return _merged(_extended(_path(base, folder=path.parent), (*below, path)), values)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes`: mappings of one kind are merged, all else is replaced.

    A change to null removes the value of `base`, as in Helm's values.
    """
    merged = dict(base)
    for name, value in changes.items():
        if value is None and name in base:
            del merged[name]
            continue
        present = merged.get(name)
        if isinstance(value, Mapping) and isinstance(present, Mapping):
            same_kind = value.get("kind", present.get("kind")) == present.get("kind")
            value = _merged(present if same_kind else {}, value)
        merged[name] = value
    return merged


def _replaced(value: Any, mark: str, text: str) -> Any:
    """Return a JSON-like value with a mark replaced in every text."""
    if isinstance(value, dict):
        return {key: _replaced(part, mark, text) for key, part in value.items()}
    if isinstance(value, list):
        return [_replaced(part, mark, text) for part in value]
    return value.replace(mark, text) if isinstance(value, str) else value


def _hint(error: str) -> str:
    """Return which known field an unknown one was probably meant to be."""
    found = re.search(r"unknown field `([^`]*)`", error)
    fields = {name for kind in _kinds(Preset) for name in kind.__struct_fields__}
    close = difflib.get_close_matches(found[1], sorted(fields), n=1) if found else []
    return f"; did you mean `{close[0]}`?" if close else ""


def _kinds(kind: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """Return a struct and those of its fields that are structs with defaults of their own."""
    inner = [type(part) for part in kind.__struct_defaults__ if isinstance(part, msgspec.Struct)]
    return [kind, *(kind for part in inner for kind in _kinds(part))]
