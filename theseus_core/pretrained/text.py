"""The words of a released CogVideoX: the tokenizer's files and T5's encoder, read and written.

T5 comes from transformers; its weights are read as those of the other parts are, mapped and checked by name and shape.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from theseus_core.errors import TheseusError
from theseus_core.files import read_json
from theseus_core.pretrained.weights import Stored, Tie, load_into
from theseus_core.quiet import without_bars
from theseus_core.text import hub

SHARED, EMBEDDED = "shared.weight", "encoder.embed_tokens.weight"  # one table; files hold it under either name, or under both
WORDS = ("tokenizer.json", "spiece.model")  # either will do
PACKAGES = {"protobuf": "google.protobuf", "sentencepiece": "sentencepiece"}  # without which the second cannot be read


def load_text_encoder(words: Path, folder: Path, max_tokens: int, dtype: torch.dtype | None = None) -> hub.Model:
    """Read the tokenizer's folder and the text encoder's, on the CPU.

    Args:
        max_tokens: L, the length that prompts are padded or cut to.
        dtype: of the weights in memory; None keeps them as they are stored, mapped from the files.

    Raises:
        TheseusError: a file is missing or damaged, or this is no T5.
    """
    config = hub.Config(source=str(folder), max_tokens=max_tokens, masked=False)
    return hub.Model(config, made=(_words(words), partial(_network, folder, dtype)))


def save_text_encoder(model: hub.Model, words: Path, folder: Path) -> None:
    """Write both folders, as transformers does.

    Raises:
        TheseusError: it is no T5 that reads its padding, as that of CogVideoX does.
    """
    kind, masked = model.network.config.model_type, model.config.masked
    if kind != "t5" or masked:
        found = f"{kind}, {'with' if masked else 'without'} a mask"
        raise TheseusError(f"the text encoder of CogVideoX is a T5 without a mask, and this: {found}", hint="text.masked=false")
    with without_bars():
        model.words.save_pretrained(words)
        model.network.save_pretrained(folder)


def _words(folder: Path) -> Any:
    import transformers  # seconds to import, and only for those who ask for it

    if not any((folder / name).is_file() for name in WORDS):  # without them transformers makes up a vocabulary of its own
        raise TheseusError(f"no tokenizer ({' or '.join(WORDS)}) in: {folder}", hint="fetch the model again; the download resumes")
    missing = [name for name, module in PACKAGES.items() if not _is_installed(module)]
    if missing and not (folder / WORDS[0]).is_file():
        hint = f"pip install {' '.join(missing)}"
        raise TheseusError(f"a package that reads this file is not installed: {folder / WORDS[1]}", hint=hint)
    try:
        with without_bars():
            return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library has no type of its own for a damaged file
        raise TheseusError(f"damaged tokenizer: {folder}", hint=" ".join(str(error).split())[:160]) from error


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


def _network(folder: Path, dtype: torch.dtype | None) -> Any:
    """A T5 encoder, none of its weights copied but where `dtype` is another than the stored one."""
    import transformers

    tree = read_json(folder / "config.json")
    if not isinstance(tree, dict) or tree.get("model_type") != "t5":
        raise TheseusError(f"not the configuration of a T5: {folder / 'config.json'}")
    try:
        with torch.device("meta"):
            network: Any = transformers.T5EncoderModel(transformers.T5Config.from_dict(tree))
    except (TypeError, ValueError) as error:
        raise TheseusError(f"damaged configuration: {folder / 'config.json'}", hint=" ".join(str(error).split())[:160]) from error
    stored = Stored(folder)
    shared, embedded = ((name,) if name in stored.names() else (other,) for name, other in ((SHARED, EMBEDDED), (EMBEDDED, SHARED)))
    named = {SHARED: shared, EMBEDDED: embedded}
    load_into(network, [Tie(name, named.get(name, (name,))) for name in network.state_dict()], stored, dtype)
    network.set_input_embeddings(network.shared)  # one table again
    if dtype == torch.float16:
        _keep_in_fp32(network)
    return network


def _keep_in_fp32(network: Any) -> None:
    """Layers whose results are too large for fp16."""
    for name, module in network.named_modules():
        if name.rsplit(".", 1)[-1] in (network._keep_in_fp32_modules or ()):
            module.float()
