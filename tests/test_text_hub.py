"""Frozen text encoders, on tiny networks made on the spot; the hub is never asked."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_clip import save_clip
from tokenizers import Tokenizer, models, pre_tokenizers

from theseus_core.contracts import Text
from theseus_core.errors import TheseusError
from theseus_core.quantize import quantize_encoder
from theseus_core.registry import build, load_part, save_part

WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "circle", "moves"]
SMALL: dict[str, Any] = {"vocab_size": len(WORDS), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
USUAL = SMALL | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
KINDS = {
    "clip": (transformers.CLIPTextConfig, transformers.CLIPTextModel, USUAL | {"max_position_embeddings": 16}),
    "bert": (transformers.BertConfig, transformers.BertModel, USUAL | {"max_position_embeddings": 16}),
    "roberta": (transformers.RobertaConfig, transformers.RobertaModel, USUAL | {"max_position_embeddings": 20}),
    "gpt2": (transformers.GPT2Config, transformers.GPT2Model, SMALL | {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 16}),
    "t5": (
        transformers.T5Config,
        transformers.T5EncoderModel,
        SMALL | {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 2, "num_heads": 2},
    ),
}


def words(padding: bool) -> transformers.PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"eos_token": "</s>", "unk_token": "<unk>"} | ({"pad_token": "<pad>"} if padding else {})
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, **special)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    made = {}
    for kind, (config, network, settings) in KINDS.items():
        made[kind] = tmp_path_factory.mktemp("hub") / kind
        network(config(**settings)).save_pretrained(made[kind])
        words(padding=kind != "gpt2").save_pretrained(made[kind])
    return made


@pytest.mark.parametrize("kind", list(KINDS))
def test_embeddings_are_those_of_the_network(folders: dict[str, Path], kind: str) -> None:
    encoder = build("text", "hub", changes={"source": str(folders[kind]), "max_tokens": 8})
    text = encoder.encode(["a red circle", "a circle moves", ""])
    assert text.embeddings is not None
    assert text.embeddings.shape == (3, 8, encoder.width) == (3, 8, 32)
    assert text.mask.sum(dim=1).tolist() == [3, 3, 1]
    network = KINDS[kind][1].from_pretrained(folders[kind]).eval()
    alone = network(input_ids=torch.tensor([[3, 4, 5]]), attention_mask=torch.ones(1, 3, dtype=torch.long)).last_hidden_state
    assert torch.allclose(text.embeddings[0, :3], alone[0], atol=1e-5)  # padding changes nothing
    assert text.embeddings.isfinite().all()


@pytest.mark.parametrize("kind", list(KINDS))
def test_it_comes_back_from_a_model_folder_without_its_source(
    folders: dict[str, Path], kind: str, tmp_path: Path, capfd: Any
) -> None:
    source = tmp_path / "source"
    source.symlink_to(folders[kind])
    encoder = build("text", "hub", changes={"source": str(source), "max_tokens": 8})
    save_part(encoder, "text", tmp_path / "text_encoder")
    source.unlink()
    loaded = load_part(tmp_path / "text_encoder", "text")
    expected, found = encoder.encode(["a red circle"]), loaded.encode(["a red circle"])  # type: ignore[operator]
    assert isinstance(found, Text)
    assert torch.equal(expected.embeddings, found.embeddings)  # type: ignore[arg-type]
    assert capfd.readouterr() == ("", "")  # the core is silent, and so are those that work for it
    kept = {path.suffix for path in (tmp_path / "text_encoder").rglob("*") if path.is_file()}
    assert kept <= {".json", ".safetensors", ".txt", ".model", ".jinja"}


def test_it_stays_frozen(folders: dict[str, Path]) -> None:
    encoder = build("text", "hub", changes={"source": str(folders["bert"]), "max_tokens": 8})
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.trained_along
    assert encoder.unknown_words("zebra") == []


def test_long_captions_are_cut(folders: dict[str, Path]) -> None:
    encoder = build("text", "hub", changes={"source": str(folders["t5"]), "max_tokens": 4})
    assert encoder.tokenize(["a red circle moves a red circle"]).ids.shape == (1, 4)  # type: ignore[union-attr]
    with pytest.raises(TheseusError, match="takes at most 16 tokens, not: 40"):
        build("text", "hub", changes={"source": str(folders["clip"]), "max_tokens": 40})


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("hub") / "real clip")


def test_clip_reads_77_tokens_unless_told_otherwise(clip: Path, folders: dict[str, Path]) -> None:
    encoder = build("text", "hub", changes={"source": str(clip)})
    assert (encoder.max_tokens, encoder.token_limit) == (77, 77) and encoder.config.max_tokens == 77  # type: ignore[attr-defined]
    text = encoder.encode(["ab c", "", "x" * 90])
    assert text.embeddings is not None and text.ids is not None and text.embeddings.shape == (3, 77, 32)
    assert text.mask.sum(dim=1).tolist() == [5, 2, 77], "with the two that CLIP puts around"
    assert text.ids[2, 0] == text.ids[0, 0] and text.ids[2, 76] == text.ids[0, 4], "cut, and closed"
    alone = encoder.network(input_ids=text.ids[:1, :5]).last_hidden_state  # type: ignore[operator]
    torch.testing.assert_close(text.embeddings[0, :5], alone[0], atol=1e-5, rtol=1e-5)
    assert encoder.count_tokens("x" * 75) == 77 and encoder.count_tokens("x" * 90) == 92
    with pytest.raises(TheseusError, match="takes at most 77 tokens, not: 78") as caught:
        build("text", "hub", changes={"source": str(clip), "max_tokens": 78})
    assert caught.value.hint == "max_tokens=77"
    for kind, most, limit in (("clip", 16, 16), ("bert", 16, 16), ("t5", 77, None)):
        other = build("text", "hub", changes={"source": str(folders[kind])})
        assert (other.max_tokens, other.token_limit) == (most, limit)


def test_what_is_no_text_encoder(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(TheseusError, match="cannot read the text encoder"):
        build("text", "hub", changes={"source": str(tmp_path)})
    transformers.ViTConfig().save_pretrained(tmp_path / "vit")
    with pytest.raises(TheseusError, match=r"no text encoder of a known kind: .*vit"):
        build("text", "hub", changes={"source": str(tmp_path / "vit")})


def test_pickled_weights_are_never_read(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    network = transformers.BertModel.from_pretrained(folders["bert"])
    network.config.save_pretrained(folder)
    words(padding=True).save_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(network.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(TheseusError, match="cannot read the text encoder"):
        build("text", "hub", changes={"source": str(folder), "max_tokens": 8})


def test_weights_that_are_missing_or_damaged_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    shutil.copytree(folders["bert"], folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "layer.1." not in name}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(TheseusError, match="weights are not all there"):  # they would be random
        build("text", "hub", changes={"source": str(folder), "max_tokens": 8})
    save_file(
        {name: value for name, value in weights.items() if "pooler" not in name}, folder / "model.safetensors", {"format": "pt"}
    )
    build("text", "hub", changes={"source": str(folder), "max_tokens": 8})  # nothing reads it
    (folder / "model.safetensors").write_bytes((folders["bert"] / "model.safetensors").read_bytes()[:200])
    with pytest.raises(TheseusError, match="cannot read the text encoder"):
        build("text", "hub", changes={"source": str(folder), "max_tokens": 8})


def test_every_kind_can_be_quantized(folders: dict[str, Path]) -> None:
    for kind in KINDS:
        encoder = build("text", "hub", changes={"source": str(folders[kind]), "max_tokens": 8})
        before = encoder.encode(["a red circle"]).embeddings
        done = quantize_encoder(encoder, "int8", torch.device("cpu"), torch.float32)
        after = encoder.encode(["a red circle"]).embeddings
        assert done.layers >= 8, kind
        assert before is not None
        assert after is not None
        assert 0 < (after - before).norm() / before.norm() < 0.05, kind
