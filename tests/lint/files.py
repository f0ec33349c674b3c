"""The same three conversations in every format that lint reads."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

# A VQA conversation whose first turn only asks to be short, a caption, and a chat.
TALKS = [
    [("What is it?\nAnswer the question using a single word or phrase.", "cat"),
     ("What color is it?", "black"), ("Is it asleep?", "no")],
    [("Describe the picture.", "A black cat sits on a red chair by the window.")],
    [("What color is it?", "The cat on the chair is black."), ("Why is it there?", "dinner")],
]  # fmt: skip
IMAGES = ["coco/train2017/000000000009.jpg", "coco/train2017/000000000009.jpg", "gqa/images/7.jpg"]
FORMATS = ("llava.json", "llava.jsonl", "sharegpt.json", "messages.jsonl", "messages.parquet",
           "typed.jsonl", "typed.parquet", "finevision.parquet")  # fmt: skip


def llava(names=("human", "gpt")):
    rows = []
    for number, (talk, image) in enumerate(zip(TALKS, IMAGES, strict=True)):
        turns = []
        for place, (question, answer) in enumerate(talk):
            marker = "" if place else "<image>\n"
            turns.append({"from": names[0], "value": f"{marker}{question}"})
            turns.append({"from": names[1], "value": answer})
        rows.append({"id": str(number), "image": image, "conversations": turns})
    return rows


def messages(typed=False):
    rows = []
    for talk, image in zip(TALKS, IMAGES, strict=True):
        turns = [{"role": "system", "content": [{"type": "text", "text": "Be kind."}]
                  if typed else "Be kind."}]  # fmt: skip
        for place, pair in enumerate(talk):
            for role, text in zip(("user", "assistant"), pair, strict=True):
                content = [{"type": "text", "text": text}]
                if place == 0 and role == "user":
                    content = [{"type": "image", "text": None}, *content]
                turns.append({"role": role, "content": content if typed else text})
        rows.append({"messages": turns, "images": [image]})
    return rows


def finevision():
    picture = b"\x89PNG not looked at"
    return [{"images": [{"bytes": picture, "path": image}], "source": "fine",
             "texts": [{"user": q, "assistant": a} for q, a in talk], "rating": [1.0]}
            for talk, image in zip(TALKS, IMAGES, strict=True)]  # fmt: skip


def rows_of(name):
    stem = name.partition(".")[0]
    made = {"llava": llava, "messages": messages, "finevision": finevision,
            "sharegpt": lambda: llava(("user", "assistant")),
            "typed": lambda: messages(typed=True)}  # fmt: skip
    return made[stem]()


def write(folder, name, rows=None):
    """Write the conversations, or others, in a format; return the file."""
    path, rows = folder / name, rows_of(name) if rows is None else rows
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    elif name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows, indent=1))
    return path
