"""Progress of training and other work: a moving bar in a terminal, plain lines in a file."""

import math
import sys
import time
from typing import Any, TextIO

from tqdm import tqdm
from tqdm.std import Bar

from utils.messages import WIDTH

SHORTEST_NAME = 8
SHORTEST_BAR = 6
SECONDS_PER_LINE = 60
"""How often a bar writes a line to a file."""
OPTIONAL = ("left", "rate", "step")
"""Parts of a line that are left out of a narrow terminal, in this order."""


class TerminalBar(tqdm):
    """A tqdm bar that moves in a terminal, with the lines of `utils.messages.say` above it.

    A file gets a line a minute: subclasses define `print_line`.

    Args:
        file: where to draw it; None: stderr.
        options: options of tqdm.
    """

    def __init__(self, file: TextIO | None = None, **options: Any):
        self.target = file or sys.stderr
        self.moving = self.target.isatty()
        self.printed = time.perf_counter()  # the time of the last line in a file
        drawn = self.target if self.moving else NullFile()
        super().__init__(file=drawn, dynamic_ncols=True, **options)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if self.moving:
            self.target.write("\r")  # tqdm leaves the cursor at the end of a lower bar

    def update(self, n: float | None = 1) -> bool | None:
        """Count `n` items."""
        drawn = super().update(n)
        if time.perf_counter() - self.printed >= SECONDS_PER_LINE and not self.moving:
            self.print_line()
        return drawn

    def print_line(self) -> None:
        """Print a line about the progress to a file; for subclasses."""
        raise NotImplementedError

    def write_line(self, text: str) -> None:
        """Write a line to the file."""
        self.printed = time.perf_counter()
        print(text, file=self.target, flush=True)


class ProgressBar(TerminalBar):
    """Progress of one phase of training, with the newest figures of the run.

    A terminal shows one moving line, with messages above it. A file gets one line for each call
    of `status`, and one a minute. The name is shortened where a line would be too long.

    Args:
        total: updates or environment steps of the phase.
        name: the name of the run.
        phase: "offline" or "online".
        unit: what is counted: "updates" or "steps".
        initial: the count at which a resumed run starts.
        file: where to print; None: stderr.
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
        self.name = name
        self.phase = phase
        self.figures: dict[str, str] = {}
        # the count and the time of the last `status`
        self.logged = initial, time.perf_counter()
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
            seconds: training time since the last call; None: the wall time since then.
            success: success rate of the last evaluation.
            path_kl: path KL in nats per action.
            kl_budget: its budget; NaN for an agent without one.
            lam: the trust-region parameter, times lam_scale.
            mean_return: return of the last evaluation; shown only without a success rate.
        """
        self.figures = {}
        if success is not None:
            self.figures["success"] = f"success {success:.0%}"
        elif mean_return is not None:
            self.figures["return"] = f"return {mean_return:.4g}"
        if path_kl is not None:
            has_budget = kl_budget is not None and not math.isnan(kl_budget)
            budget = f"/{kl_budget:.3g}" if has_budget else ""
            self.figures["kl"] = f"KL {path_kl:.3g}{budget}"
        if lam is not None:
            self.figures["lam"] = f"λ {lam:.3g}"
        if self.moving:
            self.refresh()
        else:
            self.print_line(seconds)
            self.logged = self.n, time.perf_counter()

    def print_line(self, seconds: float | None = None) -> None:
        """Print a line with the rate since the last `status`; `seconds` as there."""
        count, then = self.logged
        taken = time.perf_counter() - then if seconds is None else seconds
        name, rest = fit_line(
            self.name, self.parts((self.n - count) / max(taken, 1e-9)), WIDTH
        )
        self.write_line(f"{name}  {rest}")

    def parts(self, rate: float | None) -> dict[str, str]:
        """Return what follows the name on a line, in order; empty parts are left out later."""
        left = (self.total - self.n) / rate if rate else 0.0
        return {
            "step": f"step {short_count(self.n)}/{short_count(self.total)} {self.phase}",
            "rate": f"{rate_text(rate)} {self.unit}/s" if rate else "",
            **self.figures,
            "left": f"{clock(left)} left" if left else "",
        }

    def __str__(self) -> str:
        """Return the moving line, with a bar between name and figures where there is room."""
        meter = self.format_dict
        average = (
            (self.n - self.initial) / meter["elapsed"] if meter["elapsed"] else None
        )
        width = meter["ncols"] or WIDTH
        name, rest = fit_line(self.name, self.parts(meter["rate"] or average), width)
        room = width - len(name) - len(rest) - 6
        if room < SHORTEST_BAR:
            return f"{name}  {rest}"
        bar = Bar(self.n / self.total, room, Bar.ASCII if meter["ascii"] else Bar.UTF)
        return f"{name}  |{bar}|  {rest}"


class Counter(TerminalBar):
    """A bar that counts the items of one task; a file gets a line a minute and one at the end.

    Args:
        name: the name of the task.
        total: the number of items; None if it is not known.
        kept: whether the finished bar stays, and whether a file gets the last line.
        disable: whether to show nothing at all.
        options: further options of tqdm.
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
        """End the bar. A second call does nothing."""
        if self.leave:
            self.print_line(last=True)
        super().close()

    def print_line(self, last: bool = False) -> None:
        """Print the count and the average rate so far, unless the bar moves in a terminal.

        last: whether the count has ended, so that no time is left.
        """
        if self.disable or self.moving:
            return
        ending = "" if last else ", {remaining} left"
        form = "{desc}: {n_fmt}/{total_fmt}{unit} in {elapsed}, {rate_fmt}" + ending
        # without a rate, tqdm computes the average
        average = self.format_dict | {"rate": None, "bar_format": form}
        self.write_line(self.format_meter(**average))


def fit_line(name: str, parts: dict[str, str], width: int) -> tuple[str, str]:
    """Return a name and the joined parts that fit in `width`, with two columns between them.

    The name is shortened first; then the OPTIONAL parts are left out.

    Args:
        name: the name of the run.
        parts: texts by name, "" for none.
        width: columns.
    """
    kept = {key: part for key, part in parts.items() if part}
    for dropped in ("", *OPTIONAL):
        kept.pop(dropped, None)
        rest = "  ".join(kept.values())
        room = width - len(rest) - 2
        if room >= min(len(name), SHORTEST_NAME):
            return shorten_middle(name, room), rest
    return "", rest[: width - 2]


def shorten_middle(name: str, room: int) -> str:
    """Shorten a name to `room` columns by cutting its middle; its ends show agent and seed."""
    if len(name) <= room:
        return name
    head = (room - 1) // 2
    return f"{name[:head]}…{name[head + 1 - room :]}"


def short_count(count: int) -> str:
    """Write a count as short as possible without rounding: 12345, 455k, 1M."""
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return str(count)


def rate_text(rate: float) -> str:
    """Write a rate with three significant digits, or without decimals from 100 up."""
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def clock(seconds: float) -> str:
    """Write a duration in seconds as 0:07, 59:59, 2h13m or 4d03h."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02}h"
    return f"{hours}h{minute:02}m" if hours else f"{minute}:{second:02}"


class NullFile:
    """A file that discards its input, for a bar that counts without being drawn."""

    def write(self, text: str) -> None: ...
    def flush(self) -> None: ...
