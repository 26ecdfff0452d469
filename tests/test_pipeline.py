"""The pipeline and its model folder, on tiny models with random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from theseus_core import model_folder, offload
from theseus_core.contracts import Generator
from theseus_core.device import dtype_name, in_doubles, pick_device, pick_dtype
from theseus_core.errors import TheseusError
from theseus_core.model_folder import (
    Parts,
    Settings,
    check_match,
    find_model,
    fingerprint,
    load_model,
    load_tokenizer,
    save_model,
    save_tokenizer,
)
from theseus_core.pipeline import TextToVideo, starting_noise, to_frames, to_video
from theseus_core.quantize import check_mode, quantize, weight_bytes
from theseus_core.registry import build

SETTINGS = Settings(frames=5, height=16, width=32, fps=8, steps=2, guidance_scale=3.0, sampler="ddim")
CPU = torch.device("cpu")


def make_parts(seed: int = 0) -> Parts:
    torch.manual_seed(seed)
    tokenizer = build("tokenizers", "causal_vae", "debug")
    text_encoder = build("text", "builtin", "debug", {"vocabulary": ["a", "red", "circle", "waterfall"]})
    generator = build("generators", "dit", "debug")
    for parameter in [*tokenizer.parameters(), *generator.parameters()]:
        if not parameter.detach().any():  # layers that begin at zero would hide the text
            nn.init.normal_(parameter, std=0.1)
    return Parts(tokenizer.eval(), text_encoder.eval(), generator.eval(), SETTINGS)


def save(folder: Path, parts: Parts) -> Path:
    return save_model(folder, parts.tokenizer, parts.text_encoder, parts.generator, parts.defaults, {"seed": 0})


@pytest.fixture(scope="module")
def pipe() -> TextToVideo:
    return TextToVideo(make_parts(), CPU, torch.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "transformer"
    save(folder / "model", make_parts())
    return folder


def test_a_clip_as_the_model_was_made_for(pipe: TextToVideo) -> None:
    clip = pipe.generate("a red circle", seed=3)
    assert clip.frames.shape == (5, 16, 32, 3)
    assert clip.frames.dtype == np.uint8
    assert (clip.fps, clip.caption) == (8, "a red circle")
    other = pipe.generate("a red circle", seed=3, frames=9, height=32, width=16, fps=12.5)
    assert other.frames.shape == (9, 32, 16, 3)
    assert other.fps == 12.5


def test_prompt_and_seed_decide(pipe: TextToVideo) -> None:
    first = pipe.sample(["a red circle"], seed=1)
    assert first.shape == (1, 3, 5, 16, 32)
    assert first.dtype == torch.float32
    assert first.abs().max() <= 1
    assert torch.equal(first, pipe.sample(["a red circle"], seed=1))
    assert not torch.allclose(first, pipe.sample(["a red circle"], seed=2), atol=1e-2)
    assert not torch.allclose(first, pipe.sample(["a waterfall"], seed=1), atol=1e-3)


def test_a_video_does_not_depend_on_its_batch(pipe: TextToVideo) -> None:
    together = pipe.sample(["a red circle", "waterfall", "red"], seed=[5, 6, 5])
    for index, (prompt, seed) in enumerate([("a red circle", 5), ("waterfall", 6), ("red", 5)]):
        assert torch.allclose(together[index], pipe.sample([prompt], seed=seed)[0], atol=1e-4)


def test_noise_comes_from_the_seed_alone(pipe: TextToVideo) -> None:
    reference = torch.randn(4, 2, 2, 4, generator=torch.Generator().manual_seed(9))
    assert torch.equal(starting_noise((4, 2, 2, 4), [1, 9])[1], reference)
    by_seed = pipe.sample(["red"], seed=9)
    assert torch.equal(by_seed, pipe.sample(["red"], seed=4, latents=reference[None]))


def test_latents_decide_the_size(pipe: TextToVideo) -> None:
    assert pipe.sample(["red"], latents=torch.zeros(1, 4, 3, 4, 2)).shape == (1, 3, 9, 32, 16)
    with pytest.raises(TheseusError, match="latents decide the size"):
        pipe.sample(["red"], latents=torch.zeros(1, 4, 3, 4, 2), frames=5)
    for shape in [(1, 3, 2, 2, 4), (2, 4, 2, 2, 4), (4, 2, 2, 4), (1, 4, 2, 3, 4)]:
        with pytest.raises(TheseusError, match="latents of a wrong shape") as caught:
            pipe.sample(["red"], latents=torch.zeros(shape))
        assert "(1, 4, t, h, w), h and w multiples of 2" in str(caught.value.hint)


def test_a_long_video_is_decoded_in_parts(pipe: TextToVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pipe.sample(["red"], frames=13)
    monkeypatch.setattr("theseus_core.pipeline.DECODED_AT_ONCE", 2)
    assert torch.allclose(pipe.sample(["red"], frames=13), whole, atol=1e-5)


def test_guidance_and_the_negative_prompt(pipe: TextToVideo) -> None:
    plain = pipe.sample(["red"], guidance_scale=3.0)
    assert not torch.allclose(plain, pipe.sample(["red"], guidance_scale=6.0), atol=1e-3)
    assert not torch.allclose(plain, pipe.sample(["red"], guidance_scale=3.0, negative_prompt="a waterfall"), atol=1e-3)
    with pytest.raises(TheseusError, match="effect only with guidance: blur"):
        pipe.sample(["red"], guidance_scale=1.0, negative_prompt="blur")


def test_progress_counts_the_steps(pipe: TextToVideo) -> None:
    seen: list[tuple[int, int]] = []
    pipe.generate("red", steps=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"frames": 8}, "1 \\+ 4 k frames, not: 8", "5 or 9"),
        ({"height": 50, "width": 32}, "multiples of 16, not: 32x50", "--size 32x48"),
        ({"height": 8, "width": 8}, "multiples of 16", "16x16"),
        ({"steps": 0}, "steps", "steps"),
        ({"fps": -1.0}, "fps", "fps"),
    ],
)
def test_what_does_not_fit_is_refused(pipe: TextToVideo, changes: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(TheseusError, match=message) as caught:
        pipe.generate("red", **changes)
    assert hint in str(caught.value.hint)


def test_an_unknown_sampler_is_refused(pipe: TextToVideo) -> None:
    with pytest.raises(TheseusError, match="no sampler: magic"):
        pipe.sample(["red"], sampler="magic")


def test_values_that_are_not_numbers_are_no_video() -> None:
    parts = make_parts()
    nn.init.constant_(next(parts.generator.parameters()), float("nan"))
    with pytest.raises(TheseusError, match="not numbers, computing in: fp32") as caught:
        TextToVideo(parts, CPU, torch.float32).generate("red")
    assert "diverged" in str(caught.value.hint)


def test_frames_and_video_are_the_same_thing() -> None:
    frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    video = to_video(frames)
    assert video.shape == (3, 1, 16, 16)
    assert (float(video.min()), float(video.max())) == (-1, 1)
    assert np.array_equal(to_frames(video), frames)
    assert np.array_equal(to_frames(video * 3), np.clip((frames.astype(int) - 127.5) * 3 + 127.5, 0, 255).round().astype(np.uint8))


# the model folder


def test_what_is_loaded_is_what_was_saved(run: Path) -> None:
    expected = TextToVideo(make_parts(), CPU, torch.float32).sample(["a red circle"], seed=1)
    for name in (run, run / "model", str(run)):
        assert torch.equal(TextToVideo.load(name, "cpu", "fp32").sample(["a red circle"], seed=1), expected)
    assert torch.equal(
        load_tokenizer(run).decode(torch.ones(1, 4, 1, 2, 2)), make_parts().tokenizer.decode(torch.ones(1, 4, 1, 2, 2))
    )


def test_a_model_folder_is_json_and_safetensors(run: Path) -> None:
    files = {path.relative_to(run / "model").as_posix() for path in run.rglob("*") if path.is_file()}
    parts = {
        f"{part}/{name}" for part in ("tokenizer", "text_encoder", "generator") for name in ("config.json", "model.safetensors")
    }
    assert files == {"model.json", *parts}
    described = json.loads((run / "model/model.json").read_text())
    assert described["parts"] == {"tokenizer": "causal_vae", "text_encoder": "builtin", "generator": "dit"}
    assert described["defaults"]["frames"] == 5
    assert described["made_by"] == {"seed": 0}


def test_the_fingerprint_is_of_what_decides(run: Path, tmp_path: Path) -> None:
    parts = make_parts()
    same = save_model(tmp_path / "same", parts.tokenizer, parts.text_encoder, parts.generator, SETTINGS, {"seed": 77})
    assert fingerprint(same) == fingerprint(run / "model")
    assert fingerprint(save(tmp_path / "other", make_parts(seed=1))) != fingerprint(same)


def test_an_older_model_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "model", make_parts())
    before = fingerprint(folder)

    def fail_at_the_generator(module: nn.Module, group: str, target: Path) -> None:
        if group == "generators":
            raise OSError(28, "No space left on device")
        target.mkdir(parents=True)

    with monkeypatch.context() as patch:
        patch.setattr(model_folder, "save_part", fail_at_the_generator)
        with pytest.raises(TheseusError, match="cannot write") as caught:
            save(folder, make_parts(seed=1))
    assert "No space left" in str(caught.value.hint)
    assert fingerprint(folder) == before
    save(folder, make_parts(seed=1))
    assert fingerprint(folder) != before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_tokenizer_alone(tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "vae/model", make_parts().tokenizer, {})
    assert load_tokenizer(tmp_path / "vae").latent_channels == 4
    with pytest.raises(TheseusError, match="a tokenizer and no generator"):
        TextToVideo.load(tmp_path / "vae", "cpu")


def test_damaged_folders(run: Path, tmp_path: Path) -> None:
    def damaged(file: str, data: bytes | None) -> Path:
        folder = save(tmp_path / file.replace("/", "-"), make_parts())
        (folder / file).unlink()
        if data is not None:
            (folder / file).write_bytes(data)
        return folder

    for file, data, message in [
        ("model.json", b"{", "not a JSON file"),
        ("model.json", b"[]", "damaged model folder"),
        ("model.json", b'{"parts": {}, "format": 99}', "another format: 99"),
        ("generator/model.safetensors", b"\x80\x04pickle", "damaged weights"),
        ("generator/model.safetensors", None, "no such file"),
        ("generator/config.json", (run / "model/tokenizer/config.json").read_bytes(), "expected a part of generators"),
        ("tokenizer/model.safetensors", (run / "model/generator/model.safetensors").read_bytes(), "do not fit the configuration"),
    ]:
        with pytest.raises(TheseusError, match=message):
            load_model(damaged(file, data))


def test_where_there_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_folder, "bundled", list)
    (tmp_path / "runs/transformer").mkdir(parents=True)
    for find in (model_folder.default_model, lambda: find_model("nothing")):
        with pytest.raises(TheseusError) as caught:
            find()
        assert "theseus prep gifs/, then theseus train vae, then theseus train transformer" in str(caught.value.hint)
    with pytest.raises(TheseusError, match="no model in this folder yet: runs/transformer"):
        find_model("runs/transformer")
    save(tmp_path / "runs/transformer/model", make_parts())
    assert model_folder.default_model() == "runs/transformer"


def test_of_bundled_models_the_one_is_taken_that_knows_the_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "bundled/shapes", make_parts())
    monkeypatch.setattr("theseus_core.bundled.__path__", [str(tmp_path / "bundled")])
    monkeypatch.chdir(tmp_path)
    save(
        tmp_path / "bundled/world",
        replace(make_parts(), text_encoder=build("text", "builtin", "debug", {"vocabulary": ["red", "rain"]})),
    )
    for prompt, name in {"the rain": "world", "a waterfall": "shapes", "red": "world", "a circle in the rain": "world"}.items():
        assert model_folder.default_model([prompt]) == name  # of those that know as much, the one that knows less else
    assert model_folder.default_model(["red rain", "a circle"]) == "world"


def test_a_bundled_model_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "bundled/shapes", make_parts())
    monkeypatch.setattr("theseus_core.bundled.__path__", [str(tmp_path / "bundled")])
    monkeypatch.chdir(tmp_path)
    assert model_folder.default_model() == "shapes"
    (tmp_path / "shapes").mkdir()
    assert find_model("shapes") == tmp_path / "bundled/shapes", "a folder that holds no model"
    assert [model["name"] for model in model_folder.available(Path("runs"))] == ["shapes"]
    with pytest.raises(TheseusError) as caught:
        find_model("shape")
    assert "did you mean shapes?" in str(caught.value.hint)
    save_tokenizer(tmp_path / "runs/vae/model", make_parts().tokenizer, {})
    with pytest.raises(TheseusError, match="no such model: runs/vea") as caught:
        find_model("runs/vea")
    assert "runs/vae" not in str(caught.value.hint), "a tokenizer is no model"
    with pytest.raises(TheseusError, match="no such tokenizer: runs/vea") as caught:
        load_tokenizer("runs/vea")
    assert str(caught.value.hint).startswith(
        "did you mean runs/vae? a run or a model folder; here are: runs/vae, shapes; or make one"
    )


def test_a_hub_name_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(name: str, **_: Any) -> str:
        raise LocalEntryNotFoundError(f"cannot reach the hub for {name}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(TheseusError, match="the hub could not be asked: someone/something") as caught:
        find_model("someone/something")
    assert "cannot reach the hub" in str(caught.value.hint)


def test_parts_that_do_not_fit_are_refused() -> None:
    parts = make_parts()
    with pytest.raises(TheseusError, match="latent_channels is 4, and the other part's: 8"):
        check_match(parts.generator, build("tokenizers", "causal_vae", "debug", {"latent_channels": 8}))
    with pytest.raises(TheseusError, match="text_width is 32, and the other part's: 64"):
        check_match(parts.generator, parts.tokenizer, build("text", "builtin", "debug", {"width": 64}))
    parts.generator.consumes = "codes"
    with pytest.raises(TheseusError, match="needs codes, and the tokenizer makes: latents"):
        check_match(parts.generator, parts.tokenizer)


# machines


def test_devices_and_precisions_that_are_not_there() -> None:
    assert pick_device("cpu") == CPU
    with pytest.raises(TheseusError, match="no such device: gpu"):
        pick_device("gpu")
    with pytest.raises(TheseusError, match="no such device here: cuda:99"):
        pick_device("cuda:99")
    with pytest.raises(TheseusError, match="by emulation, many times slower: fp16"):
        pick_dtype("fp16", CPU)
    with pytest.raises(TheseusError, match="no such dtype: float"):
        pick_dtype("float", CPU)
    assert dtype_name(pick_dtype("bf16", CPU)) == "bf16"


def test_bf16_gives_nearly_the_same(run: Path) -> None:
    full = TextToVideo.load(run, "cpu", "fp32").sample(["a red circle"])
    half = TextToVideo.load(run, "cpu", "bf16").sample(["a red circle"])
    assert 0 < (full - half).abs().mean() < 0.05


@pytest.mark.parametrize(("mode", "error"), [("int8", 0.03), ("nf4", 0.2), ("fp4", 0.25)])
def test_quantized_layers_are_smaller_and_nearly_the_same(mode: str, error: float) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(128, 256), nn.Tanh(), nn.Linear(256, 64))
    x = torch.randn(5, 128)
    expected = module(x).detach()
    report = quantize(module, mode, CPU)
    assert report.layers == 2
    assert report.bytes_before == 4 * (128 * 256 + 256 + 256 * 64 + 64)
    assert report.bytes_after == weight_bytes(module) < report.bytes_before / (3 if mode == "int8" else 5)
    assert 0 < (module(x) - expected).norm() / expected.norm() < error


def test_a_quantized_model_generates(run: Path) -> None:
    full = TextToVideo.load(run, "cpu", "fp32").sample(["a red circle"])
    small = TextToVideo.load(run, "cpu", "fp32", quantize="int8")
    assert weight_bytes(small.generator) < weight_bytes(make_parts().generator) / 2
    assert 0 < (small.sample(["a red circle"]) - full).abs().mean() < 0.1


def test_what_quantization_leaves_alone() -> None:
    class Owner(nn.Module):
        _keep_in_fp32_modules = ("wo",)

        def __init__(self) -> None:
            super().__init__()
            self.wo, self.wi = nn.Linear(64, 64), nn.Linear(64, 64)

    owner = Owner()
    assert quantize(owner, "int8", CPU).layers == 1
    assert type(owner.wo) is nn.Linear
    with pytest.raises(TheseusError, match="no such quantization: int4"):
        check_mode("int4", CPU)
    with pytest.raises(TheseusError, match="run on cuda and cpu, not on: meta"):
        check_mode("int8", torch.device("meta"))


def test_offloading_is_refused_where_it_has_no_effect(run: Path) -> None:
    for mode in ("model", "layer"):
        with pytest.raises(TheseusError, match="the device is: cpu"):
            TextToVideo.load(run, "cpu", offload=mode)
    gpu = torch.device("cuda")
    with pytest.raises(TheseusError, match="no such way to offload: disk"):
        offload.check("disk", gpu, compile=False)
    with pytest.raises(TheseusError, match="--compile with --offload layer"):
        offload.check("layer", gpu, compile=True)
    with pytest.raises(TheseusError, match="--offload model with --quantize int8"):
        offload.check("model", gpu, compile=False, quantize="int8")
    offload.check("model", gpu, compile=False)
    without = build("generators", "gan", "debug")
    assert isinstance(without, Generator)
    for mode, compile, flag in (("none", True, "--compile"), ("layer", False, "--offload layer")):
        with pytest.raises(TheseusError, match=f"no repeated blocks, and nothing would come of: {flag}"):
            offload.check_blocks(without, mode, compile)
        offload.check_blocks(make_parts().generator, mode, compile)
    offload.check_blocks(without, "model", compile=False)


def test_layers_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = make_parts()
    expected = TextToVideo(make_parts(), CPU, torch.float32).sample(["red"], steps=1, guidance_scale=1.0)
    moves: list[tuple[int, str]] = []
    units = parts.generator.shard_units()
    for number, unit in enumerate(units):
        monkeypatch.setattr(unit, "to", lambda device, number=number: moves.append((number, str(device))))
    there = torch.device("cpu", 0)
    pipe = TextToVideo(parts, there, torch.float32, offload="layer")
    assert not moves
    assert torch.equal(pipe.sample(["red"], steps=1, guidance_scale=1.0), expected)
    assert moves == [(number, device) for number in range(len(units)) for device in ("cpu:0", "cpu")]


def test_parts_come_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = make_parts()
    named = {"text_encoder": parts.text_encoder, "generator": parts.generator, "tokenizer": parts.tokenizer}
    there: set[str] = set()
    history: list[set[str]] = []

    for name, part in named.items():

        def move(device: Any, name: str = name) -> None:
            (there.discard if str(device) == "cpu" else there.add)(name)
            history.append(set(there))

        monkeypatch.setattr(part, "to", move)
    TextToVideo(parts, torch.device("cpu", 0), torch.float32, offload="model").sample(["red"])
    assert all(len(state) <= 1 for state in history)
    assert [name for state, before in zip(history, [set(), *history], strict=False) for name in state - before] == list(named)


def test_compiled_blocks_give_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    original = nn.Module.compile

    def compile_eagerly(self: nn.Module) -> None:
        compiled.append(self)
        original(self, backend="eager")  # the tracing without the C++ compiler, which takes half a minute

    monkeypatch.setattr(nn.Module, "compile", compile_eagerly)
    expected = TextToVideo.load(run, "cpu", "fp32").sample(["red"], steps=1)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(TheseusError, match="needs a C\\+\\+ compiler"):
        TextToVideo.load(run, "cpu", "fp32", compile=True)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    pipe = TextToVideo.load(run, "cpu", "fp32", compile=True)
    assert compiled == pipe.generator.shard_units()
    assert torch.allclose(pipe.sample(["red"], steps=1), expected, atol=1e-5)


def test_too_little_memory_is_explained(pipe: TextToVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TheseusError, match="out of memory") as caught:
        pipe.sample(["red"], height=2**26, width=2**26)
    assert "--tiling" in str(caught.value.hint)
    monkeypatch.setattr(pipe.generator, "sample", Mock(side_effect=RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        pipe.sample(["red"])


def test_tables_in_double_precision_are_made_where_there_is_one() -> None:
    assert [in_doubles(torch.device(name)).type for name in ("cpu", "cuda", "mps")] == ["cpu", "cuda", "cpu"]
