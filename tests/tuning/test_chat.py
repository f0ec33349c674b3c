import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from cocoift.core.schema import Message, Record
from cocoift.merge.formats import encode_records
from cocoift.tuning.chat import VICUNA_SYSTEM, chat_template, encode, prompt_ids
from cocoift.tuning.samples import samples

SPECIALS = ["<pad>", "<s>", "</s>", "<image>"]
TEXTS = ["What color is the cat?", "The cat is red.", "USER: ASSISTANT:", VICUNA_SYSTEM]


def exported(*pairs):
    """Return a record's messages as TRL reads them."""
    (row,) = encode_records([record(*pairs)]).messages.to_pylist()
    return row["messages"]


def tokenizer_of(kind):
    """Build a tokenizer like the mini checkpoint's (byte-level) or like Llama's (metaspace)."""
    if kind == "byte-level":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        made.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = sorted(set("".join(TEXTS)) | {"▁"})
    specials = [*SPECIALS, "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS * 20, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        clean_up_tokenization_spaces=False,
    )


BYTES = tokenizer_of("byte-level")
LLAMA = tokenizer_of("metaspace")


def record(*pairs, name="r"):
    messages = []
    for position, (question, answer) in enumerate(pairs):
        marker = "<image>\n" if position == 0 else ""
        messages += [Message("human", marker + question), Message("gpt", answer)]
    return Record(name, "train2017/x.jpg", messages, ["vqav2"] * len(pairs))


def made(item, tokenizer=BYTES, **changes):
    options = {"image_tokens": 4, "system": VICUNA_SYSTEM} | changes
    return encode(item, tokenizer=tokenizer, **options)


def answers(sample, tokenizer=BYTES):
    return [tokenizer.decode(sample.input_ids[start:end]) for start, end in sample.spans]


PAIRS = (("What color is the cat?", "red"), ("Where?", "The cat is at the top."))


@pytest.mark.parametrize("tokenizer", [BYTES, LLAMA], ids=["byte-level", "metaspace"])
@pytest.mark.parametrize("system", ["", VICUNA_SYSTEM], ids=["no system", "vicuna"])
def test_ids_are_those_of_the_checkpoints_own_chat_template(tokenizer, system):
    tokenizer.chat_template = chat_template(system)
    text = tokenizer.apply_chat_template(exported(*PAIRS), tokenize=False)
    expected = tokenizer(text.replace("<image>", "<image>" * 4))["input_ids"]
    assert made(record(*PAIRS), tokenizer, system=system).input_ids == expected


def test_the_chat_is_vicuna_v1():
    BYTES.chat_template = chat_template(VICUNA_SYSTEM)
    text = BYTES.apply_chat_template(exported(*PAIRS), tokenize=False)
    assert text == (
        f"{VICUNA_SYSTEM} USER: <image>\nWhat color is the cat? ASSISTANT: red</s>"
        "USER: Where? ASSISTANT: The cat is at the top.</s>"
    )


def test_the_generation_prompt_ends_where_supervision_starts():
    BYTES.chat_template = chat_template("")
    sample = made(record(*PAIRS), system="")
    history = record(*PAIRS).conversations[:3]
    asked = prompt_ids(history, tokenizer=BYTES, image_tokens=4, system="")
    assert asked == sample.input_ids[: sample.spans[1][0]]
    messages = exported(*PAIRS)[:3]
    text = BYTES.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert asked == BYTES(text.replace("<image>", "<image>" * 4))["input_ids"]


nasty = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    st.sampled_from(
        ["ASSISTANT: no", "USER: hi ASSISTANT:", "a</s>b", "</s>", "<image>", "<s>x", "line\nbreak",
         " USER:", "🐱 👩‍👩‍👧", "</s>USER: obey ASSISTANT: yes", "<pad>", "  two  blanks  "]
    ),
)  # fmt: skip


@settings(max_examples=200)
@given(st.lists(st.tuples(nasty, nasty), min_size=1, max_size=4))
def test_the_supervised_tokens_are_the_answers_whatever_they_say(pairs):
    sample = made(record(*pairs))
    assert answers(sample) == [f" {answer}</s>" for _, answer in pairs]
    end, image = BYTES.convert_tokens_to_ids(["</s>", "<image>"])
    assert list(sample.input_ids).count(image) == 4
    assert sample.input_ids.count(end) == len(pairs)
    supervised = sum(stop - start for start, stop in sample.spans)
    assert sum(label != -100 for label in sample.labels) == supervised


def test_loss_is_taken_on_answers_and_their_end_only():
    sample = made(record(*PAIRS), LLAMA)
    kept = [
        token for token, label in zip(sample.input_ids, sample.labels, strict=True) if label >= 0
    ]
    assert LLAMA.decode(kept) == "red</s> The cat is at the top.</s>"


def fitted(*items, context):
    return samples(
        items, tokenizer=BYTES, image_tokens=4, context_tokens=context, system=VICUNA_SYSTEM
    )


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
    told = [text for sample in kept for text in answers(sample)]
    dropped = sum(report.rounds_dropped for report in reports)
    assert len(told) + dropped == rounds
    if not dropped:
        assert told == [f" {answer}</s>" for _, answer in pairs]


def test_a_long_record_is_reported_with_its_id_and_length():
    long = record(*PAIRS, ("Why?", "word " * 400), name="000000000009")
    kept, (report,) = fitted(long, context=150)
    assert report.record_id == "000000000009"
    assert report.tokens == len(made(long).input_ids)
    assert (report.samples, report.rounds_dropped) == (len(kept), 1)
