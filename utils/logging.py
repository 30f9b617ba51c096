"""Run logs: train.csv, eval.csv and timing.csv, and the same numbers in TensorBoard or W&B."""

import difflib
import importlib
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from utils.csv_log import CsvLog
from utils.errors import UserError, one_line
from utils.files import write_text
from utils.messages import say, short_path

BACKENDS = {"csv": None, "tensorboard": "tensorboardX", "wandb": "wandb"}


def wandb_id(folder: Path) -> str:
    """Return the W&B id of a run folder: random, and stored in the folder.

    A resumed run therefore continues its W&B run, while a run that starts again in an emptied
    folder, or under the same path on another machine, gets a new one.
    """
    file = folder / "wandb_id"
    if file.exists() and (kept := file.read_text().strip()):
        return kept
    new = secrets.token_hex(8)
    write_text(file, f"{new}\n")
    return new


def check_backends(backends: Sequence[str]) -> None:
    """Raise UserError for a logger that does not exist or is not installed."""
    for name in backends:
        if name not in BACKENDS:
            nearest = difflib.get_close_matches(name, BACKENDS, 1, 0.0)[0]
            raise UserError(
                f"--logger={name}: no such logger; did you mean {nearest}?"
                f" ({', '.join(BACKENDS)})"
            )
        check_backend(name, BACKENDS[name] or "csv")


def check_backend(name: str, module: str) -> None:
    """Raise UserError for a logger whose module is not installed or cannot be imported.

    Args:
        name: the logger, as in --logger.
        module: the module it needs.
    """
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken package can raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            remedy = f"pip install '.[{name}]', or leave {name} out"
            raise UserError(f"--logger={name} needs {module}: {remedy}") from error
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(
            f"--logger={name}: {module} is installed, but its import fails ({reason}); mend it,"
            f" or leave {name} out"
        ) from error


class RunLogger:
    """Writes train.csv, eval.csv and timing.csv, and the same numbers to other backends.

    train.csv and eval.csv are deterministic; wall times and throughput go to timing.csv.

    Args:
        folder: the run folder.
        backends: any of csv (always on), tensorboard, wandb.
        wandb: arguments of wandb.init (project, group, tags, config, ...).

    Raises:
        UserError: for an unknown backend, or one that is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        backends: Sequence[str] = ("csv",),
        wandb: Mapping[str, Any] | None = None,
    ):
        check_backends(backends)
        self.folder = Path(folder)
        self._files = {
            name: CsvLog(self.folder / f"{name}.csv")
            for name in ("train", "eval", "timing")
        }
        self._backends = set(backends)
        self._wandb_arguments = dict(wandb or {})
        self._purge_step: int | None = None
        self._tensorboard: Any = None
        self._wandb: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __getitem__(self, name: str) -> CsvLog:
        """The CSV file "train", "eval" or "timing"."""
        return self._files[name]

    def train(self, step: int, line: Mapping[str, Any]) -> None:
        self._write("train", step, line)

    def eval(self, step: int, line: Mapping[str, Any]) -> None:
        self._write("eval", step, line)

    def timing(self, step: int, line: Mapping[str, Any]) -> None:
        self._write("timing", step, line)

    def position(self) -> dict[str, int]:
        """Flush the files to disk and return the number of lines in each."""
        for file in self._files.values():
            file.sync()
        return {name: file.count for name, file in self._files.items()}

    def cut(self, step: int, position: Mapping[str, int]) -> None:
        """Cut every file back to a checkpoint, and start W&B if it is used.

        Raises UserError if W&B does not start.

        Args:
            step: the step of the checkpoint.
            position: the number of lines in each file at that step, as `position` returned it.
        """
        self._purge_step = step + 1
        for name, file in self._files.items():
            count = position.get(name, 0)
            if file.count < count:
                say(
                    f"{short_path(file.path)} has lost {count - file.count} lines since the"
                    f" checkpoint of step {step}"
                )
            file.cut(count)
        if "wandb" in self._backends:  # here, because training has not begun
            self._wandb = self._wandb or self._open_wandb()

    def close(self) -> None:
        """Flush and close the optional backends."""
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()
        self._tensorboard = self._wandb = None

    def _write(self, name: str, step: int, line: Mapping[str, Any]) -> None:
        self._files[name].write({"step": step, **line})
        numbers = {
            f"{name}/{key}": float(value)
            for key, value in line.items()
            if _is_number(value)
        }
        if "tensorboard" in self._backends:
            self._tensorboard = self._tensorboard or self._open_tensorboard()
            for key, value in numbers.items():
                self._tensorboard.add_scalar(key, value, step)
        if "wandb" in self._backends:
            self._wandb = self._wandb or self._open_wandb()
            self._wandb.log({"step": step, **numbers})

    def _open_tensorboard(self) -> Any:
        tensorboard = importlib.import_module("tensorboardX")
        return tensorboard.SummaryWriter(
            str(self.folder / "tensorboard"), purge_step=self._purge_step
        )

    def _open_wandb(self) -> Any:
        defaults = {
            "project": os.environ.get("WANDB_PROJECT", "trqam"),
            "name": f"{self.folder.parent.name} {self.folder.name}",
            "dir": str(self.folder),
            "id": wandb_id(self.folder),
        }
        try:
            run = importlib.import_module("wandb").init(
                resume="allow",
                reinit="create_new",  # several seeds log at the same time
                **{**defaults, **self._wandb_arguments},
            )
        except Exception as error:  # W&B and its connections raise many types
            raise UserError(
                f"--logger=wandb: W&B does not start ({one_line(error)}); wandb login,"
                " WANDB_MODE=offline, or leave wandb out"
            ) from error
        # W&B drops values of an earlier step, and asynchronous evaluations may come late
        run.define_metric("*", step_metric="step")
        return run


def _is_number(value: Any) -> bool:
    return value is not None and not isinstance(value, str)
