"""Small tokenizers built like those of published checkpoints."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from cocoift.tuning.chat import VICUNA_SYSTEM

SPECIALS = ["<pad>", "<s>", "</s>"]
TEXTS = ["What color is the cat?", "The cat is red.", "USER: ASSISTANT:", VICUNA_SYSTEM]


def tokenizer_of(kind, *, image=True):
    """Build a tokenizer like the mini checkpoint's, like Llama's (metaspace), or SmolLM2's."""
    if kind != "metaspace":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        made.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = sorted(set("".join(TEXTS)) | {"▁"})
    marks = ["<|im_start|>", "<|im_end|>"] if kind == "chatml" else []
    marks = ["<image>", *marks] if image else marks
    specials = [*SPECIALS, "<unk>", *marks]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS * 20, trainer)
    if kind != "chatml":
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="<|im_end|>" if kind == "chatml" else "</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=marks,
        clean_up_tokenization_spaces=False,
    )
