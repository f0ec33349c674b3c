"""What hostile bytes are thrown at: every reader, the chat builder, the judge's parser, the HTML.

A target takes bytes and a scratch folder.  It may raise `DataError`, and nothing else, and it
asserts what must hold for what it accepts.
"""

import re
import shutil
import tempfile
from contextlib import suppress
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import msgspec

from cocoift.core.files import DataError
from cocoift.sources import read_catalogue, read_source
from cocoift.sources.catalogue import parts_on_disk
from minicoco import CHAT

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = read_catalogue(ROOT / "data/sources.yaml")
# Elements and attributes that cards use; what hostile text adds to them would be an injection.
TAGS = {"section", "div", "strong", "table", "thead", "tbody", "tr", "th", "td", "p", "h3", "h4",
        "span", "summary", "details", "caption", "colgroup", "col", "pre", "em"}  # fmt: skip


def seeds(raw):
    """Return, for every target, the bytes of a whole input: those of a small mini-COCO."""
    found = {}
    for name, part, role in source_files(raw):
        found[f"source/{name}/{role}"] = parts_files(raw, name, part)[role].read_bytes()
    mixture = raw / "llava_mix/llava_v1_5_mix665k.json"
    record = {"id": "9", "image": "train2017/000000000009.jpg", "sources": ["vqav2"],
              "conversations": [{"from": "human", "value": "<image>\nWhat?"},
                                {"from": "gpt", "value": "a cat"}]}  # fmt: skip
    rollout = {"question_id": "q", "images": ["1.png"], "rounds": [], "failure": ""}
    decision = {"image_id": 9, "source": "s", "dialog_id": "d", "round": 0, "decision": "flag"}
    texts = {
        "mixture": mixture.read_bytes(),
        "dataset": mixture.read_bytes(),
        "answers": b'{"question_id": 9, "text": "A cat.", "prompt": "What?"}\n' * 2,
        "upstream": (raw / "vqa_e/VQA-E_train_set.json").read_bytes(),
        "records": msgspec.json.encode([record]),
        "chat": msgspec.json.encode(record),
        "html": msgspec.json.encode(record),
        "grade": b"Grade: 0.7",
        "prompt": b"{question} {answer} {ground_truth}",
        "mm_vet": (raw / "mm_vet/mm-vet.json").read_bytes(),
        "infimm_eval": (raw / "infimm_eval/core-mm.json").read_bytes(),
        "llava_bench": (raw / "evaluation/qa90_questions.jsonl").read_bytes(),
        "evaluation": (raw / "evaluation/qa90_questions.jsonl").read_bytes(),
        "instances": (raw / "annotations/instances_train2017.json").read_bytes(),
        "rollout": b'{"key":"k","model":"m","protocol":"p"}\n' + msgspec.json.encode(rollout),
        "curation": msgspec.json.encode(decision) + b"\n",
        "catalogue": (ROOT / "data/sources.yaml").read_bytes()[:3000],
        "synonyms": (ROOT / "data/coco_synonyms.txt").read_bytes()[:2000],
        "picture": next((raw / "images/train2017").iterdir()).read_bytes(),
        "png": png_seed(),
        "archive": archive_seed(),
        "lmms_eval": lmms_eval_seed(),
        "vlmevalkit": b"index\tquestion\tprediction\n"
        b"q\t['<ImageHere>Is it?', 'Why?']\t['no', 'x']\n",
        "coco_name": b"COCO_train2014_000000000009.jpg",
        "path": b"train2017/000000000009.jpg",
    }
    return found | texts | tables(raw)


def tables(raw):
    """Return the bytes of a whole file of every kind that a run leaves in Parquet."""
    from cocoift.merge.export import export_mixture
    from cocoift.merge.layouts import MERGED
    from cocoift.merge.partitioned import MergeInputs, merge_tables
    from cocoift.merge.rules import Rules
    from cocoift.sources import read_all
    from cocoift.sources.instances import read_listed, write_instances

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        read = read_all({"vqav2": CATALOGUE["vqav2"]}, raw, folder)
        merged = folder / "turns.parquet"
        merge_tables([*read.values()], out=merged, inputs=MergeInputs(rules=Rules()))
        export_mixture(merged, folder, name="merged", layout=MERGED, budget=900)
        coco = read_listed([raw / "annotations/instances_train2017.json"])
        write_instances(coco, folder / "instances.parquet")
        files = {"turn_table": read["vqav2"], "kept_turns": merged}
        names = ("merged", "dropped", "instances")
        files |= {f"{name}_table": folder / f"{name}.parquet" for name in names}
        return {name: path.read_bytes() for name, path in files.items()}


def png_seed():
    import io

    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    made, texts = io.BytesIO(), PngInfo()
    texts.add_text("Comment", "x" * 99, zip=True)
    Image.new("RGB", (5, 4), "red").save(made, "png", pnginfo=texts)
    return made.getvalue()


def lmms_eval_seed():
    rounds = [{"question": text, "answer": "no"} for text in ("Is it?", "Why?")]
    return msgspec.json.encode({"collapse": {"question_id": "q", "rounds": rounds}}) + b"\n"


def archive_seed():
    import io
    import zipfile

    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a/b.json", "{}")
    return made.getvalue()


def parts_files(raw, name, part):
    return list(parts_on_disk(CATALOGUE[name], raw))[part][0]


def source_files(raw):
    """Yield (source, part, role) for every file that some reader reads."""
    for name, entry in CATALOGUE.items():
        for number, (files, missing) in enumerate(parts_on_disk(entry, raw)):
            if entry.reader and not missing:
                yield from ((name, number, role) for role in files)


def targets(raw, scratch):
    """Return the functions of one argument, the bytes, by name."""
    found = {}
    for name, part, role in source_files(raw):
        found[f"source/{name}/{role}"] = partial(read_altered, raw, scratch, name, part, role)
    for name in ("mixture", "dataset", "answers", "upstream", "records", "chat", "html", "grade",
                 "prompt", "evaluation", "instances", "rollout", "curation", "catalogue",
                 "synonyms", "picture", "png", "archive", "coco_name", "path", "lmms_eval",
                 "vlmevalkit", "turn_table", "kept_turns", "merged_table"):  # fmt: skip
        found[name] = partial(globals()[name], scratch)
    for name in ("dropped", "instances"):
        found[f"{name}_table"] = partial(beside_turns, raw, f"{name}.parquet", scratch)
    for kind in ("mm_vet", "infimm_eval", "llava_bench"):
        found[kind] = partial(benchmark, scratch, kind)
    return found


def tried(target, content):
    """Run a target; a documented error is as good as an answer."""
    with suppress(DataError):
        target(content)


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def read_altered(raw, scratch, name, part, role, content):
    """Read a source one of whose files holds `content`."""
    folder = scratch / name
    entry = CATALOGUE[name]
    if not folder.exists():
        for files, missing in parts_on_disk(entry, raw):
            for path in () if missing else files.values():
                (folder / path.relative_to(raw)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder / path.relative_to(raw))
    path = parts_files(raw, name, part)[role]
    copy = folder / path.relative_to(raw)
    copy.write_bytes(content)
    try:
        turns = read_source(name, entry, folder).turns
        assert turns["image_id"].null_count == 0
    finally:
        shutil.copy(path, copy)


def mixture(scratch, content):
    from cocoift.report.analysis import (
        mixture_table,
        mixture_turns,
        placement_sentence,
        placement_table,
    )

    turns, _ = mixture_turns(written(scratch, "mixture.json", content))
    mixture_table(turns)
    placement_table(turns)
    placement_sentence(turns, "x")


def dataset(scratch, content):
    from cocoift.evaluation.answers import dataset_answers
    from cocoift.evaluation.lengths import record_rounds

    for name in ("dataset.json", "dataset.jsonl"):
        path = written(scratch, name, content)
        tried(lambda path: dataset_answers(path, name="d", wanted=20), path)
        tried(record_rounds, path)


def answers(scratch, content):
    from cocoift.evaluation.answers import file_answers
    from cocoift.evaluation.benchmarks import Question

    asked = [Question(id="9", images=("9.jpg",), text="What?")]
    for questions in ([], asked):
        table, _ = file_answers(written(scratch, "answers.jsonl", content), questions=questions)
        assert table.image.ne("").all()


def upstream(scratch, content):
    """A record about the turn's image is shown, or none, whatever the file holds."""
    from cocoift.inspector.raw_annotations import raw_annotations

    entry = CATALOGUE["vqa_e"]
    (scratch / "vqa_e").mkdir(exist_ok=True)
    written(scratch, next(iter(entry.parts[0].values())), content)
    about = re.search(rb'"img_id":\s?(\d{1,9})\D', content)
    turn = {"image_id": int(about[1]) if about else 9, "dialog_id": "x", "answer": "cat. It is.",
            "question": "what color is the cat?"}  # fmt: skip
    for text in raw_annotations(entry, scratch, turn).values():
        assert text


def records(scratch, content):
    from cocoift.core.schema import read_records
    from cocoift.merge.formats import encode_records

    read = read_records(written(scratch, "records.json", content))
    encode_records(read)
    assert all(".." not in record.image.split("/") for record in read)


def decoded_record(content):
    from cocoift.core.schema import Record, check_record

    try:
        record = msgspec.json.decode(content, type=Record)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(str(error)) from error
    check_record(record)
    return record


def tokenizer():
    """Return a tokenizer with a token for every byte, and those a checkpoint's has."""
    if not hasattr(tokenizer, "made"):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        specials = ["<pad>", "<s>", "</s>", "<image>"]
        words = {word: number for number, word in enumerate([*specials, *alphabet])}
        made = Tokenizer(models.BPE(vocab=words, merges=[]))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        made.add_special_tokens(specials)
        tokenizer.made = PreTrainedTokenizerFast(
            tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
        )
    return tokenizer.made


def chat(scratch, content):
    """A record's answers, and nothing else, carry loss; hostile text adds no image and no end."""
    from cocoift.tuning.chat import Encoding
    from cocoift.tuning.data import samples

    record, known = decoded_record(content), tokenizer()
    made, _ = samples([record], Encoding(known, CHAT, 4, 100_000))
    image, end = known.convert_tokens_to_ids("<image>"), known.eos_token_id
    answers = [m.value for m in record.conversations if m.speaker == "gpt"]
    for sample in made:
        ids = list(sample.input_ids)
        assert ids.count(image) == 4
        assert ids.count(end) == len(sample.spans)
    texts = [known.decode(list(s.input_ids)[a : b - 1]) for s in made for a, b in s.spans]
    assert [text.strip() for text in texts] == [text.strip() for text in answers[: len(texts)]]


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def html(scratch, content):
    """No text adds an element, a handler or an address to a card."""
    from cocoift.inspector import cards as inspect_cards
    from cocoift.report.cards import dialog_card, record_card

    record = decoded_record(content)
    names = {source: source for source in record.sources}
    pairs = [(m.value, m.value) for m in record.conversations]
    shown = [
        record_card(record, image_root=scratch, names=names),
        inspect_cards.raw_card(record.id, record.image),
        inspect_cards.image_card(title=record.id, drawn="", parts=[]),
        dialog_card(scratch, "none.jpg", title=record.id, dialogs={record.id: pairs}),
    ]
    for page in shown:
        parsed = Elements()
        parsed.feed(page)
        for tag, attrs in parsed.seen:
            assert tag in TAGS, tag
            assert not any(name.startswith("on") for name in attrs)
            assert "javascript:" not in str(attrs.get("href", ""))


def grade(scratch, content):
    from cocoift.evaluation.endpoint_judge import grade

    value = grade(content.decode(errors="replace"))
    assert value is None or 0.0 <= value <= 1.0


def prompt(scratch, content):
    from cocoift.evaluation.benchmarks import Question
    from cocoift.evaluation.endpoint_judge import prompt_text

    text = content.decode(errors="replace")
    question = Question(id="q", images=(), text="{answer}{question}", answer=text)
    filled = prompt_text("Q {question} T {ground_truth} A {answer}", question, text)
    assert filled.startswith("Q {answer}{question} T ") and filled.endswith(f"A {text}")
    prompt_text(text, question, "a")


def evaluation(scratch, content):
    from cocoift.sources.scope import evaluation_image_ids

    for name in ("e.jsonl", "e.json"):
        tried(evaluation_image_ids, written(scratch, name, content))


def instances(scratch, content):
    from cocoift.evaluation.faithfulness import instance_categories
    from cocoift.sources.instances import read_instances, read_listed, write_instances
    from cocoift.sources.scope import read_scope

    path = written(scratch, "instances.json", content)
    for read in (lambda p: read_scope([p], []), read_instances, lambda p: instance_categories([p])):
        tried(read, path)
    write_instances(read_listed([path]), scratch / "instances.parquet")


def benchmark(scratch, kind, content):
    from cocoift.evaluation.benchmarks import read_benchmark

    suffix = "jsonl" if kind == "llava_bench" else "json"
    read_benchmark(written(scratch, f"{kind}.{suffix}", content), kind)


def rollout(scratch, content):
    from cocoift.evaluation.rollout import read_log

    read_log(written(scratch, "rollout.jsonl", content))


def curation(scratch, content):
    from cocoift.merge.curation import curated_turns, read_decisions

    curated_turns(read_decisions(written(scratch, "curation.jsonl", content)))


def catalogue(scratch, content):
    read_catalogue(written(scratch, "sources.yaml", content))


def synonyms(scratch, content):
    from cocoift.evaluation.faithfulness import read_lexicon

    read_lexicon(written(scratch, "synonyms.txt", content)).mentions("a cat and two dogs")


def picture(scratch, content):
    from cocoift.core.images import LARGEST_PIXELS, open_image

    opened = open_image(written(scratch, "picture.jpg", content))
    assert opened.mode == "RGB" and opened.width * opened.height <= LARGEST_PIXELS


png = picture


def archive(scratch, content):
    """Nothing is written outside the folder, and no link inside it."""
    from cocoift.sources.download import unpack

    outside = scratch / "outside"
    shutil.rmtree(outside, ignore_errors=True)
    (outside / "in").mkdir(parents=True)
    with suppress(DataError):
        unpack(written(scratch, "archive.zip", content), outside / "in")
    assert [path.name for path in outside.iterdir()] == ["in"]
    assert not any(path.is_symlink() for path in outside.rglob("*"))


def coco_name(scratch, content):
    from cocoift.core.schema import coco_id

    text = content.decode(errors="replace")
    found = coco_id(text)
    assert found >= 0 and re.search(r"\d", text)


def path(scratch, content):
    """No name leads out of the root, but through a link at its top; nor do links further down."""
    from cocoift.core.files import inside

    root, disk = scratch / "root", scratch / "disk/shared"
    if not root.exists():
        disk.mkdir(parents=True)
        (root / "val2017").mkdir(parents=True)
        (root / "train2017").symlink_to(disk)
        (root / "val2017/out").symlink_to(scratch)
        (disk / "out").symlink_to(scratch)
    found = inside(root, content.decode(errors="replace"))
    assert any(found.is_relative_to(place.resolve()) for place in (root, disk))


def logged(scratch, name, content):
    from cocoift.evaluation.answers import LoggedAnswers
    from cocoift.evaluation.benchmarks import Benchmark, Question
    from cocoift.evaluation.harness.logs import logged_run
    from cocoift.evaluation.protocols import Protocol

    asked = Benchmark("b", "mm_vet", [Question(id="q", images=(), text="Why?", answer="x")],
                      scratch, "digest")  # fmt: skip
    protocol = Protocol(name="multi_round", opening=("Is it?",))
    log = LoggedAnswers(name="m", benchmark="b", protocol=protocol.name, file=name)
    written(scratch, name, content)
    run = logged_run(log, asked, protocol, raw=scratch, folder=scratch)
    assert [rollout.question_id for rollout in run.rollouts] == ["q"]


def lmms_eval(scratch, content):
    logged(scratch, "log.jsonl", content)


def vlmevalkit(scratch, content):
    logged(scratch, "log.tsv", content)


def turn_table(scratch, content):
    """A damaged turn table is refused by all that read it, or none of its turns is lost."""
    from cocoift.core.schema import TURN_SCHEMA
    from cocoift.merge.partitioned import MergeInputs, merge_tables
    from cocoift.merge.rules import Rules
    from cocoift.report.merge import busiest_image
    from cocoift.sources.reading import load_reading
    from cocoift.sources.scope import Scope

    path = written(scratch, "vqav2.parquet", content)
    tried(partial(busiest_image, scope=Scope()), [path])
    turns = load_reading(path).turns
    merged = merge_tables([path], out=scratch / "out.parquet", inputs=MergeInputs(rules=Rules()))
    assert turns.schema.equals(TURN_SCHEMA)
    assert sum(merged.kept.values()) + sum(merged.drops.values()) == len(turns)


def kept_turns(scratch, content):
    from cocoift.core.schema import kept_by_image
    from cocoift.evaluation.answers import source_answers
    from cocoift.merge.export import image_licences
    from cocoift.merge.rules import Rules
    from cocoift.report.merge import kept_table, prompted_table
    from cocoift.sources.scope import Scope

    path = written(scratch, "turns.parquet", content)
    for read in (
        lambda path: list(kept_by_image(path)),
        source_answers,
        partial(prompted_table, words=3),
        partial(kept_table, rules=Rules()),
        partial(image_licences, scope=Scope()),
        lambda path: inspected(path.parent),
    ):
        tried(read, path)


def inspected(folder):
    from cocoift.inspector.data import Filter, open_inspection

    opened = open_inspection(folder, image_root=folder, instances=folder / "instances.parquet")
    opened.images(Filter(text="a", conflicts=True))
    for image_id in opened.turns.ids[:3]:
        opened.view(int(image_id))


def merged_table(scratch, content):
    from cocoift.evaluation.answers import dataset_answers
    from cocoift.evaluation.lengths import record_rounds
    from cocoift.report.merge import example_records
    from cocoift.tuning.data import split_images

    path = written(scratch, "merged.parquet", content)
    for read in (
        record_rounds,
        partial(dataset_answers, name="m"),
        partial(example_records, count=2, image_root=scratch),
        partial(split_images, held_out=1),
    ):
        tried(read, path)


def beside_turns(raw, name, scratch, content):
    """Inspect the merged set with one of its other files altered."""
    folder = scratch / f"beside_{name}"
    if not folder.exists():
        folder.mkdir()
        (folder / "turns.parquet").write_bytes(tables(raw)["kept_turns"])
    written(folder, name, content)
    inspected(folder)
