"""The one trainer, for every family.

`fit` > `train_step` > `forward_backward`: read them in this order. The trainer knows a model by the interface `Trainable` alone,
and everything that a family must not care about is here once: accumulation, clipping, precision, averaged weights, schedules,
checkpoints, distribution.

A killed run, started again with the same command, ends bit-identical to one that was never killed: the data position is the step
number, the random numbers are a function of it, and all else that changes is in the checkpoint. The one exception is asked for:
with `minutes` a clock says which step is the last, and the steps up to it are as they would be without.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from theseus_core.config import Tree, dump
from theseus_core.contracts import Batch, Trainable
from theseus_core.device import autocast, explained, keep_freed_memory, pick_device, pick_dtype
from theseus_core.errors import TheseusError, nearest
from theseus_core.files import write_json
from theseus_core.train import distributed
from theseus_core.train.checkpoint import (
    Checkpoint,
    Note,
    drop_old_checkpoints,
    forget_run,
    newest_checkpoint,
    saved_steps,
    sole_owner,
    write_checkpoint,
)
from theseus_core.train.config import TrainConfig
from theseus_core.train.ema import Ema
from theseus_core.train.guards import StopRequest, seed_everything, stop_requests, torch_settings
from theseus_core.train.journal import Journal, Window
from theseus_core.train.optim import Phase, build_phases, lr_factor
from theseus_core.train.provenance import refuse_foreign_folder, refuse_other_run, whereabouts
from theseus_core.train.replicas import Merges
from theseus_core.train.source import BatchSource, drawn_ahead
from theseus_core.train.state import averaged_tensors, gathered, model_tensors, optimizer_tensors, restore, restore_optimizers
from theseus_core.versions import versions

Scores = dict[str, float]
Evaluate = Callable[[Trainable, int], Scores]  # (model with the averaged weights, in eval mode; steps done) -> scores
Progress = Callable[[int, int, Scores], None]  # (steps done, steps in all, the latest scalars)

LESS_MEMORY = "a smaller --batch-size, a larger `accumulate`, or `gradient_checkpointing`; the last checkpoint is untouched"


class Trainer:
    """Trains a model, or goes on training it where the run folder says that it was interrupted.

    `fit` makes a training process of the one that calls it: on Linux it keeps the memory that it frees, to its end.

    Args:
        model: fp32 weights, the same on every rank and in every start of the run.
        source: the batches.
        config: the settings; those outside `config.FREE` may not change when a run is resumed, and `steps` may only grow. The
            schedule follows the new total: the run is then not the one that a longer training would have been from its start.
        folder: the run folder; gets `config.json`, `metrics.jsonl` and `checkpoints/`.
        evaluate: called without gradients on the main process, with the same random numbers each time, after the step was saved;
            its scores go to the journal, and it may draw pictures. Where it was interrupted, a resumed run begins with it.
        progress: called after every step, on the main process.
        note: called with a sentence for the user (resumed, a damaged checkpoint passed over), on the main process.
        describe: JSON that says what is trained; written beside the settings, and compared when a run is resumed.
        free: dotted keys of `describe` that may differ then, each with all below it.
        initialize: gives the model its first weights from data. Called on every rank where a run begins, never where one goes on,
            before the model leaves the CPU; it must do the same each time.
        resume: False to drop what an earlier training left in the folder (`LEFT` and the journal) and start anew.

    Raises:
        TheseusError: the settings cannot be met here, or the folder holds something else than a run.
    """

    def __init__(
        self,
        model: Trainable,
        source: BatchSource,
        config: TrainConfig,
        folder: Path,
        *,
        evaluate: Evaluate | None = None,
        progress: Progress | None = None,
        note: Note | None = None,
        describe: Tree | None = None,
        free: frozenset[str] = frozenset(),
        initialize: Callable[[], None] | None = None,
        resume: bool = True,
    ) -> None:
        self.model, self.source, self.config, self.folder = model, source, config, folder
        self.evaluate, self.progress, self.initialize, self.resume = evaluate, progress, initialize, resume
        self.world, self.merges = distributed.find_world(config.distributed, config.replicas), Merges.of(config)
        self.device = device_of(config.device, self.world)
        self.dtype = pick_dtype(config.dtype, self.device)
        self.note: Note = note if note is not None and self.world.is_main else lambda message: None
        self.describe: Tree = json.loads(json.dumps(describe or {}))
        self.free = free
        refuse_foreign_folder(folder)
        self._refuse_what_cannot_be()
        self.step = 0  # steps done
        self.elapsed = 0.0  # seconds of training, over all starts
        self.skipped: dict[str, int] = {}  # by phase: steps in a row whose gradient was not finite
        self.window = Window()
        self.stop, self.told_to_stop = StopRequest(), False  # this process, and any of them
        self.out_of_time = False  # by the clock of the main process
        self.worried = False
        self._saved_at: int | None = None

    def _refuse_what_cannot_be(self) -> None:
        config, pieces = self.config, self.world.size * self.config.accumulate
        self.model.check_steps(config.steps)
        if config.batch_size % pieces:
            raise TheseusError(
                f"the batch does not divide over {self.world.size} ranks x {config.accumulate} micro-steps: {config.batch_size}",
                hint=f"the nearest that does: --batch-size {max(1, round(config.batch_size / pieces)) * pieces}",
            )
        if config.gradient_checkpointing and not self.model.shard_units():
            raise TheseusError(
                "this model has no repeated blocks for gradient_checkpointing", hint="leave gradient_checkpointing out"
            )
        if config.compile and self.model.derived_twice:
            raise TheseusError("torch.compile cannot derive this model's penalties: compile", hint="leave compile out")
        if self.evaluate is None and (config.best or config.evaluate_every):
            raise TheseusError("there is no evaluation in this training for `best` or `evaluate_every`", hint="leave them out")

    # --- the training ---

    def fit(self) -> Trainable:
        """Train to the last step, or to the last minute. Gives the model with the averaged weights, in evaluation mode.

        Under FSDP that is a plain copy of the model, whole on each rank.

        Raises:
            TheseusError: the run folder belongs to other settings or data, or cannot be written; the loss is not finite; memory is
                short; SIGINT or SIGTERM stopped the run. The last good checkpoint is untouched, and the same command goes on.
        """
        keep_freed_memory()
        owned = sole_owner(self.folder) if self.world.is_main else _nothing()
        with owned, torch_settings(self.config), distributed.connected(self.world, self.device), stop_requests() as self.stop:
            saved = self._find_checkpoint()
            self._build(fresh=saved is None)
            if not self.resume:  # not before it is known that a new one can be built
                self._forget()
            self._begin(saved)
            self._train()
            return self._finished()

    def _train(self) -> None:
        if self.step:
            self._evaluate()  # of the step that was saved, if that is still to do
        steps = range(self.step, self.step if self._is_last() else self.config.steps)
        world, config = self.world, self.config
        with drawn_ahead(self.source, steps, config.accumulate, world.rank, world.size, config.workers) as batches:
            for _ in steps:
                began = time.perf_counter()
                micro_batches = next(batches)
                waited = time.perf_counter() - began
                with explained(LESS_MEMORY):
                    values = self.train_step(micro_batches)
                self._log(values, time.perf_counter() - began, waited)
                if self._whole_and_due(config.checkpoint_every) or self._evaluation_is_due():
                    self._save()
                self._evaluate()
                if self._must_stop():
                    self._stop()
                if self._is_last():
                    break
        if self.out_of_time:
            self.note(
                f"ended after step {self.step}: {config.minutes:g} minutes of training are spent; "
                "how many steps that makes is up to the machine, and another start from nothing may end with others"
            )

    def train_step(self, micro_batches: list[Batch]) -> Scores:
        """One step of every phase: its scalars, averaged over micro-steps and ranks."""
        factor = lr_factor(self.config, self.step)
        self.model.set_together(not self.merges.alone(self.step))
        values = {"lr": self.config.lr * factor}
        due = self.model.phases_due()
        for phase in (phase for phase in self.phases if phase.name in due):
            prefix = f"{phase.name}/" if len(self.phases) > 1 else ""
            values |= {prefix + key: value for key, value in self._phase_step(phase, micro_batches, factor).items()}
        self.model.after_step()
        self.ema.update(self.step)
        self.step += 1
        if self.merges.merged(self.step):
            self._merge()
        return values

    def _merge(self) -> None:
        """Make one of replicas: all that changes, so that a checkpoint of it is all that there is."""
        optimizer, _ = optimizer_tensors(self.phases)
        distributed.average(tensor for _, tensor in [*model_tensors(self.model), *optimizer])
        distributed.average(self.ema.average)

    def _phase_step(self, phase: Phase, micro_batches: list[Batch], factor: float) -> Scores:
        with phase.focused():
            losses = [self.forward_backward(phase, micro, batch) for micro, batch in enumerate(micro_batches)]
            values = self._mean(losses)
            self._refuse_nan(values, phase)
            if self.world.kind == "replicas" and not self.merges.alone(self.step):
                distributed.average(p.grad for p in phase.parameters.values() if p.grad is not None)
            values["grad_norm"] = phase.clip(self.config.clip)
            if math.isfinite(values["grad_norm"]):
                phase.step(factor)
                self.skipped[phase.name] = 0
            else:
                self._skip(phase)
        return values

    def forward_backward(self, phase: Phase, micro: int, batch: Batch) -> dict[str, Tensor]:
        """One micro-step: adds its share to the gradients, and gives its losses."""
        last = micro == self.config.accumulate - 1
        seed_everything(self.config.seed, phase.name, self.step, micro, self.world.rank)
        with distributed.synchronized(self.wrapped, last):
            with autocast(self.device, self.dtype):
                losses: dict[str, Tensor] = self.wrapped(batch.to(self.device), phase.name)
            (losses["loss"] / self.config.accumulate).backward()  # type: ignore[no-untyped-call]
        return {name: value.detach() for name, value in losses.items()}

    def _mean(self, losses: list[dict[str, Tensor]]) -> Scores:
        """Over micro-steps and ranks; what the ranks were asked goes along, for one exchange instead of two."""
        names = sorted(losses[0])
        stacked = torch.stack([torch.stack([each[name].float() for name in names]) for each in losses])  # (micro-steps, names)
        asked = stacked.new_full((1,), float(self.stop.received))
        *means, share = distributed.mean_over_ranks(torch.cat([stacked.mean(dim=0), asked]), self.world).tolist()
        self.told_to_stop = share > 0
        return dict(zip(names, means, strict=True))

    def _refuse_nan(self, values: Scores, phase: Phase) -> None:
        """Before the weights are touched."""
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken and not math.isfinite(values["loss"]):
            term = next((name for name in broken if name != "loss"), "loss")
            raise TheseusError(
                f"the loss of phase {phase.name} is not finite at step {self.step + 1}, first in {term}: {values[term]}",
                hint=f"try a lower --lr than {self.config.lr:g}; the last checkpoint is from before this step",
            )

    def _skip(self, phase: Phase) -> None:
        self.skipped[phase.name] = in_a_row = self.skipped.get(phase.name, 0) + 1
        self.note(f"step {self.step + 1}: the gradient of phase {phase.name} is not finite, the weights stay as they are")
        if in_a_row > self.config.skip_limit:
            raise TheseusError(
                f"the gradient of phase {phase.name} was not finite in {in_a_row} steps in a row, up to step {self.step + 1}",
                hint=f"try a lower --lr than {self.config.lr:g}, or --dtype fp32",
            )

    def _is_last(self) -> bool:
        """Whether the training ends with the step that was done, by their number or by the clock."""
        return self.step == self.config.steps or self.out_of_time

    def _look_at_the_clock(self) -> None:
        """Every rank must call it."""
        if self.config.minutes:
            spent = self.elapsed >= 60 * self.config.minutes
            self.out_of_time = distributed.told_by_main(spent, self.world, self.device)

    def _due(self, every: int) -> bool:
        return self._is_last() or (every > 0 and self.step % every == 0)

    def _whole_and_due(self, every: int) -> bool:
        return self._is_last() or (every > 0 and self.merges.due(self.step, every))

    # --- building, resuming, finishing ---

    def _find_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint of this run, if there is one."""
        if not self.resume:
            return None
        saved = newest_checkpoint(self.folder / "checkpoints", self.note)
        if saved is not None:
            refuse_other_run(self.folder, saved.state, self._identity(), self.free)
        return saved

    def _forget(self) -> None:
        if self.world.is_main:
            forget_run(self.folder)
        distributed.barrier(self.world)

    def _build(self, fresh: bool) -> None:
        if fresh and self.initialize is not None:
            seed_everything(self.config.seed, "initialize")
            self.initialize()
        model = self.model.to(self.device).train()
        model.set_gradient_checkpointing(self.config.gradient_checkpointing)
        self.spare = copy.deepcopy(model).cpu() if self.world.kind == "fsdp" else None
        if self.config.compile:
            model.compile()
        with explained(LESS_MEMORY):
            self.wrapped = distributed.wrap(model, self.world, self.device)
        self.phases = build_phases(model, self.config, self.device, self.dtype)
        self.ema = Ema(model, self.config.ema)

    def _begin(self, saved: Checkpoint | None) -> None:
        """Load the checkpoint if there is one, and open the journal where it left off."""
        if saved is not None:
            self._load(saved)
        self.journal: Journal | None = None
        if self.world.is_main:
            self.journal = Journal(self.folder / "metrics.jsonl", self.step if saved else -1)
            place = whereabouts(self.model, self.phases, self.world, self.device, self.dtype)
            if saved is None:
                self.journal.write({"step": 0, **place})
            write_json(self.folder / "config.json", {**self._identity(), "runs_on": place})

    def _identity(self) -> Tree:
        return {"describe": self.describe, "train": dump(self.config), "fingerprint": self.source.fingerprint}

    def _load(self, saved: Checkpoint) -> None:
        restore(model_tensors(self.model), saved.tensors("model"))
        restore(averaged_tensors(self.model, self.ema), saved.tensors("ema"))
        restore(model_tensors(self.model), saved.tensors("model"))  # the buffers are in both, and those of the model count
        restore_optimizers(self.phases, saved.tensors("optimizer"), saved.state["optimizer"])
        state = saved.state
        self.step = self._saved_at = saved.step
        self.elapsed, self.skipped = state["elapsed"], state["skipped"]
        self.window = Window(**state["window"])
        self._look_at_the_clock()
        self.note(f"resuming {self.folder} after step {self.step} of {self.config.steps}")
        if state["train"]["steps"] != self.config.steps:
            self.note(f"the schedule now ends at step {self.config.steps}, not {state['train']['steps']}")
        if not self._is_last() and (self.folder / "model").exists():
            self.note(f"the model of an earlier end stays until this training ends: {self.folder / 'model'}")

    def _save(self) -> None:
        if self._saved_at == self.step:
            return
        main = self.world.is_main
        optimizer, scalars = optimizer_tensors(self.phases)
        parts = {
            "model": gathered(model_tensors(self.model), main),
            "ema": gathered(averaged_tensors(self.model, self.ema), main),
            "optimizer": gathered(optimizer, main),
        }
        if self.journal is not None:
            self.journal.sync()
            state = {**self._identity(), "versions": versions(), "optimizer": scalars, "elapsed": self.elapsed}
            state |= {"skipped": self.skipped, "window": {"sums": self.window.sums, "counts": self.window.counts}}
            write_checkpoint(self.folder / "checkpoints", self.step, parts, state)
            self._drop_old(self.journal)
        self._saved_at = self.step
        distributed.barrier(self.world)

    def _drop_old(self, journal: Journal) -> None:
        checkpoints = self.folder / "checkpoints"
        best = journal.best_step(self.config.best, saved_steps(checkpoints))
        drop_old_checkpoints(checkpoints, self.step, self.config.keep, best)

    def _must_stop(self) -> bool:
        """The same answer on every rank, since a step takes all of them."""
        return self.stop.received if self.world.size == 1 else self.told_to_stop

    def _stop(self) -> None:
        if self._whole_and_due(1):
            self._save()
        if not self._is_last():
            saved = "which is saved" if self._saved_at == self.step else f"of which {self._saved_at or 0} are saved"
            raise TheseusError(
                f"stopped on request after step {self.step} of {self.config.steps}, {saved} in: {self.folder}",
                hint="the same command goes on from there",
            )

    def _finished(self) -> Trainable:
        if self.spare is not None:
            restore(model_tensors(self.spare), gathered(averaged_tensors(self.model, self.ema), keep=True))
            return self.spare.to(self.device).eval()
        self.ema.store()
        return self.model.eval()

    # --- the journal and the evaluation ---

    def _log(self, values: Scores, seconds: float, waited: float) -> None:
        self.elapsed += seconds
        self._look_at_the_clock()
        self.window.add({**values, "seconds": seconds, "waiting": waited})
        if self.journal is not None and self._due(self.config.log_every):
            line: dict[str, Any] = self.window.means()
            line["clips_per_second"] = self.config.batch_size / line["seconds"]
            line["waiting"] /= line["seconds"]
            self.journal.write({"step": self.step, **line, "seconds": self.elapsed})
        if self._due(self.config.log_every):
            self._pass_on(self.model.worry(self.window.means()))
            self.window = Window()
        if self.progress is not None and self.world.is_main:
            self.progress(self.step, self.config.steps, values)

    def _pass_on(self, worry: str) -> None:
        """Say it once, and again when it has been away."""
        if worry and not self.worried:
            self.note(f"warning, step {self.step}: {worry}")
        self.worried = bool(worry)

    def _evaluation_is_due(self) -> bool:
        return self.evaluate is not None and self._whole_and_due(self.config.evaluate_every)

    def _evaluate(self) -> None:
        """Score the averaged weights of a step that has its checkpoint, unless the journal has the scores already."""
        if not self._evaluation_is_due():
            return
        if distributed.told_by_main(self.journal is not None and self.step not in self.journal.scores, self.world, self.device):
            with self._averaged() as model:
                if self.journal is not None:
                    self._score(model, self.journal)
        if self.journal is not None:
            self._drop_old(self.journal)  # this one may be the best

    def _score(self, model: Trainable, journal: Journal) -> None:
        assert self.evaluate is not None
        began, best = time.perf_counter(), self.config.best.removeprefix("-")
        seed_everything(self.config.seed, "evaluate")  # without the step, so that scores differ by the weights alone
        with torch.no_grad(), explained(LESS_MEMORY):
            scores = self.evaluate(model, self.step)
        if best and best not in scores:
            raise TheseusError(f"the evaluation has no score of the name in `best`: {best}", hint=nearest(best, sorted(scores)))
        seconds = {"eval/seconds": time.perf_counter() - began}
        journal.write({"step": self.step, **{f"eval/{key}": value for key, value in scores.items()}, **seconds})

    @contextmanager
    def _averaged(self) -> Iterator[Trainable]:
        """A plain model with the averaged weights, in evaluation mode."""
        if self.spare is not None:
            restore(model_tensors(self.spare), gathered(averaged_tensors(self.model, self.ema), keep=True))
            yield self.spare.to(self.device).eval()
            self.spare.cpu()
            return
        with self.ema.swapped_in():
            self.model.eval()
            try:
                yield self.model
            finally:
                self.model.train()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def device_of(name: str, world: distributed.World) -> torch.device:
    """Under torchrun each rank of a machine takes its own GPU."""
    device = pick_device(name)
    return pick_device(f"cuda:{world.local_rank}") if device.type == "cuda" and device.index is None else device
