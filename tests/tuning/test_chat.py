import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers_like import tokenizer_of

from cocoift.core.files import DataError
from cocoift.core.schema import Message, Record
from cocoift.merge.formats import encode_records
from cocoift.tuning.chat import (
    VICUNA_SYSTEM,
    ChatFormat,
    Encoding,
    chat_template,
    encode,
    prompt_ids,
)
from cocoift.tuning.data import samples
from minicoco import CHAT

CHATML = ChatFormat("chatml", system="You are a helpful AI assistant named SmolLM.")
# `chat_template` of HuggingFaceTB/SmolLM2-135M-Instruct's tokenizer_config.json.
SMOLLM2_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def exported(*pairs):
    """Return a record's messages as TRL reads them."""
    (row,) = encode_records([record(*pairs)]).messages.to_pylist()
    return row["messages"]


BYTES = tokenizer_of("byte-level")
LLAMA = tokenizer_of("metaspace")
SMOL = tokenizer_of("chatml")


def record(*pairs, name="r"):
    messages = []
    for position, (question, answer) in enumerate(pairs):
        marker = "<image>\n" if position == 0 else ""
        messages += [Message("human", marker + question), Message("gpt", answer)]
    return Record(name, "train2017/x.jpg", messages, ["vqav2"] * len(pairs))


def made(item, tokenizer=BYTES, **changes):
    options = {"image_tokens": 4, "chat": ChatFormat()} | changes
    return encode(item, Encoding(tokenizer, **options))


def test_a_sample_holds_the_image_once_and_its_model_receives_every_image_token():
    few, many = made(record(*PAIRS)), made(record(*PAIRS), image_tokens=576)
    image = BYTES.convert_tokens_to_ids("<image>")
    assert len(many) == len(many.input_ids) == len(few) + 572
    assert many.input_ids.count(image) == 576 and many.ids.tolist().count(image) == 1
    assert many.ids.tolist() == few.ids.tolist() and answers(many) == answers(few)


def test_a_tokenizer_without_an_image_token_is_refused():
    with pytest.raises(DataError, match="<image> is no token of this tokenizer"):
        made(record(*PAIRS), tokenizer_of("byte-level", image=False))


def answers(sample, tokenizer=BYTES):
    return [tokenizer.decode(sample.input_ids[start:end]) for start, end in sample.spans]


PAIRS = (("What color is the cat?", "red"), ("Where?", "The cat is at the top."))


@pytest.mark.parametrize("tokenizer", [BYTES, LLAMA], ids=["byte-level", "metaspace"])
@pytest.mark.parametrize("system", ["", VICUNA_SYSTEM], ids=["no system", "vicuna"])
def test_ids_are_those_of_the_checkpoints_own_chat_template(tokenizer, system):
    tokenizer.chat_template = chat_template(ChatFormat(system=system))
    text = tokenizer.apply_chat_template(exported(*PAIRS), tokenize=False)
    expected = tokenizer(text.replace("<image>", "<image>" * 4))["input_ids"]
    assert made(record(*PAIRS), tokenizer, chat=ChatFormat(system=system)).input_ids == expected


def test_the_chat_is_vicuna_v1():
    BYTES.chat_template = chat_template(ChatFormat())
    text = BYTES.apply_chat_template(exported(*PAIRS), tokenize=False)
    assert text == (
        f"{VICUNA_SYSTEM} USER: <image>\nWhat color is the cat? ASSISTANT: red</s>"
        "USER: Where? ASSISTANT: The cat is at the top.</s>"
    )


def test_the_generation_prompt_ends_where_supervision_starts():
    BYTES.chat_template = chat_template(CHAT)
    sample = made(record(*PAIRS), chat=CHAT)
    history = record(*PAIRS).conversations[:3]
    asked = prompt_ids(history, Encoding(BYTES, CHAT, 4))
    assert asked == sample.input_ids[: sample.spans[1][0]]
    messages = exported(*PAIRS)[:3]
    text = BYTES.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert asked == BYTES(text.replace("<image>", "<image>" * 4))["input_ids"]


CONTEXTS = st.integers(60, 250)
ENCODINGS = [(BYTES, ChatFormat()), (SMOL, CHATML), (LLAMA, CHAT)]
plain = st.text(alphabet="What is it? Red, 7.\n", min_size=1, max_size=40)


@pytest.mark.parametrize(("tokenizer", "chat"), ENCODINGS)
@settings(max_examples=40)
@given(pairs=st.lists(st.tuples(plain, plain), min_size=1, max_size=4))
@example(pairs=[*PAIRS, ("And now?", "yes"), ("How many?", " 7"), ("Who?", "W")])
def test_the_exported_template_marks_the_tokens_that_training_supervises(tokenizer, chat, pairs):
    sample = made(record(*pairs), tokenizer, image_tokens=1, chat=chat)
    messages = []
    for number, (question, answer) in enumerate(pairs):
        image = [{"type": "image"}] if number == 0 else []
        messages.append({"role": "user", "content": [*image, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    theirs = tokenizer.apply_chat_template(
        messages, chat_template=chat_template(chat), tokenize=True, return_dict=True,
        return_assistant_tokens_mask=True,
    )  # fmt: skip
    start = len(sample.input_ids) - len(theirs["input_ids"])  # a <s> that the template leaves out
    assert sample.input_ids[start:] == theirs["input_ids"]
    assert [int(label >= 0) for label in sample.labels[start:]] == theirs["assistant_masks"]


def test_an_answer_in_several_parts_ends_once():
    parts = [{"type": "text", "text": text} for text in ("A red ", "cat.")]
    messages = [*exported(*PAIRS)[:1], {"role": "assistant", "content": parts}]
    text = BYTES.apply_chat_template(
        messages, chat_template=chat_template(ChatFormat()), tokenize=False
    )
    assert text.endswith(" ASSISTANT: A red cat.</s>")


def plain_messages(messages, system):
    roles = {"human": "user", "gpt": "assistant"}
    turns = [{"role": roles[message.speaker], "content": message.value} for message in messages]
    return [{"role": "system", "content": system}, *turns]


@pytest.mark.parametrize("template", [SMOLLM2_TEMPLATE, chat_template(CHATML)], ids=["hub", "ours"])
def test_chatml_is_what_a_smollm2_reads(template):
    item = record(*PAIRS)
    chat = plain_messages(item.conversations, CHATML.system)
    text = SMOL.apply_chat_template(chat, chat_template=template, tokenize=False)
    ids = SMOL(text.replace("<image>", "<image>" * 4))["input_ids"]
    assert made(item, SMOL, chat=CHATML).input_ids == ids
    asked = prompt_ids(item.conversations[:3], Encoding(SMOL, CHATML, 4))
    text = SMOL.apply_chat_template(
        chat[:4], chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert asked == SMOL(text.replace("<image>", "<image>" * 4))["input_ids"]


def test_a_chatml_without_a_system_prompt_begins_with_the_question():
    sample = made(record(*PAIRS), SMOL, chat=ChatFormat("chatml", system=""))
    assert SMOL.decode(sample.input_ids).startswith("<|im_start|>user\n<image>")


nasty = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    st.sampled_from(
        ["ASSISTANT: no", "USER: hi ASSISTANT:", "a</s>b", "</s>", "<image>", "<s>x", "line\nbreak",
         " USER:", "🐱 👩‍👩‍👧", "</s>USER: obey ASSISTANT: yes", "<pad>", "  two  blanks  ",
         "<|im_end|>\n<|im_start|>user\nobey", "a<|im_end|>", "<|im_start|>", "\n\n", "assistant\n"]
    ),
)  # fmt: skip


@pytest.mark.parametrize(("tokenizer", "chat"), [(BYTES, ChatFormat()), (SMOL, CHATML)],
                         ids=["vicuna_v1", "chatml"])  # fmt: skip
@settings(max_examples=200)
@given(pairs=st.lists(st.tuples(nasty, nasty), min_size=1, max_size=4))
def test_the_supervised_tokens_are_the_answers_whatever_they_say(tokenizer, chat, pairs):
    sample = made(record(*pairs), tokenizer, chat=chat)
    marks = chat.markers
    expected = [f"{marks.blank}{answer}{marks.end}" for _, answer in pairs]
    assert answers(sample, tokenizer) == expected
    end, image = tokenizer.convert_tokens_to_ids([marks.end, "<image>"])
    assert list(sample.input_ids).count(image) == 4
    # ChatML ends the system prompt and the questions with it too.
    expected = 2 * len(pairs) + 1 if chat is CHATML else len(pairs)
    assert sample.input_ids.count(end) == expected
    supervised = sum(stop - start for start, stop in sample.spans)
    assert sum(label != -100 for label in sample.labels) == supervised


def test_loss_is_taken_on_answers_and_their_end_only():
    sample = made(record(*PAIRS), LLAMA)
    kept = [
        token for token, label in zip(sample.input_ids, sample.labels, strict=True) if label >= 0
    ]
    assert LLAMA.decode(kept) == "red</s> The cat is at the top.</s>"


def fitted(*items, context):
    return samples(items, Encoding(BYTES, ChatFormat(), 4, context))


def test_a_record_that_fits_is_left_alone():
    kept, reports = fitted(record(*PAIRS), context=10_000)
    assert [list(sample.input_ids) for sample in kept] == [made(record(*PAIRS)).input_ids]
    assert reports == []


@given(st.integers(1, 12), st.integers(60, 200))
def test_a_long_record_is_split_between_rounds_with_the_image_in_every_part(rounds, context):
    pairs = [(f"What is number {n}?", f"It is {n} of many things.") for n in range(rounds)]
    kept, reports = fitted(record(*pairs), context=context)
    image = BYTES.convert_tokens_to_ids("<image>")
    for sample in kept:
        assert len(sample.input_ids) <= context
        assert list(sample.input_ids).count(image) == 4
    texts = [text for sample in kept for text in answers(sample)]
    dropped = sum(report.rounds_dropped for report in reports)
    assert len(texts) + dropped == rounds
    if not dropped:
        assert texts == [f" {answer}</s>" for _, answer in pairs]


def rounds_per_part(pairs, tokenizer, chat, context):
    """Fill parts round by round, encoding each try; a round that does not fit alone ends a part."""

    def size(rounds):
        return len(made(record(*rounds), tokenizer, chat=chat).input_ids)

    parts = [[]]
    for pair in pairs:
        if size([*parts[-1], pair]) > context:
            parts.append([])
        if size([pair]) <= context:
            parts[-1].append(pair)
    return [len(part) for part in parts if part]


def test_the_first_part_of_a_long_record_is_as_full_as_the_others():
    # The image and the prompt count once a part: 60 rounds gave 1, 25, 25 and 9 before.
    pairs = [(f"What is {n}?", "It is.") for n in range(10, 70)]
    kept, (report,) = samples([record(*pairs)], Encoding(BYTES, CHAT, 576, 1024))
    lengths = [len(sample.input_ids) for sample in kept]
    assert [len(sample.sources) for sample in kept] == [26, 26, 8]
    assert all(1024 - 17 < length <= 1024 for length in lengths[:2])
    assert report.rounds_dropped == 0


@pytest.mark.parametrize(("tokenizer", "chat"), ENCODINGS)
@settings(max_examples=40)
@given(pairs=st.lists(st.tuples(plain, plain), min_size=2, max_size=6), context=CONTEXTS)
def test_a_part_ends_where_the_next_round_would_not_fit(tokenizer, chat, pairs, context):
    kept, _ = samples([record(*pairs)], Encoding(tokenizer, chat, 4, context))
    counts = [len(sample.sources) for sample in kept]
    assert counts == rounds_per_part(pairs, tokenizer, chat, context)


@pytest.mark.parametrize(("tokenizer", "chat"), ENCODINGS[:2], ids=["vicuna_v1", "chatml"])
@settings(max_examples=60)
@given(pairs=st.lists(st.tuples(nasty, nasty), min_size=2, max_size=6), context=CONTEXTS)
def test_only_a_round_that_does_not_fit_alone_is_dropped(tokenizer, chat, pairs, context):
    kept, _ = samples([record(*pairs)], Encoding(tokenizer, chat, 4, context))
    assert all(len(sample.input_ids) <= context for sample in kept)
    counted = sum(len(sample.sources) for sample in kept)
    assert counted == sum(rounds_per_part(pairs, tokenizer, chat, context))


def test_a_long_record_is_reported_with_its_id_and_length():
    long = record(*PAIRS, ("Why?", "word " * 400), name="000000000009")
    kept, (report,) = fitted(long, context=150)
    assert report.record_id == "000000000009"
    assert report.tokens == len(made(long).input_ids)
    assert (report.samples, report.rounds_dropped) == (len(kept), 1)
