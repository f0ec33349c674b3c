"""What a question asks for: a stated form of answer, and the words it begins with."""

import re

from cocoift.core.text import has_format_prompt, question_key

# An answer of at most this many words is short, as for the measured collapse.
SHORT_WORDS = 3

# How people ask for short, or otherwise shaped, answers: beside the wordings of `core.text` those
# of The Cauldron, ShareGPT4V and of VQA sets in chat form ("Offer a terse response.", "Keep it
# short and to the point.", "in one word", "yes or no").
_ANSWER = r"(?:answer|response|reply|sentence|phrase|caption|description|summary|statement|words?)"
_ASKED = re.compile(
    rf"""
    \b(?:short|brief|terse|concise|succinct|quick|direct|one-word|single-word)(?:\W+\w+){{0,3}}?\W+{_ANSWER}s?\b
  | \b{_ANSWER}s?\W+(?:\w+\W+){{0,4}}?(?:short|brief|terse|concise|succinct|briefly|shortly)\b
  | \b(?:briefly|concisely|succinctly|tersely|brevity|to\ the\ point)\b
  | \b(?:be|keep\ it|make\ it)\W+(?:very\W+)?(?:short|brief|terse|concise|succinct)\b
  | \b(?:in|with|using|of)\W+(?:only\W+|just\W+|at\ most\W+|about\W+|a\W+)*
        (?:one|a|single|two|three|few|\d+)\W+(?:or\W+\w+\W+)?(?:words?|sentences?|phrases?|letters?|numbers?)\b
  | \b(?:yes\W+or\W+no|true\W+or\W+false|word\W+or\W+phrase)\b
  | \b(?:option|choice)['\u2019]?s?['\u2019]?\W+letter\b | \bletter\W+of\W+the\b
  | \b(?:bounding\W+box|coordinates?)\b
  | (?:^|\n|\s)\(?A[.):]\s.+(?:\n|\s)\(?B[.):]\s
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
# Spare most questions the search, which is slow: one of these is in every wording above.
_WORDS = frozenset(
    {"short", "shortly", "brief", "briefly", "brevity", "terse", "tersely", "concise", "concisely",
     "succinct", "succinctly", "quick", "direct", "point", "word", "words", "sentence", "sentences",
     "phrase", "phrases", "letter", "letters", "number", "numbers", "yes", "true", "bounding",
     "coordinate", "coordinates", "b"}
)  # fmt: skip


def states_form(question: str, key: str | None = None) -> bool:
    """Tell whether a question says what shape or length of answer it wants.

    `key` is its `question_key`, if that is known already.  The format prompts of LLaVA and the
    paper, the usual wordings of others, listed options and questions for boxes; a wording that is
    not among them counts as none.
    """
    words = (question_key(question) if key is None else key).split()
    if not _WORDS.isdisjoint(words) and _ASKED.search(question):
        return True
    return has_format_prompt(question)


def beginning(key: str) -> str:
    """Return the first two words of a question's key: `what color`, `how many`, `describe the`."""
    return " ".join(key.split(" ", 2)[:2])
