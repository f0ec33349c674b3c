"""Vicuna's tokenizer as LLaVA-1.5 uses it, from `tokenizer.model` alone.

LLaVA tokenises with the slow, legacy Llama tokenizer: what follows `<image>` or `</s>` begins with
a blank of its own (`preprocess_v1` and `tokenizer_image_token` in haotian-liu/LLaVA).  The hub's
conversions (`llava-hf/llava-1.5-7b-hf`) do the same with a normaliser and no pre-tokeniser, and
put `<image>` before `<pad>`.
"""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import generate_merges

from cocoift.core.files import DataError
from cocoift.core.schema import IMAGE_MARKER

_BLANK = "▁"


def vicuna_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a sentencepiece model, with `<image>` and `<pad>` added.

    Raises `DataError` for a file that is no sentencepiece model of Llama's kind.
    """
    from sentencepiece import SentencePieceProcessor

    try:
        pieces = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: {error}; fetch the tokenizer again") from error
    ids = range(pieces.get_piece_size())
    vocabulary = {pieces.id_to_piece(number): number for number in ids}
    specials = [pieces.id_to_piece(number) for number in ids if pieces.is_control(number)]
    unknown = pieces.id_to_piece(pieces.unk_id())
    if specials != ["<s>", "</s>"]:
        raise DataError(f"{path}: its control tokens are {specials}, Llama's are <s> and </s>")
    scores = {piece: pieces.get_score(number) for piece, number in vocabulary.items()}
    whole = [unknown, *specials, *(pieces.id_to_piece(n) for n in ids if pieces.is_byte(n))]
    merges = generate_merges(vocabulary, scores, skip_tokens=whole)
    made = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_BLANK), normalizers.Replace(" ", _BLANK)]
    )
    steps = [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    added = [unknown, *specials, IMAGE_MARKER, "<pad>"]
    made.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in added])
    start = ("<s>", vocabulary["<s>"])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[start])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token=unknown,
        pad_token="<pad>",
        additional_special_tokens=[IMAGE_MARKER],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
