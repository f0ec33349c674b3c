"""The command line: `python -m cocoift train PRESET --mixture merged`."""

import argparse
import sys
from pathlib import Path

from cocoift import study
from cocoift.core.files import DataError


def main(arguments: list[str] | None = None) -> None:
    """Run one command; a `DataError` ends it with one line."""
    parser = argparse.ArgumentParser(prog="python -m cocoift", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    own = commands.add_parser(
        "train",
        help="train one mixture, on one device or under `accelerate launch`",
        epilog="accelerate launch --num_processes 8 -m cocoift train llava-1.5-7b",
    )
    own.add_argument("preset", help="a name in notebooks/presets, or a path to a YAML file")
    own.add_argument("--mixture", default="merged", help="merged or mix")
    own.add_argument("--seed", type=int, default=0)
    own.set_defaults(command=_train)
    chosen = parser.parse_args(arguments)
    try:
        chosen.command(chosen)
    except (OSError, DataError) as error:
        sys.exit(f"error: {error}")


def _train(chosen: argparse.Namespace) -> None:
    from cocoift.tuning.model import pick_device
    from cocoift.tuning.recipe import plan_training, planned_names
    from cocoift.tuning.train import train

    root = Path.cwd()
    known = study.known_parameters(study.project_root())
    preset = study.named_preset(chosen.preset, known=known)
    parameters = {name: value for name, value in preset.items() if name in planned_names()}
    parameters["device"] = pick_device(parameters["device"])
    print(train(plan_training(chosen.mixture, chosen.seed, root=root, **parameters)))


if __name__ == "__main__":
    main()
