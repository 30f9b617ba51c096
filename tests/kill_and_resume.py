"""Kill a run repeatedly, resume it each time, and compare it with an uninterrupted run.

    python tests/kill_and_resume.py --kills=20
    python tests/kill_and_resume.py --kills=6 --signal=term --num_seeds=2 --seed=1 --keep
    python tests/kill_and_resume.py --kills=6 -- --agent=agents/ifql.py --agent.lql_points=4

A run does behaviour cloning, offline and online training of TRQAM with tiny networks on a real
OGBench environment, in its own processes on CPU. The kills come at random moments, spread over
the life of the run; a quarter of them come while a checkpoint is being written. The exit code
is 0 if all of this holds:

- Every line of train.csv and eval.csv, every array of the last checkpoint and every byte of the
  online replay are the same in both runs.
- A killed process loses at most two save intervals: that of the next save, and that of a save
  that was still being written.
- A killed process leaves no other process running.
- SIGTERM saves a checkpoint and ends the process with 143.
"""

import argparse
import collections
import dataclasses
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
# The real environment that starts quickest; an episode takes 1000 steps.
ENV_NAME = "antmaze-large-navigate-singletask-task1-v0"
LIFE_TIMEOUT, TERM_TIMEOUT, ORPHAN_TIMEOUT = 600.0, 30.0, 10.0  # seconds
# Share of the run's life before which kills come: later it might have ended.
LAST_KILL = 0.9
MOMENTS = (
    "save",
    "training",
    "evaluation",
    "training",
    "save",
    "start-up",
    "training",
    "training",
)
# Largest delay of a kill after its moment, in seconds.
DELAYS = {"save": 0.02, "training": 0.1, "evaluation": 1.0, "start-up": 6.0}
# Settings that differ between the two runs.
PLACE = ("flags/save_dir",)


class Work(NamedTuple):
    """Lengths of the phases, intervals, and number of seeds.

    The intervals have few common divisors, so that saves fall into log windows and into chunks
    that are being executed.
    """

    bc: int = 92
    offline: int = 240
    online: int = 1240  # longer than an episode
    log: int = 20
    eval: int = 160
    save: int = 68
    episodes: int = 2  # in an evaluation
    num_seeds: int = 1
    eval_async: bool = False
    more: tuple[str, ...] = ()  # flags that replace those of TINY

    def flags(self) -> list[str]:
        """The flags for main.py."""
        phases = [
            f"--{name}_steps={getattr(self, name)}"
            for name in ("bc", "offline", "online")
        ]
        intervals = [
            f"--{name}_interval={getattr(self, name)}"
            for name in ("log", "eval", "save")
        ]
        evaluations = [
            f"--eval_episodes={self.episodes}",
            f"--eval_async={self.eval_async}",
        ]
        return [*phases, *intervals, *evaluations, f"--num_seeds={self.num_seeds}"]


THOROUGH = Work()
QUICK = Work(bc=24, offline=48, online=200, log=20, eval=248, save=28, episodes=1)
TINY = [
    "--agent=agents/trqam.py",
    "--horizon_length=5",
    "--agent.action_chunking=True",
    "--agent.actor_hidden_dims=(16,16)",
    "--agent.value_hidden_dims=(16,16)",
    "--agent.num_qs=2",
    "--agent.flow_steps=3",
    "--agent.batch_size=16",
    "--start_training=5",
]


class Failure(Exception):
    """Raised when a run does what it must not do."""


# ----------------------------------------------------------------------------- watching a run


class Watch:
    """What the files below a --save_dir show about the process that writes them."""

    def __init__(self, save_dir: Path, work: Work):
        self.save_dir, self.work = save_dir, work
        self.started = time.time_ns()
        self._sizes: dict[Path, int] = {}
        self._last: dict[Path, int] = {}
        self.look()
        # the run folder in which this process last wrote a CSV line
        self.active: Path | None = None

    def look(self) -> None:
        """Look for new CSV lines."""
        for path in self.save_dir.glob("*/*/*/*.csv"):
            size, before = path.stat().st_size, self._sizes.get(path, 0)
            if size != before:
                self._sizes[path], self._last[path] = size, last_step(path)
                if size > before:  # a resumed run cuts its logs before it adds to them
                    self.active = path.parent

    def step(self, folder: Path, log: str = "train") -> int:
        """The step of the last CSV line; -1 if there is none."""
        return self._last.get(folder / f"{log}.csv", -1)

    def position(self) -> float:
        """The `place_of` of the runs, a mean over seeds: 0 to `life(work)`."""
        steps = {
            path.parent: max(0, step)
            for path, step in self._last.items()
            if path.stem == "train"
        }
        places = [
            place_of(self.work, *((step, 0) if is_base(folder) else (0, step)))
            for folder, step in steps.items()
        ]
        return sum(places) / self.work.num_seeds

    def evaluating(self) -> bool:
        """Whether an evaluation is due at the last step of the active run and not yet logged."""
        if self.active is None or is_base(self.active):
            return False
        step, offline = max(0, self.step(self.active)), self.work.offline
        due = step % self.work.eval == 0 or step in (
            offline,
            offline + self.work.online,
        )
        return due and self.step(self.active, "eval") < step

    def saving(self) -> bool:
        """Whether this process is writing a checkpoint, or was when it was killed."""
        return any(
            changed(path) >= self.started
            for path in self.save_dir.glob("*/*/*/checkpoints/*tmp*")
        )

    def whereabouts(self) -> str:
        """The name of the active run and its step."""
        if self.active is None:
            return "before the first row"
        return f"{self.active.name} after step {max(0, self.step(self.active))}"

    def where(self) -> str:
        """What the active run is doing: a phase, start-up, a save or an evaluation."""
        if self.active is None:
            return "start-up"
        if self.saving():
            return "save"
        if self.evaluating():
            return "evaluation"
        if is_base(self.active):
            return "base"
        return "offline" if self.step(self.active) < self.work.offline else "online"


def is_base(folder: Path) -> bool:
    """Whether a folder is that of a behaviour-cloned base."""
    return folder.parent.parent.name == "bc"


def place_of(work: Work, bc_step: int, step: int) -> int:
    """The progress of a run and its base in its life.

    Steps of short phases count more, because they take longer.
    """
    return 3 * bc_step + 2 * min(step, work.offline) + max(0, step - work.offline)


def life(work: Work) -> int:
    """The `place_of` at the end of a run."""
    return place_of(work, work.bc, work.offline + work.online)


def last_step(path: Path) -> int:
    """The step of the last complete line of a CSV file; -1 if there is none."""
    lines = path.read_bytes().split(b"\n")[1:-1]
    return int(lines[-1].split(b",")[0]) if lines else -1


def changed(path: Path) -> int:
    """When something was last created in a folder (ns); 0 if it is gone."""
    try:
        return path.stat().st_ctime_ns
    except FileNotFoundError:
        return 0


def run_folders(save_dir: Path) -> list[Path]:
    """All run folders, bases included."""
    return sorted(path.parent for path in save_dir.glob("*/*/*/config.json"))


class Life:
    """One process of main.py in its own process group.

    As a context manager it kills all processes that are left in the group.
    """

    def __init__(self, command: list[str], save_dir: Path, work: Work, compiled: Path):
        save_dir.mkdir(exist_ok=True)
        self.output = save_dir / f"output-{len(list(save_dir.glob('output-*')))}"
        self.watch = Watch(save_dir, work)
        self.seconds_to_first_row: float | None = None
        self.seconds_to_end = 0.0  # after the signal
        self.start = time.monotonic()
        environ = {"JAX_COMPILATION_CACHE_DIR": str(compiled)} | os.environ
        environ |= {
            "JAX_PLATFORMS": "cpu",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONUNBUFFERED": "1",
        }
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def __enter__(self) -> "Life":
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None or group(self.process.pid):
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def seconds(self) -> float:
        """The age of the process in seconds."""
        return time.monotonic() - self.start

    def running(self) -> bool:
        """Update the watch. Returns False once the process has ended."""
        if self.process.poll() is not None:
            return False
        if self.seconds > LIFE_TIMEOUT:
            raise self.failure(f"still running after {LIFE_TIMEOUT:g} s")
        self.watch.look()
        if self.watch.active and self.seconds_to_first_row is None:
            self.seconds_to_first_row = self.seconds
        return True

    def finish(self) -> None:
        """Wait for the end; raise Failure unless the exit code is 0 and no process is left."""
        while self.running():
            time.sleep(0.001)
        if self.process.returncode:
            raise self.failure(f"ended with {self.process.returncode}")
        self.check_orphans()

    def kill(self, kill: "Kill") -> str:
        """Wait for the moment, signal only the main process, and wait for its end.

        Returns what the run was doing; raises Failure if it did not end as it must.
        """
        self.wait_for(kill)
        where, active = self.watch.where(), self.watch.active
        step = self.watch.step(active) if active else -1
        if self.process.poll() is not None:
            raise self.failure(
                f"ended with {self.process.returncode} before it could be killed"
            )
        sent = time.monotonic()
        self.process.send_signal(kill.signal)
        try:
            code = self.process.wait(TERM_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise self.failure(
                f"still running {TERM_TIMEOUT:g} s after {kill.signal.name} ({where})"
            ) from None
        self.seconds_to_end = time.monotonic() - sent
        if kill.signal == signal.SIGKILL and self.watch.active and self.watch.saving():
            where = "save"
        self.check_code(kill, code, where)
        if (
            kill.signal == signal.SIGTERM
            and active
            and newest_checkpoint(active) < step
        ):
            raise self.failure(
                f"SIGTERM ({where}): at step {step} or later, last checkpoint"
                f" {newest_checkpoint(active)}"
            )
        self.check_orphans()
        return where

    def wait_for(self, kill: "Kill") -> None:
        """Wait for the moment of a kill, and then for its delay."""
        watch, start_up = self.watch, kill.moment == "start-up"
        here = {"save": watch.saving, "evaluation": watch.evaluating}.get(
            kill.moment, lambda: True
        )
        while self.running() and not (
            start_up or watch.active and watch.position() >= kill.position and here()
        ):
            time.sleep(0.001)
        deadline = time.monotonic() + kill.delay
        while (
            self.running()
            and time.monotonic() < deadline
            and not (start_up and watch.active)
        ):
            time.sleep(0.001)

    def check_code(self, kill: "Kill", code: int, where: str) -> None:
        """Raise Failure for an exit code that does not follow from the signal."""
        expected = (
            {-signal.SIGKILL}
            if kill.signal == signal.SIGKILL
            else {128 + signal.SIGTERM}
        )
        if kill.signal == signal.SIGTERM and where == "start-up":
            # before there is anything to save, the default action is allowed
            expected.add(-signal.SIGTERM)
        if code not in expected:
            raise self.failure(f"ended with {code} after {kill.signal.name} ({where})")

    def check_orphans(self) -> None:
        """Raise Failure unless all processes of the group end by themselves."""
        deadline = time.monotonic() + ORPHAN_TIMEOUT
        while left := group(self.process.pid):
            if time.monotonic() > deadline:
                raise self.failure(
                    f"{len(left)} processes outlive it by {ORPHAN_TIMEOUT:g} s:"
                    f" {'; '.join(left)}"
                )
            time.sleep(0.01)

    def resumed(self) -> dict[Path, int]:
        """The steps at which it says that it resumed runs, by run folder."""
        # a long path is printed on its own line
        text = self.output.read_text(errors="replace")
        lines = re.findall(r"resumed at step (\d+):\s+(.+)", text)
        return {Path(folder.strip()): int(step) for step, folder in lines}

    def failure(self, message: str) -> Failure:
        """A Failure with the message and the end of what the process printed."""
        tail = self.output.read_text(errors="replace").splitlines()[-20:]
        return Failure("\n  | ".join([f"process {self.output.name}: {message}", *tail]))


def group(leader: int) -> list[str]:
    """The living processes of a process group: id and command line."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == leader and state not in "ZX":
                command = (
                    (stat.parent / "cmdline")
                    .read_bytes()
                    .replace(b"\0", b" ")
                    .decode(errors="replace")
                )
                found.append(f"{stat.parent.name} {command[:80]}")
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return found


def newest_checkpoint(folder: Path) -> int:
    """The step of the newest complete checkpoint of a run; -1 if there is none."""
    return max(
        (
            int(path.name)
            for path in folder.glob("checkpoints/*")
            if path.name.isdigit()
        ),
        default=-1,
    )


# ------------------------------------------------------------------------------------- killing


@dataclasses.dataclass(frozen=True)
class Kill:
    """Send `signal` `delay` seconds after the first `moment` at or after `position`."""

    signal: signal.Signals
    moment: str
    position: float
    delay: float


def plan(kills: int, which: str, work: Work, rng: np.random.Generator) -> list[Kill]:
    """Kills in the order of their positions, each drawn from its equal part of a run's life."""
    signals = {
        "kill": [signal.SIGKILL],
        "term": [signal.SIGTERM],
        "mixed": [signal.SIGKILL, signal.SIGTERM],
    }[which]
    moments = list(itertools.islice(itertools.cycle(MOMENTS), kills))
    rng.shuffle(moments)
    ends = {work.offline, work.offline + work.online}
    evaluations = sorted({*range(work.eval, max(ends), work.eval), *ends})
    places = [place_of(work, work.bc, step) for step in evaluations]
    planned = []
    for i, moment in enumerate(moments):
        position = LAST_KILL * life(work) * (i + rng.uniform()) / kills
        if moment == "evaluation":
            position = min(place for place in places if place >= position)
        which_signal = signals[rng.integers(len(signals))]
        planned.append(
            Kill(which_signal, moment, position, rng.uniform(0, DELAYS[moment]))
        )
    return sorted(planned, key=lambda kill: kill.position)


@dataclasses.dataclass
class Report:
    """Counts of what was done and compared, and the differences found."""

    where: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    signals: collections.Counter = dataclasses.field(
        default_factory=collections.Counter
    )
    resumes: int = 0
    lost: int = 0
    seconds_to_term: float = 0.0
    seconds_to_first_row: float = 0.0
    seconds_alone: float = 0.0
    seconds: float = 0.0
    rows: int = 0
    arrays: int = 0
    replay_bytes: int = 0
    differences: list[str] = dataclasses.field(default_factory=list)

    def add(self, kill: Kill, where: str, process: Life) -> None:
        """Count a kill, and print where the process was."""
        self.where[where] += 1
        self.signals[kill.signal.name] += 1
        if kill.signal == signal.SIGTERM:
            self.seconds_to_term = max(self.seconds_to_term, process.seconds_to_end)
        name, place = process.output.name, process.watch.whereabouts()
        print(
            f"{name:9}  {kill.signal.name}  {where:10}  {process.seconds:5.1f} s old, {place}",
            flush=True,
        )

    def __str__(self) -> str:
        places = ("start-up", "base", "offline", "evaluation", "online", "save")
        sent = ", ".join(f"{n} {name}" for name, n in self.signals.items())
        lines = [
            f"kills                {self.where.total()} ({sent})",
            *(
                f"  {'during a ' if name == 'save' else ''}{name:17}{self.where[name]:4}"
                for name in places
            ),
            f"resumes              {self.resumes}, at most {self.lost} logged steps run again",
            f"rows compared        {self.rows}",
            f"arrays compared      {self.arrays}",
            f"replay bytes         {self.replay_bytes}",
            f"differences          {len(self.differences)}",
            *(f"  WRONG {difference}" for difference in self.differences[:20]),
            (
                f"seconds              {self.seconds:.0f} (left alone {self.seconds_alone:.1f},"
                f" to the first row of a start {self.seconds_to_first_row:.1f})"
            ),
        ]
        if self.signals["SIGTERM"]:
            lines.append(f"SIGTERM to end       {self.seconds_to_term:.1f} s at most")
        return "\n".join(lines)


def kill_and_resume(
    life_of: Any, kills: Iterable[Kill], report: Report, max_lost: int
) -> None:
    """Start the run for every kill, and once more to its end; `life_of()` starts a process.

    Raises Failure if a process resumes more than `max_lost` steps before the step at which the
    last one was killed.
    """
    # the folder and step of a killed run that has not been resumed yet
    reached: tuple[Path, int] | None = None
    for kill in [*kills, None]:
        with life_of() as process:
            if kill is None:
                process.finish()
            else:
                where = process.kill(kill)
                report.add(kill, where, process)
        resumed, watch = process.resumed(), process.watch
        report.resumes += bool(resumed)
        if reached and (watch.active or reached[0] in resumed):
            folder, step = reached
            start = resumed.get(folder, 0)
            report.lost, reached = max(report.lost, step - start), None
            if step - start > max_lost:
                raise process.failure(
                    f"{folder.name} was at step {step} at least and resumed from step {start}"
                )
        if kill and watch.active and not (watch.active / "done.json").exists():
            reached = watch.active, watch.step(watch.active)


# ----------------------------------------------------------------------------------- comparing


def compare(reference: Path, other: Path, report: Report) -> None:
    """Add to the report how the run folders of two --save_dir differ."""
    names, others = (
        {str(path.relative_to(place)) for path in run_folders(place)}
        for place in (reference, other)
    )
    report.differences += [
        f"{name} is in one place alone" for name in sorted(names ^ others)
    ]
    if not names:
        report.differences.append("there is no run to compare")
    for name in sorted(names & others):
        found = compare_logs(reference / name, other / name, report)
        found += compare_files(reference / name, other / name, report)
        found += compare_checkpoints(reference / name, other / name, report)
        report.differences += [f"{name}: {difference}" for difference in found]


def compare_logs(one: Path, two: Path, report: Report) -> list[str]:
    """Compare the lines of train.csv and eval.csv, byte for byte."""
    found = []
    for log in ("train.csv", "eval.csv"):
        tables = [
            path.read_bytes().split(b"\n") if path.exists() else []
            for path in (one / log, two / log)
        ]
        for number, (a, b) in enumerate(itertools.zip_longest(*tables)):
            if a != b:
                found.append(
                    f"{log} line {number + 1}: {shorten(a)} left alone, {shorten(b)} killed"
                )
        # neither the header nor the empty string after the last newline counts
        report.rows += max(0, len(tables[0]) - 2)
    return found


def shorten(line: bytes | None) -> str:
    """The start of a line."""
    return "no such line" if line is None else repr(line[:60].decode(errors="replace"))


def compare_files(one: Path, two: Path, report: Report) -> list[str]:
    """Compare the online replay byte for byte, the settings, and done.json."""
    found = []
    a, b = (
        path.read_bytes() if path.exists() else b""
        for path in (one / "replay.bin", two / "replay.bin")
    )
    report.replay_bytes += len(a)
    if a != b:
        first = next(
            (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
            min(len(a), len(b)),
        )
        found.append(
            f"replay.bin: {len(a)} and {len(b)} bytes, different from byte {first} on"
        )
    for name in ("config.json", "done.json"):
        one_value, other_value = (
            json.loads(path.read_text()) if path.exists() else None
            for path in (one / name, two / name)
        )
        found += [
            f"{name} {key}"
            for key in differing(one_value, other_value)
            if key not in PLACE
        ]
    return found


def differing(one: Any, two: Any, prefix: str = "") -> list[str]:
    """The keys under which two JSON values differ."""
    if not (isinstance(one, dict) and isinstance(two, dict)):
        return [] if one == two else [f"{prefix or 'value'}"]
    keys = sorted(set(one) | set(two))
    return [
        where
        for key in keys
        for where in differing(
            one.get(key), two.get(key), f"{prefix}/{key}" if prefix else key
        )
    ]


def compare_checkpoints(one: Path, two: Path, report: Report) -> list[str]:
    """Compare the newest checkpoints: steps, records, and every array bit for bit."""
    from flax.traverse_util import flatten_dict

    from training.checkpoints import Checkpoints

    steps = newest_checkpoint(one), newest_checkpoint(two)
    if steps[0] != steps[1] or steps[0] < 0:
        return [
            f"the newest checkpoint is that of step {steps[0]} left alone, {steps[1]} killed"
        ]
    (tree, record), (other_tree, other_record) = (
        Checkpoints(folder / "checkpoints").read(steps[0]) for folder in (one, two)
    )
    # None marks what an agent lacks, such as a network that is switched off
    ours, theirs = (
        {name: x for name, x in flatten_dict(t, sep="/").items() if x is not None}
        for t in (tree, other_tree)
    )
    report.arrays += len(ours)
    found = [
        f"checkpoint: {key} of its record" for key in differing(record, other_record)
    ]
    found += [
        f"checkpoint: {name} is in one of them alone"
        for name in sorted(set(ours) ^ set(theirs))
    ]
    for name in sorted(set(ours) & set(theirs)):
        a, b = ours[name], theirs[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            found.append(
                f"checkpoint: {name} is {a.dtype}{a.shape} and {b.dtype}{b.shape}"
            )
        elif a.tobytes() != b.tobytes():
            found.append(
                f"checkpoint: {name} differs in {np.count_nonzero(a != b)} of {a.size} numbers"
            )
    return found


# ----------------------------------------------------------------------------------- the check


def check(
    folder: Path,
    kills: int,
    which: str = "kill",
    seed: int = 0,
    work: Work = THOROUGH,
    env_name: str = ENV_NAME,
) -> Report:
    """Make data, run once undisturbed and once with kills, and compare; may raise Failure.

    All files lie below `folder`.
    """
    from envs.collect import collect_random
    from envs.tasks import folder_flag

    start, rng, report = time.monotonic(), np.random.default_rng(seed), Report()
    collect_random(env_name, folder / "data", 300)
    flags = [
        f"--env_name={env_name}",
        f"--{folder_flag(env_name)}={folder / 'data'}",
        *work.flags(),
        *TINY,
        *work.more,
    ]

    def life_in(name: str) -> Life:
        command = [sys.executable, "main.py", f"--save_dir={folder / name}", *flags]
        return Life(command, folder / name, work, folder / "compiled")

    with life_in("alone") as process:
        process.finish()
        report.seconds_alone = process.seconds
        report.seconds_to_first_row = process.seconds_to_first_row or 0.0
    planned = plan(kills, which, work, rng)
    kill_and_resume(lambda: life_in("killed"), planned, report, 2 * work.save)
    compare(folder / "alone", folder / "killed", report)
    report.seconds = time.monotonic() - start
    return report


def main(arguments: list[str]) -> int:
    """Check, and print the report; return 0 if nothing differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kills", type=int, default=20, help="how often the run is killed"
    )
    parser.add_argument("--signal", choices=("kill", "term", "mixed"), default="kill")
    parser.add_argument("--env_name", default=ENV_NAME, help="for main.py")
    parser.add_argument("--num_seeds", type=int, default=1, help="for main.py")
    parser.add_argument("--eval_async", action="store_true", help="for main.py")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument(
        "--keep", action="store_true", help="keep the folder with both runs"
    )
    parser.add_argument("more", nargs="*", help="flags for main.py, after --")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="kill_and_resume_"))
    try:
        lengths = Work(num_seeds=options.num_seeds, eval_async=options.eval_async)
        work = lengths._replace(more=tuple(options.more))
        report = check(
            folder, options.kills, options.signal, options.seed, work, options.env_name
        )
    except Failure as failure:
        print(f"WRONG {failure}")
        return 1
    finally:
        if options.keep:
            print(f"kept {folder}")
        else:
            shutil.rmtree(folder)
    print(report)
    return int(bool(report.differences))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
