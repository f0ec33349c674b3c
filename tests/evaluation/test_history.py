"""The worth of the history: the same answers, with what came before them and without it."""

import pytest
from kept_turns import IMAGE

from cocoift.evaluation.history import history_sets
from cocoift.merge.layouts import MIX, records
from cocoift.tuning.chat import Encoding
from cocoift.tuning.model import load_processor
from minicoco import CHAT

FORMS = {"vqav2": "phrase", "aokvqa": "explanation", "refcoco": "phrase", "llava_instruct": "free"}


@pytest.fixture(scope="module")
def encoding(checkpoint):
    return Encoding(load_processor(checkpoint).tokenizer, CHAT, 16, 512)


def answers(data, tokenizer):
    return [tokenizer.decode(sample.input_ids[start:end])
            for sample in data.samples for start, end in sample.spans]  # fmt: skip


def test_later_answers_of_conversations_alone_carry_loss_with_and_without_their_history(encoding):
    made = records([IMAGE], layout=MIX, budget=1000, image_dir="train2017")
    both = history_sets(made, encoding, FORMS)
    for data in both:
        assert [text.strip() for text in answers(data, encoding.tokenizer)] == ["At the top.</s>"]
    texts = [encoding.tokenizer.decode(data.samples[0].input_ids) for data in both]
    assert ["It is a red car." in text for text in texts] == [True, False]
    assert all("Where?" in text and text.count("<image>") == 16 for text in texts)


def test_a_dialog_that_exceeds_the_context_is_in_neither_set(encoding):
    made = list(records([IMAGE], layout=MIX, budget=1000, image_dir="train2017"))
    short = Encoding(encoding.tokenizer, CHAT, 16, 60)
    assert [len(data.samples) for data in history_sets(made, encoding, FORMS)] == [1, 1]
    assert [len(data.samples) for data in history_sets(made, short, FORMS)] == [0, 0]
