"""The merge the plain way: json.load, a dict of lists by image, one loop over the rows.

Written from the rules, not from `merge.rules`, as research code would: it checks the merge as
much as it is compared with it.  Seven sources, no scope, no curation, overflow `split`.
"""

import hashlib
import json
import re
import unicodedata
from collections import Counter, defaultdict

from cocoift.core.text import FORMAT_PROMPTS

PHRASE = "Answer the question with a short phrase."
CLOSED = {"phrase", "number", "yes_no", "choice"}
CHATS = {"llava_instruct": "llava_instruct_150k", "lvis_instruct4v": "lvis_instruct4v_220k"}
NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4",
           "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
           "ten": "10"}  # fmt: skip
BUDGET = 2048 - 576 - 40
TURN_TOKENS = 10


def merge(raw):
    """Return the merged records of the seven sources below `raw`, in order of image."""
    by_image = defaultdict(list)
    for row in rows(raw):
        by_image[row["image_id"]].append(row)
    records = []
    for image_id in sorted(by_image):
        kept = unique(cleaned(by_image[image_id]))
        for number, part in enumerate(packed(shuffled(kept))):
            records.append(record(image_id, number, part))
    return records


def cleaned(found):
    found.sort(key=lambda row: (row["source"], row["dialog_id"], row["round"]))
    kept = []
    for row in found:
        for name in ("question", "instruction", "answer"):
            text = unicodedata.normalize("NFC", row[name] or "")
            row[name] = re.sub(r"\s+", " ", text).strip()
        marked = "<image>" in row["instruction"] + row["answer"]
        if row["instruction"] and row["answer"] and not marked:
            kept.append(row)
    return kept


def key(text):
    """Return the text without prompts, punctuation, case and blanks."""
    for prompt in FORMAT_PROMPTS:
        if prompt.rstrip(".:").lower() in text.lower():
            text = re.sub(re.escape(prompt.rstrip(".:")) + "[.:]?", " ", text, flags=re.I)
    signs = r"(?<!\w)([-+\u2212])(?=\d)|(?<=\d) ?([-+*/=<>\u2212]) ?(?=\d)"
    text = re.sub(signs, lambda found: f" sign {ord(found[1] or found[2])} ", text)
    text = re.sub(r"[^\w\s]|_", " ", text)
    return " ".join(text.split()).casefold()


def answer_key(text):
    """Return the answer as VQA's evaluation compares it; contractions do not occur in the bench."""
    blank = " ".join(re.sub(r"(?<!\w)[-\u2212](?=\d)", "minus ", text).split())
    joined = re.search(r"\d,\d", blank)
    bare = blank
    for mark in ';/[]"{}()=+\\_-><@`,?!':
        joins = joined or f"{mark} " in blank or f" {mark}" in blank
        bare = bare.replace(mark, "" if joins else " ")
    words = re.sub(r"\.(?!\d)", "", bare).lower().split()
    words = [NUMBERS.get(word, word) for word in words]
    kept = [word for word in words if word not in ("a", "an", "the")]
    return " ".join(kept) or " ".join(words) or text.strip()


def voted(answers, preferred):
    """Return the answer with the most votes, in its most common spelling."""
    votes, spellings = Counter(map(answer_key, answers)), Counter(answers)
    places = [
        (-votes[answer_key(text)], answer_key(text) != answer_key(preferred), -spellings[text],
         text != preferred, place)
        for place, text in enumerate(answers)
    ]  # fmt: skip
    return answers[min(places)[-1]]


def unique(found):
    rounds = Counter((row["source"], row["dialog_id"]) for row in found)
    groups = defaultdict(list)
    for row in found:
        shape = "short" if row["form"] in CLOSED else row["form"]
        groups[key(row["question"] or row["instruction"]), shape].append(row)
    kept = []
    for group in groups.values():
        answers = [answer_key(row["answer"]) for row in group]
        counts = Counter(answers)
        places = [
            (-counts[answer], -rounds[row["source"], row["dialog_id"]], place)
            for place, (row, answer) in enumerate(zip(group, answers, strict=True))
        ]
        kept.append(group[min(places)[2]])
    return kept


def cost(row):
    texts = (row["instruction"], row["answer"])
    return sum(-(-len(text.encode("utf-8")) // 3) for text in texts) + TURN_TOKENS


def shuffled(found):
    dialogs = defaultdict(list)
    for row in found:
        if cost(row) <= BUDGET:
            dialogs[f"0/{row['image_id']}/{row['source']}/{row['dialog_id']}"].append(row)
    names = sorted(dialogs, key=lambda n: hashlib.blake2b(n.encode(), digest_size=16).digest())
    return [sorted(dialogs[name], key=lambda row: row["round"]) for name in names]


def packed(dialogs):
    records, left = [], 0
    for dialog in dialogs:
        whole = sum(cost(row) for row in dialog)
        if not records or left < whole <= BUDGET:
            records.append([])
            left = BUDGET
        for row in dialog:
            if cost(row) > left:
                records.append([])
                left = BUDGET
            records[-1].append(row)
            left -= cost(row)
    return records


def record(image_id, number, part):
    chat = []
    for position, row in enumerate(part):
        marker = "" if position else "<image>\n"
        chat.append({"from": "human", "value": marker + row["instruction"]})
        chat.append({"from": "gpt", "value": row["answer"]})
    return {
        "id": f"{image_id:012d}" + (f"-{number}" if number else ""),
        "image": f"train2017/{image_id:012d}.jpg",
        "conversations": chat,
        "sources": [row["source"] for row in part],
    }


def row(image_id, source, dialog_id, question, answer, *, instruction, form="free", at=0):
    return {"image_id": image_id, "source": source, "dialog_id": dialog_id, "round": at,
            "question": question, "instruction": instruction, "answer": answer,
            "form": form}  # fmt: skip


def asked(image_id, source, dialog_id, question, answer):
    instruction = f"{question.strip()} {PHRASE}" if question else None
    return row(image_id, source, dialog_id, question, answer, instruction=instruction,
               form="phrase")  # fmt: skip


def load(path):
    with path.open() as file:
        return json.load(file)


def rows(raw):
    for entry in load(raw / "annotations/captions_train2017.json")["annotations"]:
        yield row(entry["image_id"], "coco_captions", str(entry["id"]), "", entry["caption"],
                  instruction="Describe the content of this image in 20 words.",
                  form="sentence")  # fmt: skip
    yield from vqa_rows(raw / "vqav2")
    images = load(raw / "visual_genome/image_data.json")
    coco = {entry["image_id"]: entry["coco_id"] for entry in images if entry["coco_id"] is not None}
    for image in load(raw / "visual_genome/question_answers.json"):
        if image["id"] in coco:
            for entry in image["qas"]:
                yield asked(coco[image["id"]], "visual_genome_qa", str(entry["qa_id"]),
                            entry["question"], entry["answer"])  # fmt: skip
    for name, entry in load(raw / "gqa/train_balanced_questions.json").items():
        if entry["imageId"].isdigit() and int(entry["imageId"]) in coco:
            yield asked(
                coco[int(entry["imageId"])], "gqa", name, entry["question"], entry["answer"]
            )
    for source, file in CHATS.items():
        yield from chat_rows(raw / source / f"{file}.json", source)
    yield from visdial_rows(raw / "visdial/visdial_1.0_train.json")


def vqa_rows(folder):
    for split in ("train", "val"):
        annotated = load(folder / f"v2_mscoco_{split}2014_annotations.json")["annotations"]
        answers = {row["question_id"]: row for row in annotated}
        for row in load(folder / f"v2_OpenEnded_mscoco_{split}2014_questions.json")["questions"]:
            if row["question_id"] in answers:
                found = answers[row["question_id"]]
                ten = [answer["answer"] for answer in found["answers"]]
                answer = voted(ten, found["multiple_choice_answer"])
                yield asked(row["image_id"], "vqav2", str(row["question_id"]), row["question"],
                            answer)  # fmt: skip


def chat_rows(path, source):
    known = set()
    for entry in load(path):
        image_id = int(re.search(r"(\d{12})\.jpg$", entry["image"])[1])
        texts = [re.sub(r"^<image>\n|\n<image>$", "", m["value"]) for m in entry["conversations"]]
        pairs = list(zip(texts[::2], texts[1::2], strict=True))
        dialog_id = chat_id(image_id, pairs)
        if dialog_id not in known:
            known.add(dialog_id)
            for at, (question, answer) in enumerate(pairs):
                yield row(image_id, source, dialog_id, question, answer, instruction=question,
                          at=at)  # fmt: skip


def chat_id(image_id, pairs):
    """Return the id the study gives a conversation, which decides its place in the order."""
    from cocoift.sources.base import QA, content_id

    return f"{image_id}-{content_id(*(QA(*pair) for pair in pairs))}"


def visdial_rows(path):
    data = load(path)["data"]
    for entry in data["dialogs"]:
        for at, turn in enumerate(entry["dialog"]):
            question = data["questions"][turn["question"]].strip()
            question += "" if question.endswith("?") else "?"
            answer = data["answers"][turn["answer"]]
            yield row(entry["image_id"], "visdial", str(entry["image_id"]), question, answer,
                      instruction=question, at=at)  # fmt: skip
