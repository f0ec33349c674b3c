"""Does instruction data teach a model to stay short?  For anybody's data, before any training."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cocoift.lint.checking import Result, check

__all__ = ["Result", "check"]


def __getattr__(name: str) -> Any:
    # Loaded when used: the command line imports this package at every start.
    if name in __all__:
        from cocoift.lint import checking

        return getattr(checking, name)
    raise AttributeError(name)
