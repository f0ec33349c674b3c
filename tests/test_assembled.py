"""Preset smol with a tiny language model of SmolLM2's architecture and chat: its whole way."""

import math

import pandas as pd
import pytest
import torch
from test_notebooks import moved
from tokenizers_like import tokenizer_of
from transformers import LlamaConfig, LlamaForCausalLM

from cocoift import study


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A folder like SmolLM2-135M-Instruct's: a tied Llama, its ChatML tokenizer, random weights."""
    folder = tmp_path_factory.mktemp("language")
    torch.manual_seed(0)
    tokenizer = tokenizer_of("chatml")
    config = LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
                         vocab_size=len(tokenizer))  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_an_assembled_base_is_aligned_and_tuned(root, tmp_path, language_model):
    changes = moved(tmp_path) | {"seeds": [0], "held_out_images": 6, "train_images": 20}
    changes |= {"mini_coco": {"train": 60, "held_out": 20, "benchmark": 4}}
    changes["assembly"] = {"language": str(language_model), "language_package": None}
    changes["tuning"] = {"rank": 4, "alpha": 8, "records_per_step": 10, "batch_tokens": 2600}
    changes["evaluation"] = {"new_tokens": 8}
    for notebook in study.notebooks(root):
        if notebook.stem[:2] in ("00", "02", "04", "05"):
            study.run_notebook(
                notebook, preset="smol", changes=changes, reports=tmp_path / "reports"
            )
    tables = tmp_path / "reports/tables"
    alignment = pd.read_csv(tables / "alignment.csv")
    assert len(alignment) == 6
    assert all(math.isfinite(loss) for loss in [*alignment.shown, *alignment.other])
    assert set(pd.read_csv(tables / "training.csv").mixture) == {"mix", "merged"}
    # A language model that follows instructions before it is tuned has no gate that it must not.
    assert set(pd.read_csv(tables / "gates.csv").model) == {"mix", "merged"}
    assert "&lt;|im_end|&gt;" in (tmp_path / "reports/04_finetune_qlora.html").read_text()
    assert (tmp_path / "checkpoint/model.safetensors").is_file()
