"""Does instruction data teach a model to stay short?  For anybody's data, before any training."""

from cocoift.lint.checking import Result, check

__all__ = ["Result", "check"]
