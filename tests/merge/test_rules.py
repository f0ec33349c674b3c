import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cocoift.core.files import DataError
from cocoift.core.schema import Turn
from cocoift.core.text import estimate_tokens, token_counter
from cocoift.merge.rules import Rules, merge_image, pack, shuffled_dialogs
from cocoift.sources.scope import Scope

RULES = Rules(context_tokens=400, image_tokens=16, record_tokens=4, turn_tokens=2)


def turn(
    question="What is it?", answer="a cat", *, source="vqav2", dialog="1", at=0, form="phrase"
):
    prompt = "Answer the question with a short phrase."
    instruction = f"{question} {prompt}" if form == "phrase" and question else question
    return Turn(9, source, dialog, at, question, instruction, answer, form)


def merge(*turns, rules=RULES, scope=None):
    return merge_image(9, turns, rules=rules, scope=scope or Scope(), count_tokens=estimate_tokens)


def kept(merged):
    return [item[0] for record in merged.records for item in record]


def reasons(merged):
    return {(source, reason): count for source, reason, count in merged.drops}


texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)
turns = st.builds(
    turn,
    texts,
    st.one_of(st.none(), texts),
    source=st.sampled_from(["vqav2", "gqa", "llava_instruct"]),
    dialog=st.sampled_from(["1", "2", "3"]),
    at=st.integers(0, 3),
    form=st.sampled_from(["phrase", "number", "free", "sentence"]),
)
unique_turns = st.lists(turns, max_size=12, unique_by=lambda t: (t.source, t.dialog_id, t.round))


@given(unique_turns)
def test_turns_in_equal_turns_kept_plus_drops(made):
    rules = Rules(context_tokens=120, image_tokens=16)
    merged = merge(*made, rules=rules)
    assert len(made) == len(kept(merged)) + sum(reasons(merged).values())


@given(unique_turns, st.randoms())
def test_the_order_of_turns_does_not_matter(made, rng):
    shuffled = rng.sample(made, len(made))
    assert merge(*shuffled) == merge(*made)


@given(unique_turns)
def test_no_record_passes_the_budget_and_rounds_keep_their_order(made):
    rules = Rules(context_tokens=120, image_tokens=16)
    merged = merge(*made, rules=rules)
    for record in merged.records:
        assert 0 < sum(tokens for _, tokens in record) <= rules.budget
    places = {}
    for item in kept(merged):
        places.setdefault((item.source, item.dialog_id), []).append(item.round)
    assert all(rounds == sorted(rounds) for rounds in places.values())


def test_dialogs_are_shuffled_and_stay_whole():
    dialogs = [
        [turn(f"{d}/{r}?", dialog=str(d), at=r, form="free") for r in range(3)] for d in range(8)
    ]
    merged = merge(*(item for dialog in dialogs for item in dialog))
    (record,) = merged.records
    order = [item.dialog_id for item, _ in record]
    assert order[::3] == order[1::3] == order[2::3]
    assert order[::3] != sorted(order[::3])


def test_the_order_is_fixed_by_the_image_and_the_seed():
    # The expected orders come from coreutils: sort what `printf 0/9/vqav2/4 | b2sum -l 128` gives.
    items = [(turn(dialog=str(number)), 1) for number in range(5)]
    found = [[group[0][0].dialog_id for group in shuffled_dialogs(items, seed=s)] for s in (0, 1)]
    assert found == [["4", "0", "2", "1", "3"], ["4", "1", "0", "2", "3"]]


def test_duplicates_are_found_through_case_blanks_and_prompts():
    merged = merge(
        turn("What is it?", "cat", source="coco_qa"),
        turn("what is IT ?", "Cat.", source="visual_genome_qa"),
        turn("What is it?\nAnswer the question using a single word or phrase.", "cat"),
    )
    assert [item.source for item in kept(merged)] == ["coco_qa"]
    assert reasons(merged) == {("visual_genome_qa", "duplicate"): 1, ("vqav2", "duplicate"): 1}
    assert merged.conflicts == []


def test_the_majority_of_answers_stays_and_the_conflict_is_reported():
    merged = merge(
        turn(answer="dog", source="coco_qa"), turn(answer="cat", source="gqa"), turn(answer="cat")
    )
    assert [(item.source, item.answer) for item in kept(merged)] == [("gqa", "cat")]
    assert reasons(merged) == {("coco_qa", "conflict"): 1, ("vqav2", "duplicate"): 1}
    (conflict,) = merged.conflicts
    assert (conflict.kept, conflict.kept_source) == ("cat", "gqa")
    assert conflict.others == [("coco_qa", "dog")]


def test_a_round_of_a_longer_dialog_stays_before_a_single_question():
    merged = merge(
        turn("Is it old?", "yes", source="a", form="free"),
        turn("What is it?", "a cat", source="z", form="free"),
        turn("Is it old?", "yes", source="z", at=1, form="free"),
    )
    assert [(item.source, item.round) for item in kept(merged)] == [("z", 0), ("z", 1)]


@pytest.mark.parametrize(
    ("first", "second"),
    [("2", "Two."), ("Two.", "2"), ("a dog", "dog"), ("dont know", "don't know"), ("A", "a.")],
)
def test_answers_that_vqas_evaluation_takes_for_one_are_no_conflict(first, second):
    merged = merge(turn(answer=first, source="gqa"), turn(answer=second, source="tallyqa"))
    assert [item.answer for item in kept(merged)] == [first]
    assert reasons(merged) == {("tallyqa", "duplicate"): 1}
    assert merged.conflicts == []


def test_answers_that_agree_vote_together_and_the_one_kept_stays_as_it_was_written():
    merged = merge(
        turn(answer="3", source="coco_qa"),
        turn(answer="Two.", source="gqa", form="number"),
        turn(answer="2", source="tallyqa", form="number"),
    )
    assert [(item.source, item.answer) for item in kept(merged)] == [("gqa", "Two.")]
    (conflict,) = merged.conflicts
    assert (conflict.kept, conflict.others) == ("Two.", [("coco_qa", "3")])


def test_two_descriptions_are_no_contradiction():
    merged = merge(
        turn("", "A cat sits.", source="c", form="sentence")._replace(instruction="Describe."),
        turn("", "One cat.", source="c", dialog="2", form="sentence")._replace(
            instruction="Describe."
        ),
    )
    assert len(kept(merged)) == 1
    assert reasons(merged) == {("c", "alternative"): 1}
    assert merged.conflicts == []


def test_a_question_for_another_form_is_no_duplicate():
    both = (
        turn("What is it?", "cat"),
        turn("What is it?", "It is a cat.", source="l", form="free"),
    )
    assert len(kept(merge(*both))) == 2


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (turn("  ", "cat", form="free"), "empty_question"),
        (turn(None, "cat", form="free"), "empty_question"),
        (turn(answer=" \n "), "empty_answer"),
        (turn(answer=None), "empty_answer"),
        (turn(answer="see <image>"), "stray_image_marker"),
        (turn(answer="word " * 400), "longer_than_context"),
    ],
)
def test_useless_turns_are_dropped_and_counted(made, reason):
    merged = merge(made, turn("Is it red?", "no", dialog="9"))
    assert reasons(merged) == {("vqav2", reason): 1}
    assert len(kept(merged)) == 1


def test_text_is_tidied_and_non_ascii_kept():
    (item,) = kept(merge(turn(" What\n is  it? ", "  un café – 猫 ")))
    assert item.question == "What is it?"
    assert item.answer == "un café – 猫"


@pytest.mark.parametrize(
    ("scope", "reason"),
    [
        (Scope(train=frozenset({8})), "not_in_train2017"),
        (Scope(evaluation=frozenset({9})), "evaluation_image"),
        (Scope(train=frozenset({9}), evaluation=frozenset({9})), "evaluation_image"),
    ],
)
def test_images_out_of_scope_drop_all_their_turns(scope, reason):
    merged = merge(turn(), turn("Is it red?"), scope=scope)
    assert merged.records == []
    assert reasons(merged) == {("vqav2", reason): 2}


def test_what_does_not_fit_starts_a_further_record():
    items = [[(turn(dialog=str(n)), 40)] for n in range(5)]
    assert [len(record) for record in pack(items, budget=100)] == [2, 2, 1]


def test_a_dialog_is_cut_only_when_it_is_longer_than_a_record():
    short, long = [(turn(), 30)], [(turn(at=n), 30) for n in range(3)]
    assert [len(r) for r in pack([short, long], budget=100)] == [1, 3]
    assert [len(r) for r in pack([short, [*long, *long]], budget=100)] == [3, 3, 1]


def test_the_estimate_is_never_below_the_count_of_a_real_tokenizer(tmp_path):
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    rng = random.Random(0)
    words = ["What", "color", "is", "the", "cat", "on", "left", "Answer", "with", "a", "phrase"]
    lines = [" ".join(rng.choices(words, k=9)) for _ in range(200)]
    tokenizer.train_from_iterator(lines, vocab_size=500)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    count = token_counter(tmp_path / "tokenizer.json")
    assert all(count(line) <= estimate_tokens(line) for line in lines)
    assert count("the cat") == 2


def test_a_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.json.*give a checkpoint's tokenizer"):
        token_counter(tmp_path / "absent.json")


@settings(max_examples=20)
@given(unique_turns)
def test_merging_twice_gives_the_same(made):
    assert merge(*made) == merge(*made)


def dialog_of(source, dialog, *rounds):
    return [turn(q, a, source=source, dialog=dialog, at=n) for n, (q, a) in enumerate(rounds)]


def test_with_equal_votes_the_longer_dialog_keeps_its_round():
    long = dialog_of("visdial", "7", ("Is it a cat?", "yes"), ("Is it big?", "no"), ("Why?", "x"))
    merged = merge(*long, turn("Is it big?", "yes", source="aokvqa"))
    assert [t for t in kept(merged) if t.source == "visdial"] == long
    assert reasons(merged) == {("aokvqa", "conflict"): 1}


def test_a_majority_takes_a_round_out_of_a_dialog():
    long = dialog_of("visdial", "7", ("Is it a cat?", "yes"), ("Is it big?", "no"), ("Why?", "x"))
    others = [turn("Is it big?", "yes", source=name) for name in ("aokvqa", "gqa")]
    merged = merge(*long, *others)
    assert reasons(merged) == {("gqa", "duplicate"): 1, ("visdial", "conflict"): 1}


def test_between_dialogs_of_one_length_the_first_source_stays():
    merged = merge(turn("Big?", "no", source="gqa"), turn("Big?", "yes", source="aokvqa"))
    assert [t.source for t in kept(merged)] == ["aokvqa"]
