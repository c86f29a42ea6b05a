"""A training run: its folder, its log, and saved states from which it continues.

A run's folder contains
    run.json         recipe, data, seed, command, commit, machine; and later starts
    log.jsonl        one line per epoch
    last.pt best.pt  checkpoints for inference, of the last epoch and of the best one
    snapshots/       checkpoints of the first epoch and of some in between, evenly spaced
    state.pt         all that the next start needs to continue as if nothing had happened
    .lock            held by the program that is training in the folder
The training loops are in the problems' files. A loop is
    for epoch in run.epochs(...):
        for index in run.batches(...):
            ...
            run.step(loss=loss)      # may save, or save and end the program
        run.begin_evaluation()       # may do the same
        ...
        run.end_epoch(network.state_dict(), accuracy=...)
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

import torch

from core import checkpoint
from core.cli import STOPPED, InputError, say, some
from core.files import atomic_write
from core.progress import Bar, duration
from core.randomness import batches, seed_of, steps_per_epoch
from training import processes, provenance, runfolder
from training.history import best_line, is_over
from training.values import StepValues

STATE = {  # the fields of a state.pt
    "identity": dict, "epoch": int, "next_step": int, "total_steps": int, "sums": dict,
    "history": list, "state": dict,
}  # fmt: skip
STOPPING = b"\nstopping after this step or validation; Ctrl-C again: at once, without saving\n"
ONE_REQUEST = 1.0  # a signal within so many seconds is the same request, sent to all processes


class Run:
    """The state of a training run, which resumes by itself if its folder holds one.

    ``recipe``: a frozen dataclass. ``data``: plain values that identify the data set; a run
    continues only with the same data. ``notes``: more about the data for ``run.json``; they may
    change. ``model``: the fields of ``checkpoint.Checkpoint`` that describe the network. ``state``:
    what changes during training, by name: objects with ``state_dict`` and ``load_state_dict``.
    ``watch``: the logged value whose maximum (or minimum, with ``better=min``) marks the best
    epoch. ``stop_at``: when to stop, by ``time.monotonic``. ``save_minutes``: between saves. Raises
    InputError if the folder holds a run with another recipe, data set or seed (the message lists
    the differences), or if another program is training in it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        recipe: Any,
        data: dict[str, Any],
        notes: dict[str, Any] | None = None,
        model: dict[str, Any],
        seed: int,
        state: dict[str, Any],
        device: torch.device,
        watch: str,
        better: Callable = max,
        fresh: bool = False,
        stop_at: float = math.inf,
        save_minutes: float = 5.0,
    ) -> None:
        self.folder, self.seed, self.watch, self.better = folder, seed, watch, better
        self._recipe, self._model = recipe, model
        without = " without --fresh" if fresh else ""
        self._how_to_go_on = f"run the same command{without} to continue"
        self.identity = json.loads(
            json.dumps({"recipe": provenance.values(recipe), "data": data, "seed": seed})
        )
        self._data = self.identity["data"] | (notes or {})
        self.epoch, self.next_step, self.total_steps = 0, 0, 0
        self.history: list[dict[str, Any]] = []
        self._values = StepValues(device)
        self._bar: Bar | None = None
        self._total_epochs = 0
        self._state, self._save_every, self._stop_at = state, 60 * save_minutes, stop_at
        self._epoch_start = self._saved_at = self._steps_done_at = time.monotonic()
        self._saved_step = 0  # the value of total_steps at the last save
        self._earlier_seconds = 0.0  # spent on this epoch before this start
        self._evaluations: list[float] = []  # seconds that each took, since this start
        self._has_moved = False  # whether a step was taken since this start
        self.stop_signal: int | None = None  # the signal that asked to stop, if any
        self._asked_at = math.inf
        self._lock: IO[bytes] | None = None
        if processes.rank() == 0:
            if fresh:
                runfolder.start_over(folder)
            self._lock = runfolder.claim(folder)  # held until the run is done or stopped
        processes.barrier()
        self._start, self._continues = provenance.start(device), False
        self._metadata = self._start
        if (folder / "state.pt").exists():
            self._resume()
        elif runfolder.cannot_continue(folder):
            raise InputError(
                f"{folder} contains a run without its state.pt, so it cannot continue; "
                "choose another --run, or start over with --fresh"
            )
        self._write_metadata()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, self._on_signal)

    def epochs(self, total: int, patience: int = 0, patience_from: int = 0) -> Iterator[int]:
        """Yield the numbers (from 0) of the remaining epochs, until ``is_over``.

        Ends the program if it was asked to stop.
        """
        self._total_epochs = total
        self._epoch_start = time.monotonic() - self._earlier_seconds
        while not is_over(self.history, self.watch, self.better, total, patience, patience_from):
            if why := self._agreed()[0]:
                self._stop(why)
            if self._continues:  # only now, so that a finished run keeps its metadata
                say(f"resumed {self.folder} at epoch {self.epoch + 1}, step {self.next_step + 1}")
                self._metadata = provenance.continued(
                    self._metadata, self._start, self.epoch + 1, self.next_step + 1
                )
                self._write_metadata()
                self._continues = False
            yield self.epoch
        if self._continues:
            say(
                f"{self.folder} is done: {self.epoch} epochs. "
                "For a new run, choose another --run, or start over with --fresh"
            )
        self._write_log()
        self._release()

    def batches(self, count: int, batch_size: int) -> Iterator[torch.Tensor]:
        """Yield the image indices, (batch,) int64, of each remaining batch of this epoch.

        ``count``: images in the data set. ``batch_size``: of all processes together; each gets its
        share. Before each batch, torch's own generators, which dropout uses, are seeded for this
        step. Raises InputError if the processes cannot share a batch evenly.
        """
        steps = steps_per_epoch(count, batch_size)
        self._show_epoch(steps, min(count, batch_size))
        for step, index in batches(
            count, batch_size, seed=self.seed, epoch=self.epoch, start=self.next_step
        ):
            torch.manual_seed(seed_of(self.seed, self.epoch, step, "torch", *processes.keys()))
            yield processes.local_batch(index)

    def keys(self) -> tuple[int | str, ...]:
        """Return (seed, epoch, step) of the current batch; with several processes, also the rank.

        They are the arguments of ``randomness.generator``.
        """
        return self.seed, self.epoch, self.next_step, *processes.keys()

    def step(self, **values: torch.Tensor) -> None:
        """End a step: keep its ``values`` for the log, save if it is time, stop if asked to.

        ``values``: scalar tensors; the log gets their means over the epoch and the processes.
        Several processes save or stop after the same step, as soon as one of them has to. Raises
        InputError, which names the step, if a value is not finite.
        """
        self._values.add(self.epoch, self.next_step, values)
        self.next_step += 1
        self.total_steps += 1
        self._show_step()
        self._has_moved = True
        why, due = self._agreed()
        if why:
            self._stop(why)
        if due:
            self._save()

    def begin_evaluation(self) -> None:
        """End an epoch's steps, before its evaluation.

        Saves if a kill during the evaluation would lose too much work, and stops if the time left
        is too short for it: the next start then begins with the evaluation. The longest evaluation
        since this start is the estimate. Before the first evaluation there is none: then it always
        saves, and stops only if no time is left.
        """
        self._close_bar()
        self._steps_done_at = now = time.monotonic()
        could_be_lost = now - self._saved_at + max(self._evaluations, default=math.inf)
        too_late = now + max(self._evaluations, default=0.0) >= self._stop_at
        late, due = processes.highest(
            self._has_moved and too_late, could_be_lost >= self._save_every
        )
        if late:
            self._stop("--max-minutes")
        if due and self._saved_step != self.total_steps:
            self._save()

    def _agreed(self) -> tuple[str, bool]:
        # Returns why all processes must stop now (a signal's name, --max-minutes, or ""), and
        # whether it is time to save. Both are in one message, since there is one per step. Time
        # runs out only after the first step of this start, so that every start makes progress.
        now = time.monotonic()
        number, over, due = processes.highest(
            self.stop_signal or 0,
            self._has_moved and now >= self._stop_at,
            now - self._saved_at >= self._save_every,
        )
        return signal.Signals(number).name if number else "--max-minutes" if over else "", bool(due)

    def _stop(self, why: str) -> NoReturn:
        self._close_bar()
        if self._saved_step != self.total_steps:
            self._save()
        step = (
            f"step {self.next_step} of epoch {self.epoch + 1}"
            if self.next_step
            else f"epoch {self.epoch}"
        )
        self._release()
        say(f"stopped by {why} after {step}; {self._how_to_go_on}")
        sys.exit(STOPPED)

    def end_epoch(self, weights: dict[str, torch.Tensor], **metrics: float) -> None:
        """End an epoch: write its log line, with ``metrics``, and the run's state.

        ``weights`` are saved as ``last.pt``, as ``best.pt`` too if ``watch`` is the best so far,
        and as a snapshot if this epoch is one to keep.
        """
        means = {name: self.mean(name) for name in self._values.read()}
        # checkpoint.read would refuse numpy's floats.
        metrics = {name: float(value) for name, value in metrics.items()}
        self._evaluations.append(time.monotonic() - self._steps_done_at)
        line = {"epoch": self.epoch + 1, "steps": self.total_steps, **means, **metrics}
        self.history.append(line)
        self.epoch, self.next_step = self.epoch + 1, 0
        self._values.start_epoch()
        final = checkpoint.Checkpoint(
            **self._model,
            weights=weights,
            recipe=self.identity["recipe"],
            scores=metrics,
            made={
                "command": self._start["command"],
                "commit": provenance.commits(self._metadata),
                "seed": self.seed,
                "epoch": self.epoch,
                "data": self._data,
            },
        )
        is_best = self.best_epoch() == self.epoch
        if processes.rank() == 0:
            checkpoint.save(self.folder / "last.pt", final)
            runfolder.keep_snapshot(self.folder, self.epoch, final)
        now = time.monotonic()  # the time for saving counts for the next epoch
        line["seconds"], self._epoch_start = round(now - self._epoch_start, 1), now
        self._save()
        if is_best and processes.rank() == 0:
            self._keep_best()
        self._write_log()
        say("  ".join(f"{name} {value:.4g}" for name, value in line.items()))

    def mean(self, name: str) -> float:
        """Return the mean, over this epoch's steps so far, of a value given to ``step``."""
        return self._values.read()[name] / self.next_step

    def best_epoch(self) -> int:
        """Return the first epoch (from 1) with the best ``watch`` so far; 0 before the first."""
        return best_line(self.history, self.watch, self.better)["epoch"] if self.history else 0

    def _release(self) -> None:
        if self._lock:
            with contextlib.suppress(OSError):  # there is no data to lose
                self._lock.close()

    def _keep_best(self) -> None:
        # Copies last.pt only after state.pt knows of its epoch: after a kill between the two, the
        # epoch would be repeated, and might come out worse on a GPU or with other processes.
        with atomic_write(self.folder / "best.pt") as file:
            file.write((self.folder / "last.pt").read_bytes())

    def _show_epoch(self, steps: int, images: int) -> None:
        # Starts the display of an epoch's progress; ``images``: per step.
        self._step_images, self._epoch_images = images, steps * images
        what = f"epoch {self.epoch + 1} of {self._total_epochs or '?'}"
        self._bar = Bar(what, self._epoch_images, "images", done=self.next_step * images)

    def _show_step(self) -> None:
        if self._bar is None:
            return
        note = self._values.shown
        if (speed := self._bar.rate()) and (later := self._total_epochs - self.epoch - 1) > 0:
            evaluation = max(self._evaluations, default=0.0)
            left = self._bar.seconds_left() + evaluation
            left += later * (self._epoch_images / speed + evaluation)
            note += f", {duration(left)} left in the run"
        self._bar.update(self._step_images, note)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _save(self) -> None:
        sums = self._values.read()
        if processes.rank() == 0:
            content = {
                "identity": self.identity,
                "epoch": self.epoch,
                "next_step": self.next_step,
                "total_steps": self.total_steps,
                "sums": sums,
                "history": self.history,
                "seconds": time.monotonic() - self._epoch_start,
                "state": {name: part.state_dict() for name, part in self._state.items()},
            }
            checkpoint.write(self.folder / "state.pt", content)
        self._saved_at, self._saved_step = time.monotonic(), self.total_steps

    def _resume(self) -> None:
        hint = "choose another --run, or start over with --fresh"
        saved = checkpoint.read(self.folder / "state.pt", hint)
        if wrong := wrong_fields(saved):
            raise InputError(
                f"{self.folder}/state.pt is not the state of a run ({some(wrong)}); {hint}"
            )
        if why := provenance.why_not_on(
            saved["identity"], self.identity, self._recipe, saved["epoch"]
        ):
            raise InputError(
                f"{self.folder} contains a different run: {why}. "
                "Choose another --run, or start over with --fresh"
            )
        self.epoch, self.next_step = saved["epoch"], saved["next_step"]
        self.total_steps = self._saved_step = saved["total_steps"]
        self._values.sums, self.history = saved["sums"], saved["history"]
        self._earlier_seconds = saved.get("seconds", 0.0)  # older states lack it
        try:
            for name, part in self._state.items():
                if name == "scaler" and name not in saved["state"]:
                    continue  # the run began on a device that needs no scaler
                part.load_state_dict(saved["state"][name])
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]  # the code has changed
            raise InputError(
                f"{self.folder} was made by different code ({reason}); "
                "go back to that code, or start over with --fresh"
            ) from error
        last = self.folder / "last.pt"
        if processes.rank() == 0 and 0 < self.epoch == self.best_epoch() and last.is_file():
            with contextlib.suppress(InputError):  # a damaged last.pt; the next epoch replaces it
                made = checkpoint.read(last).get("made")
                if isinstance(made, dict) and made.get("epoch") == self.epoch:
                    self._keep_best()  # a kill may have come before it
        self._metadata = provenance.read(self.folder / "run.json") or self._start
        self._continues = True
        self._data = self._metadata.get("data", self._data)  # keeps the notes of the first start

    def _write_metadata(self) -> None:
        what = self.identity | {"data": self._data}
        how = {name: value for name, value in self._metadata.items() if name not in what}
        self._write("run.json", json.dumps(what | how, indent=2) + "\n")

    def _write_log(self) -> None:
        self._write("log.jsonl", "".join(json.dumps(line) + "\n" for line in self.history))

    def _write(self, name: str, text: str) -> None:
        if processes.rank() == 0:
            with atomic_write(self.folder / name) as file:
                file.write(text.encode())

    def _on_signal(self, number: int, frame: Any) -> None:
        if time.monotonic() - self._asked_at > ONE_REQUEST:
            raise KeyboardInterrupt  # asked twice: do not wait for the end of the step
        if self.stop_signal is None:
            self.stop_signal, self._asked_at = number, time.monotonic()
            if processes.rank() == 0:
                with contextlib.suppress(OSError):  # not print, which this may have interrupted
                    os.write(2, STOPPING)


def wrong_fields(saved: dict[str, Any]) -> list[str]:
    """List the fields of a ``state.pt`` that are missing or have the wrong type."""
    wrong = [name for name, kind in STATE.items() if not isinstance(saved.get(name), kind)]
    if not wrong:
        if not isinstance(saved["identity"].get("recipe"), dict):
            wrong.append("identity.recipe")
        if not all(isinstance(line, dict) and "epoch" in line for line in saved["history"]):
            wrong.append("history")
    return wrong
