"""An lmms-eval task that asks questions alone or after opening rounds.

`tasks.write_tasks` copies this file beside its tasks as `utils.py`; it needs nothing of cocoift.
A row holds images, the opening questions, their replies where a reference gives them, and the
question, and whether a short answer is a right one to it (`closed`).  Interfaces: lmms-eval 0.7,
`api/task.py`, and `generate_until_multi_round` of its models.
"""

import json

# An answer of at most this many words to an open question counts as collapsed.
SHORT_WORDS = 3


def doc_to_visual(doc, lmms_eval_specific_kwargs=None):
    """Return the row's images as RGB."""
    return [image.convert("RGB") for image in doc["images"]]


def doc_to_messages(doc, round_idx=None, previous_output=None, previous_round_info=None):
    """Return the chat so far, ending in the question to answer next.

    In a further round: (chat, whether the dialog is over, the answers so far, None).
    """
    replies = list(doc["replies"]) if round_idx is None else list(previous_output)
    if round_idx is None:
        return _chat(doc, replies)
    over = round_idx > len(doc["opening"])
    return (None if over else _chat(doc, replies)), over, previous_output, None


def doc_to_text(
    doc,
    lmms_eval_specific_kwargs=None,
    round_idx=None,
    previous_output=None,
    previous_round_info=None,
):
    """Return the same as text, for models without a chat interface: LLaVA's JSON conversation.

    In a further round: (images, text, whether the dialog is over, the answers so far, None).
    """
    replies = list(doc["replies"]) if round_idx is None else [*map(_text, previous_output)]
    if round_idx is None:
        return _as_json(doc, replies)
    if round_idx > len(doc["opening"]):
        return None, None, True, previous_output, None
    return doc_to_visual(doc), _as_json(doc, replies), False, previous_output, None


def process_results(doc, results):
    """Return the dialog and the length of its last answer, for both metrics."""
    answers = results[0] if isinstance(results[0], (list, tuple)) else results[:1]
    texts = [*doc["replies"], *map(_text, answers)]
    rounds = [
        {"question": question, "answer": answer}
        for question, answer in zip(_questions(doc), texts, strict=True)
    ]
    result = {"question_id": doc["question_id"], "rounds": rounds, "words": len(texts[-1].split()),
              "closed": doc["closed"]}  # fmt: skip
    return {"words": result, "collapse": result}


def mean_words(rows):
    """Return the mean number of words of the last answers; empty replies are none."""
    counts = [row["words"] for row in rows if row["words"]]
    return sum(counts) / max(1, len(counts))


def share_collapsed(rows):
    """Return the share of last answers to open questions that are short; empty ones are none."""
    counts = [row["words"] for row in rows if row["words"] and not row["closed"]]
    return sum(words <= SHORT_WORDS for words in counts) / max(1, len(counts))


def _questions(doc):
    return [*doc["opening"], doc["question"]]


def _text(answer):
    """Return an answer's text; some models wrap it in a batch of one."""
    while isinstance(answer, (list, tuple)):
        answer = answer[0]
    return (answer or "").strip()


def _chat(doc, replies):
    chat = []
    for number, question in enumerate(_questions(doc)[: len(replies) + 1]):
        images = [] if number else doc_to_visual(doc)
        content = [{"type": "image", "url": image} for image in images]
        content.append({"type": "text", "text": question})
        chat.append({"role": "user", "content": content})
        if number < len(replies):
            reply = [{"type": "text", "text": _text(replies[number])}]
            chat.append({"role": "assistant", "content": reply})
    return chat


def _as_json(doc, replies):
    asked = _questions(doc)[: len(replies) + 1]
    if not replies:
        return asked[0]
    turns = []
    for number, question in enumerate(asked):
        marker = "" if number else "<image>\n"
        turns.append({"from": "human", "value": f"{marker}{question}"})
        turns += [{"from": "gpt", "value": reply} for reply in replies[number : number + 1]]
    return json.dumps(turns)
