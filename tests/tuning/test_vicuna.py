"""Vicuna's tokenizer against LLaVA's own rules on a sentencepiece model that is trained here."""

import random
import shutil

import pytest
import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from cocoift.core.files import DataError
from cocoift.core.schema import Message, Record
from cocoift.tuning.assembly import Parts, assemble
from cocoift.tuning.chat import IGNORED, VICUNA_SYSTEM, ChatFormat, Encoding, encode, pieces
from cocoift.tuning.model import load_config, load_processor
from cocoift.tuning.vicuna import vicuna_tokenizer
from minicoco.corpus import vocabulary_texts
from minicoco.scenes import sample_scenes

IMAGE, PAD = 800, 801


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A sentencepiece model of Llama's kind: BPE, bytes for what is unknown, a blank in front."""
    path = tmp_path_factory.mktemp("vicuna") / "tokenizer"
    texts = vocabulary_texts(list(sample_scenes(60, seed=2)), random.Random(0))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*texts, VICUNA_SYSTEM]), model_prefix=str(path), vocab_size=800,
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
        allow_whitespace_only_pieces=True, split_digits=True, minloglevel=2,
    )  # fmt: skip
    return path.with_suffix(".model")


def slow(sp, text):
    """Tokenise as the slow legacy Llama tokenizer: every stretch between `</s>` on its own."""
    ids = []
    for number, part in enumerate(text.split("</s>")):
        ids += [2] * bool(number) + (sp.encode(part) if part else [])
    return ids


def tokenizer_image_token(sp, text):
    """LLaVA's function of this name (`llava/mm_utils.py`): `<s>`, chunks, images between them."""
    first, *others = (slow(sp, chunk) for chunk in text.split("<image>"))
    return [1, *first, *(token for chunk in others for token in (IMAGE, *chunk))]


def preprocess_v1(sp, text):
    """Ids and labels of a conversation by the rules of `preprocess_v1` (`llava/train/train.py`)."""
    ids = tokenizer_image_token(sp, text)
    labels = list(ids)
    labels[0] = IGNORED
    place = 1
    for rou in text.split("</s>"):
        if not rou:
            break
        instruction = rou.split("ASSISTANT: ")[0] + "ASSISTANT: "
        length = len(tokenizer_image_token(sp, instruction)) - 2
        labels[place : place + length] = [IGNORED] * length
        place += len(tokenizer_image_token(sp, rou))
    assert place == len(ids)
    return ids, labels


CONVERSATIONS = [
    [("What is it?", "A red cup.")],
    [("Where is the cup?\nAnswer the question using a single word or phrase.", "left"),
     ("Describe  the picture.", "There is a cup.\nIt is red."), ("Why?", "Ünknown — 雨.")],
    [("Is it 5-3 or -5?", "no"), (" a blank first", "b")],
]  # fmt: skip


@pytest.mark.parametrize("rounds", CONVERSATIONS, ids=["one", "three", "odd"])
@pytest.mark.parametrize("system", [VICUNA_SYSTEM, ""], ids=["system", "none"])
def test_ids_and_supervised_tokens_are_those_of_llavas_own_code(model, rounds, system):
    sp = sentencepiece.SentencePieceProcessor(model_file=str(model))
    messages = [
        Message(s, text) for pair in rounds for s, text in zip(("human", "gpt"), pair, strict=True)
    ]
    messages[0] = Message("human", f"<image>\n{messages[0].value}")
    record = Record("r", "x.jpg", messages, ["s"] * len(rounds))
    text = "".join(piece.text for piece in pieces(messages, chat=ChatFormat(system=system)))
    ids, labels = preprocess_v1(sp, text)
    tokenizer = vicuna_tokenizer(model)
    ours = encode(record, Encoding(tokenizer, ChatFormat(system=system), 1))
    assert list(ours.input_ids) == ids
    assert ours.labels == labels
    assert tokenizer.decode(ids, skip_special_tokens=False).endswith(f"{rounds[-1][1]}</s>")


def test_special_tokens_stand_in_the_hubs_order(model):
    tokenizer = vicuna_tokenizer(model)
    names = ["<unk>", "<s>", "</s>", "<image>", "<pad>"]
    assert tokenizer.convert_tokens_to_ids(names) == [0, 1, 2, IMAGE, PAD]
    assert len(tokenizer) == 802


def test_a_file_that_is_no_model_is_told(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"\x00 no protobuf")
    with pytest.raises(DataError, match=r"tokenizer\.model: .*fetch the tokenizer again"):
        vicuna_tokenizer(path)


def test_a_llava_assembled_from_tokenizer_model_has_this_tokenizer(model, tmp_path):
    folder = tmp_path / "vicuna"
    config = LlamaConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=1,
                         num_attention_heads=2, vocab_size=800)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    shutil.copy(model, folder / "tokenizer.model")
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                              num_attention_heads=2, image_size=32, patch_size=16)  # fmt: skip
    CLIPVisionModel(vision).save_pretrained(tmp_path / "clip")
    side = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=side).save_pretrained(
        tmp_path / "clip"
    )
    weights = {"0.weight": torch.zeros(64, 32), "0.bias": torch.zeros(64),
               "2.weight": torch.zeros(64, 64), "2.bias": torch.zeros(64)}  # fmt: skip
    save_file({f"mm.{name}": w for name, w in weights.items()}, tmp_path / "p.safetensors")
    parts = Parts(language=folder, vision=tmp_path / "clip", projector=tmp_path / "p.safetensors")
    out = assemble(tmp_path / "base", parts, chat=ChatFormat(), dtype=torch.float32)
    made, ours = load_processor(out).tokenizer, vicuna_tokenizer(model)
    text = "USER: <image>\nWhat is it? ASSISTANT: A cup.</s>USER: Why? ASSISTANT:"
    assert made(text)["input_ids"] == ours(text)["input_ids"]
    assert load_config(out).image_token_index == IMAGE
