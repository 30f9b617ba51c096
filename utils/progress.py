"""Progress on the screen: a moving bar in a terminal, plain lines in a file."""

import contextlib
import logging
import math
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Self, TextIO

from tqdm import tqdm
from tqdm.std import Bar

from utils.logging import WIDTH

SHORTEST_NAME = 8
SHORTEST_BAR = 6
OPTIONAL = ("left", "rate", "step")
"""Parts of a line that a narrow terminal goes without, the first of them first."""


class Moving(tqdm):
    """A bar that moves in a terminal, above which everything is printed, and not in a file.

    Args:
        options: of tqdm.
    """

    def __init__(self, file: TextIO | None = None, **options: Any):
        self.target = terminal_of(file or sys.stderr)
        self.moving = self.target.isatty()
        drawn = self.target if self.moving else Nowhere()
        super().__init__(file=drawn, dynamic_ncols=True, **options)

    def __enter__(self) -> Self:
        if self.moving:
            printing_above.begin(self.target)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if self.moving:
            self.target.write("\r")  # tqdm leaves the cursor at the end of a bar below another
            printing_above.end()


class ProgressBar(Moving):
    """Progress of one phase of training, with the newest figures of the run.

    A terminal shows one moving line; what is printed meanwhile appears above it. A file gets
    one line for each call of `status`. Where a line is too long, the name is shortened.

    Args:
        total: updates or environment steps of the phase.
        name: of the run, see `run_name`.
        phase: "offline" or "online".
        unit: what is counted: "updates" or "steps".
        initial: where a resumed run starts.
        file: stderr if None.
    """

    def __init__(
        self,
        total: int,
        name: str,
        phase: str = "offline",
        unit: str = "updates",
        initial: int = 0,
        file: TextIO | None = None,
    ):
        self.name, self.phase = name, phase
        self.figures: dict[str, str] = {}
        self.logged = initial, time.perf_counter()  # count and time of the last line in a file
        super().__init__(file, total=total, initial=initial, unit=unit)

    def status(
        self,
        seconds: float | None = None,
        success: float | None = None,
        path_kl: float | None = None,
        kl_budget: float | None = None,
        lam: float | None = None,
        mean_return: float | None = None,
    ) -> None:
        """Show the newest figures; None leaves one out.

        Args:
            seconds: that training took since the last call; None: the time that has passed.
            success: rate of the last evaluation.
            path_kl: nats per action.
            kl_budget: the same, wanted; NaN where none is.
            lam: the trust-region parameter, with lam_scale.
            mean_return: of the last evaluation; shown where there is no success.
        """
        budget = "" if kl_budget is None or math.isnan(kl_budget) else f"/{kl_budget:.3g}"
        symbol = "λ" if writes(self.target, "λ") else "lam"
        self.figures = {
            "success": "" if success is None else f"success {success:.0%}",
            "return": ""
            if success is not None or mean_return is None
            else f"return {mean_return:.4g}",
            "kl": "" if path_kl is None else f"KL {path_kl:.3g}{budget}",
            "lam": "" if lam is None else f"{symbol} {lam:.3g}",
        }
        if self.moving:
            self.refresh()
        else:
            self.print_line(seconds)

    def print_line(self, seconds: float | None) -> None:
        """Print the line of a file, with the rate since the last one."""
        (count, then), now = self.logged, time.perf_counter()
        self.logged = self.n, now
        taken = now - then if seconds is None else seconds
        name, rest = fitted(self.name, self.parts((self.n - count) / max(taken, 1e-9)), WIDTH)
        print(self.encoded(f"{name}  {rest}"), file=self.target, flush=True)

    def parts(self, rate: float | None) -> dict[str, str]:
        """What follows the name, in order."""
        left = (self.total - self.n) / rate if rate else 0.0
        return {
            "step": f"step {exact(self.n)}/{exact(self.total)} {self.phase}",
            "rate": f"{rate_text(rate)} {self.unit}/s" if rate else "",
            **self.figures,
            "left": f"{clock(left)} left" if left else "",
        }

    def encoded(self, text: str) -> str:
        """The text with the ellipsis of a shortened name as the target can write it."""
        return text if writes(self.target, text) else text.replace("…", "~")

    def __str__(self) -> str:
        """The moving line: between name and figures a bar, where there is room."""
        meter = self.format_dict
        average = (self.n - self.initial) / meter["elapsed"] if meter["elapsed"] else None
        width = meter["ncols"] or WIDTH
        name, rest = fitted(self.name, self.parts(meter["rate"] or average), width)
        room = width - len(name) - len(rest) - 6
        if room < SHORTEST_BAR:
            return self.encoded(f"{name}  {rest}")
        bar = Bar(self.n / self.total, room, Bar.ASCII if meter["ascii"] else Bar.UTF)
        return self.encoded(f"{name}  |{bar}|  {rest}")


class Counter(Moving):
    """tqdm over the pieces of one piece of work; a file gets one line at the end, or none.

    Args:
        name: of the work.
        total: how many pieces; None if that is not known.
        kept: whether the bar stays when it is done, and a file gets its line.
        disable: whether to show nothing at all.
        options: further ones of tqdm.
    """

    def __init__(
        self,
        name: str,
        total: int | None,
        *,
        kept: bool = True,
        disable: bool = False,
        **options: Any,
    ):
        super().__init__(desc=name, total=total, disable=disable, leave=kept, **options)

    def close(self) -> None:
        """End it; the second time nothing happens."""
        if not (self.disable or self.moving) and self.leave:
            self.bar_format = "{desc}: {n_fmt}/{total_fmt}{unit} in {elapsed}, {rate_fmt}"
            self._ema_dt = lambda: 0.0  # the rate of the whole
            print(self, file=self.target, flush=True)
        super().close()


def run_name(agent: str, env_name: str, seeds: list[int]) -> str:
    """'trqam cube-double-play-task2 s0-3': what a bar calls the runs of one task."""
    task = env_name.removesuffix("-v0").replace("-singletask", "")
    consecutive = len(seeds) > 1 and seeds == list(range(seeds[0], seeds[-1] + 1))
    which = f"{seeds[0]}-{seeds[-1]}" if consecutive else ",".join(map(str, seeds))
    return f"{agent} {task} s{which}"


def fitted(name: str, parts: dict[str, str], width: int) -> tuple[str, str]:
    """The name and the joined parts: at most `width` long with two columns between them.

    The name is shortened first; then the OPTIONAL parts are left out.
    """
    kept = {key: part for key, part in parts.items() if part}
    for dropped in ("", *OPTIONAL):
        kept.pop(dropped, None)
        rest = "  ".join(kept.values())
        room = width - len(rest) - 2
        if room >= min(len(name), SHORTEST_NAME):
            return elided(name, room), rest
    return "", rest[: width - 2]


def elided(name: str, room: int) -> str:
    """The name, without its middle if it is too long: the ends are agent, task and seed."""
    if len(name) <= room:
        return name
    head = (room - 1) // 2
    return f"{name[:head]}…{name[head + 1 - room :]}"


def exact(count: int) -> str:
    """A count as short as it can be without rounding: 12345, 455k, 1M."""
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return str(count)


def rate_text(rate: float) -> str:
    """Three digits, or all before the point."""
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def clock(seconds: float) -> str:
    """A duration: 0:07, 59:59, 2h13m, 4d03h."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02}h"
    return f"{hours}h{minute:02}m" if hours else f"{minute}:{second:02}"


def writes(file: TextIO, text: str) -> bool:
    """Whether the file's encoding has these characters."""
    try:
        text.encode(getattr(file, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


# ------------------------------------------------------------------------- printing above a bar


class Nowhere:
    """A file that keeps nothing, for a bar that counts without being drawn."""

    def write(self, text: str) -> None: ...
    def flush(self) -> None: ...


class AboveBars:
    """A terminal's stream while a bar moves in it: whole lines appear above the bar."""

    def __init__(self, stream: TextIO, bars: TextIO):
        self.stream, self.bars, self.begun = stream, bars, ""

    def write(self, text: str) -> int:
        """Print the lines that are whole, keep what was begun."""
        lines, newline, begun = (self.begun + text).rpartition("\n")
        self.begun = begun.rpartition("\r")[2]  # what a carriage return took back
        if newline:
            with tqdm.external_write_mode(file=self.bars):
                self.stream.write(lines + "\n")
                self.stream.flush()
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def terminal_of(stream: TextIO) -> TextIO:
    """The stream itself where it writes above a bar."""
    return stream.stream if isinstance(stream, AboveBars) else stream


class PrintingAbove:
    """While a bar moves, stdout, stderr and loggers print above it, if to a terminal.

    Evaluations have their bars in threads: the first bar replaces the streams, and the last one
    puts them back.
    """

    def __init__(self) -> None:
        self.lock, self.bars, self.undo = threading.Lock(), 0, contextlib.ExitStack()

    def begin(self, bars: TextIO) -> None:
        """Another bar moves, in the terminal `bars`."""
        with self.lock:
            self.bars += 1
            if self.bars > 1:
                return
            for name in ("stdout", "stderr"):
                stream = getattr(sys, name)
                if stream.isatty():
                    self.undo.enter_context(replaced(name, stream, AboveBars(stream, bars)))

    def end(self) -> None:
        """A bar has ended."""
        with self.lock:
            self.bars -= 1
            if not self.bars:
                self.undo.close()


printing_above = PrintingAbove()


@contextlib.contextmanager
def replaced(name: str, stream: TextIO, above: AboveBars) -> Iterator[None]:
    """In this block `above` stands in for sys.stdout or sys.stderr, in loggers too."""
    handlers = [handler for handler in stream_handlers() if handler.stream is stream]

    def put(new: Any) -> None:
        setattr(sys, name, new)
        for handler in handlers:
            handler.setStream(new)

    put(above)
    try:
        yield
    finally:
        put(stream)
        stream.write(above.begun)


def stream_handlers() -> list[logging.StreamHandler]:
    """Those of all loggers that there are."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {handler for logger in loggers for handler in getattr(logger, "handlers", ())}
    return [handler for handler in handlers if isinstance(handler, logging.StreamHandler)]
