"""Readers: a short function per upstream annotation format, all yielding the same dialogs."""

from cocoift.sources.catalogue import Entry, availability, read_catalogue, without_optional
from cocoift.sources.reading import (
    Reading,
    load_readings,
    read_all,
    read_source,
    saved_counts,
)

__all__ = [
    "Entry",
    "Reading",
    "availability",
    "load_readings",
    "read_all",
    "read_catalogue",
    "read_source",
    "saved_counts",
    "without_optional",
]
