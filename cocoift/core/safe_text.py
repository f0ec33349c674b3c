"""Untrusted text on its way into HTML."""

import html
import unicodedata


def visible(text: object) -> str:
    """Return text escaped for HTML, with control and direction marks shown as their code points."""
    shown = "".join(
        f"[U+{ord(c):04X}]" if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t" else c
        for c in str("" if text is None else text)
    )
    return html.escape(shown)
