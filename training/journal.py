"""The files that one run writes: logs, checkpoints, online transitions; and resuming them."""

import collections
import contextlib
import time
from collections.abc import Sequence
from typing import Any

from agents.base import Agent
from configs.flags import STEPS
from envs.evaluation import EvalResult
from training.checkpoints import CheckpointError, Checkpoints, best_step
from training.replay_file import ReplayFile
from training.run import Run
from utils.errors import RunError
from utils.files import write_json
from utils.logging import RunLogger
from utils.messages import say, short_path, warn


class Journal:
    """The open files of one run.

    Args:
        run: the run.
        stack: closes the files at its end.
        observation_dim: O.
        action_dim: A.
    """

    def __init__(
        self,
        run: Run,
        stack: contextlib.ExitStack,
        observation_dim: int,
        action_dim: int,
    ):
        self.run = run
        flags = run.settings.flags
        tags = [tag for tag in flags["tags"].split(",") if tag]
        wandb = {"group": flags["run_group"], "tags": tags, "config": run.config()}
        self.logger = stack.enter_context(
            RunLogger(run.folder, flags["logger"].split(","), wandb)
        )
        checkpoints = Checkpoints(
            run.folder / "checkpoints", flags["keep_checkpoints"], self.precious
        )
        self.checkpoints = stack.enter_context(checkpoints)
        self.replay_file = ReplayFile(
            run.folder / "replay.bin", observation_dim, action_dim
        )
        stack.callback(self.replay_file.close)
        self.evaluating: int | None = None
        """The step of an evaluation that is not yet in eval.csv."""
        # of the newest evaluation:
        self.outcome: dict[str, float | None] = {"success": None, "return": None}
        self.evaluated_at = -1
        lines: collections.deque[dict[str, Any]] = collections.deque(
            maxlen=run.agent.PATIENCE
        )
        self.recent = lines
        """The newest lines of train.csv."""
        self.warned: list[str] = []
        """The kinds of concerns that were printed."""
        self.save_seconds = 0.0
        self.unreadable: list[int] = []
        """The steps of checkpoints that cannot be read."""
        self.together: set[int] = set()
        """The seeds of the program of the newest checkpoint, without those that had broken."""

    # ---------------------------------------------------------------- resuming

    def newest(self) -> int:
        """Return the step of the newest readable checkpoint; -1 if the run has none.

        Its online transitions must be readable too. Raises RunError if the run has checkpoints
        and none is readable.
        """
        for step, _, record in self.checkpoints.readable():
            try:
                self.replay_file.read(record["replay"])
            except CheckpointError as error:
                say(
                    f"{error}; falling back to the checkpoint before that of step {step}"
                )
                continue
            self.unreadable = [
                other for other in self.checkpoints.steps() if other > step
            ]
            self.together = set(record.get("together", ()))
            return step
        if self.checkpoints.steps():
            raise RunError(
                f"no checkpoint of {self.run.folder} can be read; delete that folder, and the"
                " same command begins it again"
            )
        return -1

    def previous(self, step: int) -> int:
        """Return the step of the checkpoint before that of `step`; -1 if there is none."""
        return max(
            (other for other in self.checkpoints.steps() if other < step), default=-1
        )

    def go_back(self, step: int) -> tuple[dict, dict[str, Any]]:
        """Reset every file to a checkpoint; return the checkpoint's tree and record.

        step: the step of the checkpoint; -1 empties the files and returns ({}, {}).
        """
        tree, record = self.checkpoints.read(step) if step >= 0 else ({}, {})
        if any(other > step for other in self.checkpoints.steps()):
            # first, so that a killed process leaves no done.json without its checkpoint
            (self.run.folder / "done.json").unlink(missing_ok=True)
        self.checkpoints.set_aside(self.unreadable)
        self.checkpoints.remove(
            [other for other in self.checkpoints.steps() if other > step]
        )
        self.logger.cut(step, record.get("rows", {}))
        self.replay_file.resume(record.get("replay", {"rows": 0, "crc": 0}))
        if not record:
            return tree, record
        self.outcome = {name: record.get(name) for name in self.outcome}
        self.evaluated_at = record["evaluated_at"]
        self.warned = record["warned"]
        self.recent.extend(self.logger["train"].read())
        say(f"resumed at step {step}: {short_path(self.run.folder)}")
        return tree, record

    # ---------------------------------------------------------------- writing

    def check_present(self) -> None:
        """Raise RunError if the folder was deleted.

        Logging would otherwise create files that lack their first lines.
        """
        if not (self.run.folder / "config.json").exists():
            raise RunError(
                f"{self.run.folder} was deleted while the run was training; the same command"
                " trains it again"
            )

    def save(self, step: int, tree: dict, record: dict[str, Any]) -> None:
        """Write a checkpoint, with the positions of this run's files in its record.

        Args:
            step: the step.
            tree: nested dicts of arrays.
            record: a JSON object.
        """
        start = time.perf_counter()
        record = record | self.outcome
        record |= {
            "step": step,
            "evaluated_at": self.evaluated_at,
            "evaluating": self.evaluating,
            "warned": self.warned,
            "rows": self.logger.position(),
            "replay": self.replay_file.position(),
        }
        self.checkpoints.save(step, tree, record)
        self.save_seconds += time.perf_counter() - start

    def log(
        self, step: int, line: dict[str, Any], speed: dict[str, float], agent: Agent
    ) -> None:
        """Write a line of train.csv and of timing.csv, and the agent's concerns.

        All current concerns are stored in concerns.json; each kind is printed once.

        Args:
            step: the step.
            line: that of train.csv.
            speed: the line of timing.csv, but for save_seconds.
            agent: an agent of the run's class, which judges the newest lines.
        """
        self.logger.train(step, line)
        self.logger.timing(step, {**speed, "save_seconds": self.save_seconds})
        self.save_seconds = 0.0
        self.recent.append(line)
        found = {} if agent.cloning else agent.concerns(list(self.recent))
        lines = {name: " ".join(str(text).split()) for name, text in found.items()}
        concerns = {name: line for name, line in lines.items() if line}
        write_json(self.run.folder / "concerns.json", concerns)
        for concern, text in concerns.items():
            if concern not in self.warned:
                self.warned.append(concern)
                warn(f"{self.run.name}, step {step}: {text}")

    def precious(self, steps: Sequence[int]) -> set[int]:
        """Return the checkpoints to keep: the best one, and one that is being evaluated."""
        best = best_step(self.logger["eval"].read(), steps)
        return {step for step in (best, self.evaluating) if step is not None}

    def evaluated(self, step: int, result: EvalResult) -> None:
        """Write the result of an evaluation to eval.csv, and its cost to timing.csv."""
        self.outcome = {"success": result.success, "return": result.mean_return}
        self.evaluated_at = step
        self.evaluating = None
        self.logger.eval(step, {"episodes": len(result.lengths), **result.metrics()})
        rate = result.env_steps / result.seconds
        self.logger.timing(
            step, {"eval_seconds": result.seconds, "eval_steps_per_s": rate}
        )
        if step == 0:
            found = result.describe()
            episodes = f"{len(result.lengths)} episodes"
            say(f"{self.run.name}: {found} over {episodes} before the first update")

    def finish(self) -> None:
        """Wait for the last checkpoint, then write done.json.

        Raises RunError if the checkpoint could not be written.
        """
        self.check_present()
        self.checkpoints.wait()
        done = {name: self.run.settings.flags[name] for name in STEPS} | self.outcome
        write_json(self.run.folder / "done.json", done)
        say(f"finished: {short_path(self.run.folder)}")
