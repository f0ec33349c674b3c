"""`cocoift lint` and `cocoift fix`: their arguments, what they print, and their exit status."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from cocoift.core.files import DataError, write_text

Add = Callable[[str, Callable[[argparse.Namespace], None], str, str], argparse.ArgumentParser]
# Exit status of lint: fine, predicted to collapse, unreadable.
FINE, FAILS, UNREADABLE = 0, 1, 2


def add_commands(command: Add) -> None:
    """Add both commands to the parser of `cocoift`."""
    text = "say before any training whether instruction data teaches a model to stay short"
    lint = command("lint", run_lint, text, "my_data.json --html lint.html")
    text = "JSON, JSON Lines, Parquet, or a folder of them"
    lint.add_argument("data", nargs="+", type=Path, metavar="FILE_OR_FOLDER", help=text)
    lint.add_argument("--html", type=Path, metavar="FILE", help="write a page that opens offline")
    lint.add_argument("--json", type=Path, metavar="FILE", help="write all numbers and examples")
    text = "exit with 1 where the predicted collapse after one short round is above this; 10"
    lint.add_argument("--fail-above", type=float, metavar="PERCENT", help=text)
    text = "a benchmark's folder of images or file of questions, to find its images in the data"
    lint.add_argument("--against", type=Path, metavar="BENCHMARK_IMAGES", help=text)
    text = "folder of the data's images: look for near-duplicate pictures too"
    lint.add_argument("--images", type=Path, metavar="FOLDER", help=text)
    text = "tokenizer.json: count conversations longer than the context"
    lint.add_argument("--tokenizer", type=Path, metavar="FILE", help=text)
    text = "tokens of the context; 2048"
    lint.add_argument("--context", type=int, default=2048, metavar="TOKENS", help=text)
    text = "rewrite instruction data so that its answers' lengths are asked for"
    fix = command("fix", run_fix, text, "my_data.json fixed.json --prompts terse")
    fix.add_argument("file", type=Path, help="JSON, JSON Lines or Parquet")
    fix.add_argument("out", type=Path, help="file to write; what changed goes to OUT.log.jsonl")
    text = "terse: every terse turn says so; none: no prompt in the first turn of full answers"
    fix.add_argument("--prompts", choices=("terse", "none"), help=text)
    text = "make the conversations of one image one, within the context"
    fix.add_argument("--interleave", action="store_true", help=text)
    text = "tokens of the context; 2048"
    fix.add_argument("--context", type=int, default=2048, metavar="TOKENS", help=text)


def run_lint(chosen: argparse.Namespace) -> None:
    """Print what is found; end with the exit status that the docs name."""
    from cocoift.lint import page
    from cocoift.lint.checking import FAIL_ABOVE, check
    from cocoift.lint.findings import Limits

    try:
        result = check(
            *chosen.data,
            images=chosen.images,
            against=chosen.against,
            tokenizer=chosen.tokenizer,
            limits=Limits(context_tokens=chosen.context),
            fail_above=FAIL_ABOVE if chosen.fail_above is None else chosen.fail_above,
        )
        if chosen.html:
            write_text(chosen.html, page.as_page(result))
        if chosen.json:
            write_text(chosen.json, page.as_json(result))
    except (OSError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(UNREADABLE)
    print(page.as_text(result), end="")
    sys.exit(FAILS if result.fails else FINE)


def run_fix(chosen: argparse.Namespace) -> None:
    """Write the rewritten file and its log; print what changed."""
    from cocoift.lint.fix import Cure, fix

    cure = Cure(prompts=chosen.prompts, interleave=chosen.interleave, context=chosen.context)
    print(fix(chosen.file, chosen.out, cure).in_words())
    print(f"what changed: {chosen.out}.log.jsonl; see the gain with: cocoift lint {chosen.out}")
