"""How much a model tuned on a data file will collapse, as models tuned on others did.

What a file's cues foretell (`cues.raw_prediction`) becomes percent of collapse by two curves that
were fitted to the trained arms of a run.  `python -m cocoift.lint.prediction reports/mini-full`
makes the calibration, which is shipped with the package, from the table that notebook 07 leaves.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import pandas as pd

from cocoift.core.files import DataError, read_json, write_text
from cocoift.core.resampling import t_quantile
from cocoift.lint.conversations import Conversation
from cocoift.lint.cues import QUESTIONS, raw_prediction

CALIBRATION = Path(__file__).with_name("calibration.json")
TABLE = "lint_arms"  # of notebook 07
# What every prediction is said to be.
INSTRUMENT = "on this study's instrument"
# Two numbers per curve: with fewer arms a fit says nothing about the next one.
FEWEST = 4
_FIX = "run notebook 07 and `python -m cocoift.lint.prediction reports/mini-full`, or reinstall"
_EDGE = 0.002  # raw shares nearer to 0 or 1 count as this far
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]


class Arm(msgspec.Struct, frozen=True):
    """A mixture that models were trained on; all numbers in percent, measured ones over seeds.

    `ablations` are those that it is a setting of.
    """

    name: str
    ablations: tuple[str, ...]
    alone: Percent
    after: Percent
    raw_alone: Percent
    raw_after: Percent


class Curve(msgspec.Struct, frozen=True):
    """Collapse as it follows from what cues foretell: logit = level + rise · logit; never falls."""

    level: Annotated[float, msgspec.Meta(ge=-50, le=50)]
    rise: Annotated[float, msgspec.Meta(ge=0, le=50)]

    def at(self, raw: float) -> float:
        """Return the percent of collapse for what cues foretell, in percent."""
        share = min(max(raw / 100, _EDGE), 1 - _EDGE)
        return 100 / (1 + math.exp(-self.level - self.rise * math.log(share / (1 - share))))


class Calibration(msgspec.Struct, frozen=True):
    """Curves for collapse alone and after one short round, and what they rest on.

    `error` is the half width of the 95 % interval of a prediction `after`, as an angle
    (`interval`): from the errors on arms whose ablation was left out.  `run` and `commit` made the
    arms.
    """

    alone: Curve
    after: Curve
    error: Annotated[float, msgspec.Meta(ge=0, le=2)]
    arms: Annotated[int, msgspec.Meta(ge=FEWEST)]
    run: str
    commit: str


class Prediction(msgspec.Struct, frozen=True):
    """Predicted collapse, in percent: open questions answered in three words or fewer.

    Asked alone, and `after` one round with a short answer, from `low` to `high` in 95 of 100 cases
    as far as the calibration's own arms tell; `raw` are the shares that the file's cues alone
    foretell, `answers` how many of its answers were looked at, `asked` the open questions.
    """

    alone: float
    after: float
    low: float
    high: float
    raw_alone: float
    raw_after: float
    answers: int
    run: str
    arms: int
    asked: tuple[str, ...] = QUESTIONS
    instrument: str = INSTRUMENT


def predict(conversations: Iterable[Conversation], calibration: Path = CALIBRATION) -> Prediction:
    """Return the collapse to expect of a model that is tuned on these conversations.

    The calibration is of a tiny model on a drawn world: the number ranks data, it does not
    promise a model's percent.  Raises `DataError` as `raw_prediction` does, and where the
    calibration is absent or damaged.
    """
    known = read_calibration(calibration)
    raw = raw_prediction(conversations)
    after = known.after.at(raw.after)
    low, high = interval(after, known.error)
    return Prediction(
        alone=known.alone.at(raw.alone), after=after, low=low, high=high, raw_alone=raw.alone,
        raw_after=raw.after, answers=raw.answers, run=known.run, arms=known.arms,
    )  # fmt: skip


def read_calibration(path: Path = CALIBRATION) -> Calibration:
    """Return the calibration; raises `DataError` where it is absent or damaged."""
    return read_json(path, Calibration, fix=_FIX)


def calibrated(arms: Sequence[Arm], *, run: str, commit: str) -> Calibration:
    """Return the calibration on all arms; its error is that of arms left out with their ablation.

    Raises `DataError` where there are too few arms or ablations to leave one out.
    """
    left = left_out(arms)
    if left.empty:
        raise DataError(
            f"{run}: {len(arms)} arms of {len(_ablations(arms))} ablations; a calibration needs "
            f"{FEWEST} arms beside every ablation that is left out; train more ablations"
        )
    alone, after = _curves(arms)
    error = prediction_error(left)
    return Calibration(alone, after, error=error, arms=len(arms), run=run, commit=commit)


def left_out(arms: Sequence[Arm]) -> pd.DataFrame:
    """Return what is predicted for each ablation's arms by curves that have seen none of them.

    Columns: arm, ablation, alone, after (measured), raw_alone, raw_after, predicted_alone,
    predicted_after.  An arm of several ablations has a row for each.  No rows for an ablation
    beside which fewer than `FEWEST` arms are left.
    """
    rows = []
    for ablation in _ablations(arms):
        others = [arm for arm in arms if ablation not in arm.ablations]
        if len(others) < FEWEST:
            continue
        alone, after = _curves(others)
        rows += [
            (arm.name, ablation, arm.alone, arm.after, arm.raw_alone, arm.raw_after,
             alone.at(arm.raw_alone), after.at(arm.raw_after))
            for arm in arms if ablation in arm.ablations
        ]  # fmt: skip
    columns = ["arm", "ablation", "alone", "after", "raw_alone", "raw_after"]
    return pd.DataFrame(rows, columns=[*columns, "predicted_alone", "predicted_after"])


def _ablations(arms: Iterable[Arm]) -> list[str]:
    return list(dict.fromkeys(name for arm in arms for name in arm.ablations))


def agreement(left: pd.DataFrame) -> pd.DataFrame:
    """Return how well `left_out` predictions do, alone and after, an arm counting once.

    Columns: asked, arms, spearman, mean_error (in points), raw_spearman.  The curves never fall,
    so on all arms together the ranks are the raw ones; those of left-out predictions differ where
    curves fitted without different ablations do.
    """
    rows = []
    means = left.groupby("arm", sort=False).mean(numeric_only=True)
    for asked in ("alone", "after"):
        predicted, measured = means[f"predicted_{asked}"], means[asked]
        ranks, raw = (_spearman(found, measured) for found in (predicted, means[f"raw_{asked}"]))
        rows.append((asked, len(means), ranks, (predicted - measured).abs().mean(), raw))
    return pd.DataFrame(rows, columns=["asked", "arms", "spearman", "mean_error", "raw_spearman"])


def _spearman(found: pd.Series, measured: pd.Series) -> float:
    """Return the rank correlation, missing where all values of one are equal: there is none."""
    if min(found.nunique(), measured.nunique()) < 2:
        return math.nan
    return float(found.corr(measured, method="spearman"))


def prediction_error(left: pd.DataFrame) -> float:
    """Return the half width of the 95 % interval of a left-out prediction, as an angle."""
    means = left.groupby("arm").mean(numeric_only=True)
    errors = _angle(means.predicted_after.to_numpy()) - _angle(means.after.to_numpy())
    return float(t_quantile(len(errors) - 1) * math.sqrt((errors * errors).mean()))


def interval(percent: float, error: float) -> tuple[float, float]:
    """Return the interval of a predicted percentage.

    Of the angle whose squared sine the share is: there, errors near 0 and near 50 % compare.
    """
    angle = math.asin(math.sqrt(percent / 100))
    low, high = max(angle - error, 0.0), min(angle + error, math.pi / 2)
    return 100 * math.sin(low) ** 2, 100 * math.sin(high) ** 2


def _angle(percents: np.ndarray) -> np.ndarray:
    return np.arcsin(np.sqrt(percents / 100))


def _curves(arms: Sequence[Arm]) -> tuple[Curve, Curve]:
    alone = _curve([arm.raw_alone for arm in arms], [arm.alone for arm in arms])
    return alone, _curve([arm.raw_after for arm in arms], [arm.after for arm in arms])


def _curve(raw: Sequence[float], measured: Sequence[float]) -> Curve:
    """Fit a curve by least squares of the angles; every arm counts as much."""
    from scipy.optimize import least_squares
    from scipy.special import expit, logit

    shares = logit(np.clip(np.array(raw) / 100, _EDGE, 1 - _EDGE))
    wanted = _angle(np.array(measured, float))
    found = least_squares(
        lambda curve: _angle(100 * expit(curve[0] + curve[1] * shares)) - wanted,
        x0=(-1.0, 0.5),
        bounds=([-20.0, 0.0], [20.0, 5.0]),
    )
    level, rise = found.x
    return Curve(level=round(float(level), 6), rise=round(float(rise), 6))


class _Run(msgspec.Struct):
    preset: str
    commit: str


def read_arms(path: Path) -> list[Arm]:
    """Return the arms of a table that notebook 07 has saved.

    Raises `DataError` where it is absent or damaged.
    """
    try:
        table = pd.read_csv(path, keep_default_na=False)
        rows = table.groupby("arm", sort=False)
        return [
            msgspec.convert(
                {
                    "name": str(name),
                    "ablations": tuple(part.ablation),
                    **{key: float(part[key].iloc[0])
                       for key in ("alone", "after", "raw_alone", "raw_after")},
                },
                Arm,
            )
            for name, part in rows
        ]  # fmt: skip
    except (OSError, ValueError, KeyError, AttributeError, msgspec.ValidationError) as error:
        raise DataError(f"{path}: {error}; run notebook 07 of a preset with ablations") from error


def write_calibration(report: Path, path: Path = CALIBRATION) -> Calibration:
    """Write the calibration on the arms of a run's report, and return it.

    Raises `DataError` where the report has no such table, or too few arms.
    """
    run = read_json(report / "run.json", _Run, fix="name the report of a whole run")
    arms = read_arms(report / "tables" / f"{TABLE}.csv")
    found = calibrated(arms, run=run.preset, commit=run.commit)
    write_text(path, msgspec.json.format(msgspec.json.encode(found), indent=1).decode() + "\n")
    return found


def main(arguments: Sequence[str]) -> str | None:
    """Write the calibration of the report in the arguments; return what went wrong."""
    if len(arguments) != 1:
        return "usage: python -m cocoift.lint.prediction REPORT_FOLDER"
    try:
        made = write_calibration(Path(arguments[0]))
    except DataError as error:
        return str(error)
    print(f"{CALIBRATION}: {made.arms} arms of {made.run}, commit {made.commit}")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
