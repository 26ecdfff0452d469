"""What the trainer does to a model, and what it says when something is wrong."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from train_toys import Clips, Start, Toy, settings, trainer

from theseus_core.contracts import Batch
from theseus_core.device import has_fast_bf16
from theseus_core.errors import TheseusError
from theseus_core.train.checkpoint import newest_checkpoint
from theseus_core.train.journal import read_journal
from theseus_core.train.trainer import Trainer


def weights(folder: Path, part: str = "model") -> dict[str, Tensor]:
    saved = newest_checkpoint(folder / "checkpoints")
    assert saved is not None
    return saved.tensors(part)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], **close: float) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], **close, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "adamw8bit"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_it_learns(optimizer: str, dtype: str, tmp_path: Path) -> None:
    trainer(tmp_path, steps=60, optimizer=optimizer, dtype=dtype, log_every=5).fit()
    losses = [line["loss"] for line in read_journal(tmp_path / "metrics.jsonl") if "loss" in line]
    assert losses[-1] < 0.35 * losses[0]


def test_it_is_the_plain_loop(tmp_path: Path) -> None:
    """Against AdamW written out: the schedule, the clipping, the average and the phases add nothing of their own."""
    config = settings(schedule="constant", warmup=0, weight_decay=0.0, clip=0.5, ema=0.0, steps=5)
    torch.manual_seed(0)
    plain = Toy(noise=0.0)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=config.lr, betas=config.betas, weight_decay=0.0)
    for step in range(5):
        plain.losses(Clips(8).batch(step, 0, 0, 1), "model")["loss"].backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    torch.manual_seed(0)
    trained = Trainer(Toy(noise=0.0), Clips(8), config, tmp_path).fit()
    assert_same(dict(trained.state_dict()), dict(plain.state_dict()), rtol=1e-4, atol=1e-6)
    assert not trained.training


def test_pieces_are_the_whole_batch(tmp_path: Path) -> None:
    trainer(tmp_path / "whole", noise=0.0, steps=4).fit()
    trainer(tmp_path / "pieces", noise=0.0, steps=4, accumulate=4).fit()
    whole, pieces = weights(tmp_path / "whole"), weights(tmp_path / "pieces")
    assert whole.pop("seen") * 4 == pieces.pop("seen")
    assert_same(pieces, whole, rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_changes_nothing_but_memory(tmp_path: Path) -> None:
    trainer(tmp_path / "plain", steps=4).fit()
    recomputing = trainer(tmp_path / "recomputing", steps=4, gradient_checkpointing=True)
    recomputing.fit()
    assert all(block.gradient_checkpointing for block in recomputing.model.shard_units())
    assert_same(weights(tmp_path / "recomputing"), weights(tmp_path / "plain"))


def test_the_model_that_comes_back_is_the_average(tmp_path: Path) -> None:
    model = trainer(tmp_path).fit()
    assert_same(dict(model.state_dict()), weights(tmp_path, "ema"))
    assert not torch.equal(weights(tmp_path, "ema")["out.weight"], weights(tmp_path, "model")["out.weight"])


def test_an_evaluation_sees_the_average_and_disturbs_nothing(tmp_path: Path) -> None:
    seen: list[tuple[int, bool, bool, float]] = []

    def meddle(model: nn.Module, step: int) -> dict[str, float]:
        torch.rand(step)
        total = sum(p.sum().item() for p in model.parameters())
        seen.append((step, model.training, torch.is_grad_enabled(), total))
        return {"total": total}

    run = trainer(tmp_path / "often", evaluate_every=2)
    run.evaluate = meddle
    final = run.fit()
    trainer(tmp_path / "once").fit()
    assert [entry[:3] for entry in seen] == [(2, False, False), (4, False, False), (6, False, False)]
    assert seen[-1][3] == sum(p.sum().item() for p in final.parameters())
    assert_same(weights(tmp_path / "often"), weights(tmp_path / "once"))
    scores = [line["eval/total"] for line in read_journal(tmp_path / "often/metrics.jsonl") if "eval/total" in line]
    assert scores == [entry[3] for entry in seen]


def test_every_evaluation_draws_the_same_numbers(tmp_path: Path) -> None:
    drawn: list[float] = []
    run = trainer(tmp_path, evaluate_every=2)

    def draw(model: nn.Module, step: int) -> dict[str, float]:
        drawn.append(torch.rand(()).item())
        return {"drawn": drawn[-1]}

    run.evaluate = draw
    run.fit()
    assert len(drawn) == 3
    assert len(set(drawn)) == 1


def test_two_phases_each_learn_their_own(tmp_path: Path) -> None:
    run = trainer(tmp_path, "gan", steps=1, warmup=0, checkpoint_every=1)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run.fit()
    after = weights(tmp_path)
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert still == ["discriminator.last.bias"]  # it cancels in the difference of two scores
    line = read_journal(tmp_path / "metrics.jsonl")[1]
    assert {"discriminator/loss", "generator/loss", "discriminator/grad_norm", "generator/gap", "lr"} <= line.keys()


def test_the_journal_averages_over_its_steps(tmp_path: Path) -> None:
    single: list[float] = []
    run = trainer(tmp_path, log_every=4)
    run.progress = lambda step, steps, values: single.append(values["loss"])
    run.fit()
    first, *lines = read_journal(tmp_path / "metrics.jsonl")
    logged = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    assert (first["step"], first["device"], first["dtype"], first["parameters"]) == (0, "cpu", "float32", 4913)
    assert logged == [(4, pytest.approx(sum(single[:4]) / 4)), (6, pytest.approx(sum(single[4:]) / 2))]
    assert all(line["clips_per_second"] > 0 and 0 <= line["waiting"] <= 1 for line in lines if "loss" in line)


def test_auto_takes_bf16_where_it_is_fast(tmp_path: Path) -> None:
    run = trainer(tmp_path, dtype="auto", steps=1)
    run.fit()
    expected = "bfloat16" if has_fast_bf16(torch.device("cpu")) else "float32"
    assert read_journal(tmp_path / "metrics.jsonl")[0]["dtype"] == expected
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}


# --- what can go wrong ---


def test_a_loss_that_is_not_a_number_stops_before_the_weights(tmp_path: Path) -> None:
    with pytest.raises(TheseusError, match="phase model is not finite at step 5, first in size: nan") as caught:
        trainer(tmp_path, source=Clips(8, fail_at=4), checkpoint_every=1).fit()
    assert "lower --lr than 0.01" in str(caught.value.hint)
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())
    saved = newest_checkpoint(tmp_path / "checkpoints")
    assert saved is not None
    assert saved.step == 4


class Exploding(Toy):
    """Its loss is finite, and its gradient is not, from the third step on."""

    def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        losses = super().losses(batch, phase)
        if self.seen >= 3:
            losses["loss"] = losses["loss"] + (self.out.bias.sum() * 0).abs().sqrt()
        return losses


def test_a_gradient_that_is_not_finite_skips_the_step_and_then_stops(tmp_path: Path) -> None:
    notes: list[str] = []
    torch.manual_seed(0)
    config = settings(skip_limit=2, checkpoint_every=1, keep=10, steps=10)
    with pytest.raises(TheseusError, match="not finite in 3 steps in a row, up to step 5"):
        Trainer(Exploding(), Clips(8), config, tmp_path, note=notes.append).fit()
    assert len(notes) == 3
    assert_same({**weights(tmp_path), "seen": torch.tensor(2.0)}, {**older(tmp_path, 2)})


def older(folder: Path, step: int) -> dict[str, Tensor]:
    from theseus_core.train.checkpoint import open_checkpoint

    return open_checkpoint(folder / "checkpoints" / f"step-{step:06d}").tensors("model")


class Failing(Clips):
    def batch(self, step: int, micro: int, rank: int, world: int) -> Batch:
        if step == 3:
            raise TheseusError("a damaged chunk: chunk-000.bin")
        return super().batch(step, micro, rank, world)


def test_what_the_source_raises_is_raised(tmp_path: Path) -> None:
    with pytest.raises(TheseusError, match="a damaged chunk"):
        trainer(tmp_path, source=Failing(8)).fit()
    saved = newest_checkpoint(tmp_path / "checkpoints")
    assert saved is not None
    assert saved.step == 2


class Greedy(Toy):
    def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        torch.empty(2**60, dtype=torch.uint8)
        return super().losses(batch, phase)


def test_out_of_memory_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(TheseusError, match="out of memory") as caught:
        Trainer(Greedy(), Clips(8), settings(), tmp_path).fit()
    assert "--batch-size" in str(caught.value.hint)


def test_a_mistake_of_our_own_keeps_its_traceback(tmp_path: Path) -> None:
    class Wrong(Toy):
        def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
            return {"loss": torch.ones(2) @ torch.ones(3)}

    with pytest.raises(RuntimeError, match="inconsistent tensor size") as caught:
        Trainer(Wrong(), Clips(8), settings(), tmp_path).fit()
    assert caught.traceback  # which keeps the frames of the training, but not its threads
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"device": "cuda:99"}, "cuda:99"),
        ({"device": "abacus"}, "no such device: abacus"),
    ],
)
def test_a_device_that_is_not_there_is_refused(changes: dict[str, Any], names: str, tmp_path: Path) -> None:
    with pytest.raises(TheseusError, match=names):
        trainer(tmp_path, **changes)


def test_settings_without_effect_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TheseusError, match="no repeated blocks for gradient_checkpointing"):
        Trainer(Toy(depth=0), Clips(8), settings(gradient_checkpointing=True), tmp_path)
    with pytest.raises(TheseusError, match="no evaluation in this training"):
        Trainer(Toy(), Clips(8), settings(best="psnr"), tmp_path)


def _compile_without_a_compiler(folder: str) -> None:
    """Exits with 0 if that is explained; in a process of its own, since torch remembers which compiler it found."""
    import torch._inductor.config

    torch._inductor.config.cpp.cxx = ("no-such-compiler",)
    torch._inductor.config.force_disable_caches = True
    try:
        trainer(Path(folder), compile=True).fit()
    except TheseusError as error:
        os._exit(0 if "does not compile" in error.message and "compiler" in str(error.hint) else 3)
    os._exit(4)


def test_compile_without_a_compiler_is_explained(tmp_path: Path, start: Start) -> None:
    process = multiprocessing.get_context("forkserver").Process(target=_compile_without_a_compiler, args=(str(tmp_path),))
    process.start()
    process.join(300)
    assert process.exitcode == 0


def test_settings_of_torch_are_put_back(tmp_path: Path) -> None:
    before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    trainer(tmp_path, threads=1, steps=1).fit()
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
    assert math.isfinite(sum(p.sum().item() for p in trainer(tmp_path, threads=1, steps=1).fit().parameters()))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_learns_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = Trainer(Toy(depth=0, noise=0.0), Clips(8), settings(steps=3), tmp_path / "plain").fit()
    torch.manual_seed(0)
    compiled = Trainer(Toy(depth=0, noise=0.0), Clips(8), settings(steps=3, compile=True), tmp_path / "compiled").fit()
    assert_same(dict(compiled.state_dict()), dict(plain.state_dict()), rtol=1e-4, atol=1e-5)
