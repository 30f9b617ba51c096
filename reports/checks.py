"""Notes on what limits the comparisons of a report."""

import collections

from reports.points import Point, by_phase
from reports.results import differing_settings, shown_value
from utils.errors import join_first, printable

COVERAGE = {2: 60, 3: 80, 4: 90}
"""The coverage (%) of a nominal 95 % bootstrap interval on one task, by the number of seeds."""
PROTOCOL = (
    *("actor_hidden_dims", "batch_size", "dataset_proportion", "discount"),
    *("eval_episodes", "horizon_length", "sparse", "utd_ratio", "value_hidden_dims"),
)
"""The settings that all agents of a comparison should share."""


def check_groups(points: list[Point], notes: list[str]) -> None:
    """Methods on different tasks, few or different numbers of seeds, and different steps."""
    for phase, now in by_phase(points, lambda point: point.phase):
        check_tasks(phase, now, notes)
    check_seeds(points, notes)
    for phase, now in by_phase(points, lambda point: point.phase):
        steps = sorted({point.phase_step for point in now})
        if len(steps) > 1:
            reached = (
                f"runs are at different steps of it, {steps[0]:,} to {steps[-1]:,}"
            )
            notes.append(f"{phase}: {reached}; --step=N compares at one")


def check_tasks(phase: str, points: list[Point], notes: list[str]) -> None:
    """Methods that were not run on the same tasks."""
    tasks: dict[str, set[str]] = {}
    for point in points:
        tasks.setdefault(point.result.method, set()).add(point.result.env_name)
    if len(set(map(frozenset, tasks.values()))) > 1:
        counts = ", ".join(f"{method} {len(tasks[method])}" for method in sorted(tasks))
        different = f"methods were run on different tasks ({counts})"
        notes.append(
            f"{phase}: {different}: their rows over several tasks are not comparable"
        )


def check_seeds(points: list[Point], notes: list[str]) -> None:
    """Seeds that differ in number, or are too few for the bootstrap's intervals."""
    seeds: dict[tuple[str, str, str], int] = {}
    for point in points:
        key = (point.phase, point.result.env_name, point.result.method)
        seeds[key] = seeds.get(key, 0) + 1
    if len(set(seeds.values())) > 1:
        fewest = min(seeds, key=lambda key: seeds[key])
        notes.append(
            f"the number of seeds differs, from {seeds[fewest]} ({fewest[2]} on {fewest[1]},"
            f" {fewest[0]}) to {max(seeds.values())}"
        )
    few = min(seeds.values() & COVERAGE.keys(), default=None)
    if few:
        narrow = "bootstrap intervals over few tasks are too narrow"
        notes.append(
            f"{few} seeds: {narrow} (one task: about {COVERAGE[few]} %); use Student's ± there"
        )


def check_runs(points: list[Point], notes: list[str]) -> None:
    """Data that differ within a task, settings that differ between seeds, agents' warnings."""
    data: dict[str, set[tuple]] = {}
    seeds: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        result = point.result
        data.setdefault(result.env_name, set()).add(result.fingerprint)
        seeds.setdefault((point.phase, result.env_name, result.method), []).append(
            point
        )
    mixed = [
        task for task, fingerprints in data.items() if len(fingerprints - {()}) > 1
    ]
    if mixed:
        tasks = join_first(mixed)
        notes.append(
            f"the runs of a task were not all trained on the same data: {tasks}"
        )
    differing: dict[str, dict[str, None]] = {}  # names in order, once each
    for (_, task, method), inside in seeds.items():
        for difference in differing_settings(
            [point.result.settings(point.step) for point in inside]
        ):
            differing.setdefault(difference, {})[f"{method} {task}"] = None
    for what, names in differing.items():
        notes.append(
            f"seeds of one method were trained with {what}: {join_first(names)}"
        )
    check_code(seeds, notes)
    check_protocol(points, notes)
    check_concerns(points, notes)


def check_code(
    seeds: dict[tuple[str, str, str], list[Point]], notes: list[str]
) -> None:
    """Code that differs between the seeds of a method, by phase, task and method."""
    mixed: dict[str, None] = {}  # names in order, once each
    for (_, task, method), inside in seeds.items():
        sources = [point.result.config.get("source", {}) for point in inside]
        code = {str([s["digest"], sorted(s["checkout"].items())]) for s in sources if s}
        if len(code) > 1:
            mixed[f"{method} {task}"] = None
    if mixed:
        notes.append(
            f"seeds of one method were trained with different code: {join_first(mixed)}"
        )


def check_protocol(points: list[Point], notes: list[str]) -> None:
    """Settings of training and evaluation that differ between the agents of a task."""
    # by task and setting, then by agent
    values: dict[tuple[str, str], dict[str, set[str]]] = collections.defaultdict(
        lambda: collections.defaultdict(set)
    )
    for point in points:
        result = point.result
        settings = result.config.get("flags", {}) | result.config.get("agent", {})
        for name in PROTOCOL:
            if name in settings:
                shown = shown_value(settings[name])
                values[result.env_name, name][result.agent].add(shown)
    tasks_of: dict[str, list[str]] = {}  # by what differs
    for (task, name), of_agents in values.items():
        if len(set(map(frozenset, of_agents.values()))) > 1:
            each = [f"{a} {', '.join(sorted(of_agents[a]))}" for a in sorted(of_agents)]
            tasks_of.setdefault(f"{name} ({'; '.join(each)})", []).append(task)
    for what, tasks in tasks_of.items():
        notes.append(
            f"agents were not trained or evaluated alike: {what}: {join_first(tasks)}"
        )


def check_concerns(points: list[Point], notes: list[str]) -> None:
    """The agents' own warnings at the newest steps of their runs, with the runs' names."""
    runs_of: dict[str, dict[str, None]] = {}  # names in order, once each
    for point in points:
        result = point.result
        if point.step in (result.last_step, max(result.ends().values(), default=-1)):
            for concern in result.concerns.values():
                runs_of.setdefault(printable(concern), {})[result.name] = None
    for concern, names in runs_of.items():
        notes.append(f"{len(names)} runs: {concern}: {join_first(names)}")
