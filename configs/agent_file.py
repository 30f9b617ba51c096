"""The one loader of agent files, and the copy of their source that a run folder keeps.

An agent file is a Python file anywhere on disk that defines `AGENT` and `get_config`. It and
the modules that it imports from its folder are private to it: two agents whose helpers have the
same name do not get each other's. An import looks first in the checkout, then in the agent
file's folder, then in what is installed.

A run folder keeps that source in `source/`, and config.json describes it:

    source: {file, package, digest, of_checkout, checkout: {file of the checkout: digest}}

Two sources are the same where their syntax trees are, docstrings aside, wherever they lie.
"""

import ast
import builtins
import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import ml_collections
from absl import flags
from ml_collections import config_flags

from utils.errors import UserError, join_first
from utils.logging import warn

ROOT = Path(__file__).resolve().parents[1]
AGENTS = ROOT / "agents"
NOT_AGENTS = {"__init__", "base", "flow", "heads"}
KEPT = "source"
PRIVATE = "agent_file_"  # begins the name of an agent's private package in sys.modules
SELF = "<agent>"  # stands for that name while the source is read

flags.disclaim_key_flags()  # --agent is a flag of the program that defines it


@dataclasses.dataclass(frozen=True)
class Source:
    """The source of an agent file and of what it imports from its folder and the checkout."""

    file: Path
    package: str
    """Another name of the folder in imports: `mine` in `from mine.nets import Net`; or ''."""
    kept: dict[str, bytes]
    """The agent file and the modules that it imports from its folder, by path in the folder."""
    digests: dict[str, str]
    """Of their syntax trees."""
    checkout: dict[str, str]
    """The digests of the checkout's modules that it imports, by path in the checkout."""
    siblings: frozenset[str]
    """The top-level names that it imports from its folder."""

    @property
    def of_checkout(self) -> bool:
        """Whether the file is one of the checkout's agents."""
        return self.file.parent == AGENTS

    @property
    def digest(self) -> str:
        """One digest of all that is kept; it does not depend on the place."""
        return _digest(sorted(self.digests.items()))

    @property
    def recorded_file(self) -> str:
        """The file's path in config.json: absolute, or agents/x.py for one of the checkout."""
        return str(self.file.relative_to(ROOT) if self.of_checkout else self.file)

    def record(self) -> dict[str, Any]:
        """What config.json says of the source."""
        names = ("package", "digest", "of_checkout", "checkout")
        return {"file": self.file.name} | {name: getattr(self, name) for name in names}

    def keep(self, folder: Path) -> None:
        """Write the kept files into a run folder, all or nothing; replaces older ones."""
        place, part = folder / KEPT, folder / f".{KEPT}.part"
        shutil.rmtree(part, ignore_errors=True)
        for name, content in self.kept.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_bytes(content)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(part, place)

    def differences(self, other: "Source") -> list[str]:
        """The kept files in which two sources differ."""
        return _differing(self.digests, other.digests)


# ------------------------------------------------------------------------------- loading


def load_agent(path: str | os.PathLike) -> ModuleType:
    """The module of an agent file, loaded again only where its source has changed.

    Raises UserError where there is no such file, where it does not run, and where it defines no
    agent.
    """
    return load_source(read_source(path), f"--agent={path}")


def load_source(source: Source, named: str = "") -> ModuleType:
    """The module of a source, run as it was read.

    Raises UserError, which begins with `named` or the file, where the source does not run and
    where it defines no agent.
    """
    named = named or str(source.file)
    private = PRIVATE + _digest([str(source.file), source.package, source.digest])
    _packages[private] = source
    try:
        module = importlib.import_module(f"{private}.{_module_name(source.file)}")
    except Exception as error:  # whatever a user's file raises is the user's to read
        text = f"the file does not run ({type(error).__name__}: {error})"
        raise UserError(f"{named}: {text}") from error
    if not {"AGENT", "get_config"} <= set(vars(module)):
        text = "the file defines no AGENT and get_config; see agents/trqam_fixed_lambda.py"
        raise UserError(f"{named}: {text}")
    return module


def agent_settings(path: str) -> list[str]:
    """The names of an agent file's settings; raises UserError as `load_agent` does."""
    return list(load_agent(path).get_config().keys())


def agent_lineage(source: Source) -> list[str]:
    """The class names of a source's agent, the base class first, and the name of the file.

    Raises UserError as `load_source` does.
    """
    kinds = reversed(load_source(source).AGENT.__mro__)
    return [*(kind.__name__ for kind in kinds), source.file.stem]


def define_agent_flag(fv: flags.FlagValues, argv: Sequence[str], doc: str) -> None:
    """Define --agent, and --agent.KEY for the settings of the agent file that `argv` names."""
    config_flags.DEFINE_config_file("agent", None, doc, flag_values=fv, sys_argv=list(argv))
    fv["agent"].parser = _AgentParser()


class _AgentParser(flags.ArgumentParser):
    """Reads a config file as ml_collections does, with the loader of this module."""

    def parse(self, path: str) -> ml_collections.ConfigDict:
        return ml_collections.ConfigDict(load_agent(path).get_config()).lock()


def load_run_agent(folder: Path, stored: dict[str, Any]) -> ModuleType:
    """The module of the agent file that a run began with, whatever lies at its place today.

    It executes Python code from the run folder. Code on disk that differs from what the run
    began with is mentioned in one line. A run of an older version kept no source: its file is
    looked for at its recorded path, then in the checkout. Raises UserError as `load_agent`
    does.

    Args:
        folder: the run folder.
        stored: its config.json.
    """
    kept, recorded = kept_source(folder, stored), Path(stored["agent_file"])
    if kept is None:
        path = recorded if recorded.is_file() else ROOT / recorded
        warn(f"{folder} keeps no source of its agent; {path.absolute()} is used")
        return load_agent(path)
    if changed := changes_of_checkout(stored, kept):
        warn(f"{changed} since {folder} began")
    path = ROOT / recorded
    if path.is_file():
        if _digest_of(path, kept.package) == kept.digest:
            # The same code; it may read data files that lie beside it.
            return load_source(read_source(path, kept.package))
        warn(f"{path} differs from what {folder} began with; {kept.file} is used")
    try:
        return load_source(kept)
    except UserError as error:
        if not stored["source"]["of_checkout"]:
            raise
        warn(f"the project has changed too much for it ({error}); {path} is used")
        return load_agent(path)


def _digest_of(path: Path, package: str) -> str | None:
    """The digest of an agent file on disk; None where it cannot be read."""
    try:
        return read_source(path, package).digest
    except UserError:
        return None


def kept_source(folder: Path, stored: dict[str, Any]) -> Source | None:
    """The source that a run folder with this config.json keeps; None where it keeps none."""
    record = stored.get("source")
    if not record or not (file := folder / KEPT / record["file"]).is_file():
        return None
    return read_source(file, record["package"])


def changes_of_checkout(stored: dict[str, Any], now: Source) -> str:
    """Which modules of the checkout have changed since a config.json was written; or ''."""
    changed = _differing(stored["source"]["checkout"], now.checkout)
    have = "has" if len(changed) == 1 else "have"
    return f"{join_first(changed)} {have} changed" if changed else ""


def _module_name(file: Path) -> str:
    return file.stem.replace(".", "_")


_packages: dict[str, Source] = {}
"""The sources of the modules that were loaded, by the name of their private package."""


class _Finder:
    """Finds a private package and its modules: the agent file and those of its folder."""

    @staticmethod
    def find_spec(fullname: str, path=None, target=None) -> ModuleSpec | None:
        private, _, name = fullname.partition(".")
        source = _packages.get(private)
        if source is None:
            return None
        if name == _module_name(source.file):
            return _spec(fullname, source.file)
        if not name or _is_in(source.package, name):
            return _folder_spec(fullname, name, source)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


sys.meta_path.insert(0, _Finder)


def _spec(fullname: str, file: Path, locations: list[str] | None = None) -> ModuleSpec | None:
    loader = _Loader(fullname, str(file))
    make = importlib.util.spec_from_file_location
    return make(fullname, file, loader=loader, submodule_search_locations=locations)


def _folder_spec(fullname: str, name: str, source: Source) -> ModuleSpec | None:
    """The agent's folder as the private package, as `source.package` in it, or above that."""
    folder = source.file.parent
    locations = [str(folder)] if name in ("", source.package) else []
    if name and locations and (folder / "__init__.py").is_file():
        return _spec(fullname, folder / "__init__.py", locations)
    spec = ModuleSpec(fullname, None, is_package=True)
    spec.submodule_search_locations = locations
    return spec


class _Loader(SourceFileLoader):
    """Loads a module whose absolute imports find the modules of its agent's folder."""

    def get_code(self, fullname: str) -> CodeType:
        # What was read, though the file may have changed before a function imports it. Not from
        # __pycache__, which misses an edit of the same length within a second.
        source = _packages[fullname.partition(".")[0]]
        name = Path(self.path).relative_to(source.file.parent).as_posix()
        content = source.kept.get(name)
        content = self.get_data(self.path) if content is None else content
        return self.source_to_code(content, self.path)

    def exec_module(self, module: ModuleType) -> None:
        private = module.__name__.partition(".")[0]
        source = _packages[private]

        def import_(name: str, globals=None, locals=None, fromlist=(), level=0) -> ModuleType:
            top = name.partition(".")[0]
            if level or not (top in source.siblings or _is_in(name, source.package)):
                return builtins.__import__(name, globals, locals, fromlist, level)
            if fromlist:
                return builtins.__import__(f"{private}.{name}", globals, locals, fromlist, 0)
            importlib.import_module(f"{private}.{name}")
            return sys.modules[f"{private}.{top}"]

        vars(module)["__builtins__"] = {**vars(builtins), "__import__": import_}
        super().exec_module(module)


# ------------------------------------------------------------------------------- reading


class _Module(NamedTuple):
    name: str
    file: Path
    own: bool
    """Whether it is imported from the agent file's folder, not from the checkout."""


def read_source(path: str | os.PathLike, package: str | None = None) -> Source:
    """The source of an agent file; its files are read again only where one has changed.

    package: `Source.package`; by default found on the module search path.
    Raises UserError where there is no such file and where it cannot be parsed.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise _no_such_file(path)
    file = file.parent.resolve() / file.name
    package = _package_of(file.parent) if package is None else package
    source, stamps = _sources.get((file, package), (None, []))
    if source is None or stamps != _stamps(source):
        try:
            source = _read(file, package)
        except (SyntaxError, ValueError, ImportError, OSError) as error:
            text = f"the file does not run ({type(error).__name__}: {error})"
            raise UserError(f"--agent={path}: {text}") from error
        _sources[file, package] = source, _stamps(source)
    return source


_sources: dict[tuple[Path, str], tuple[Source, list]] = {}
"""What was read, with the stamps of its files, by file and package."""


def _stamps(source: Source) -> list:
    """Values that change with the files of a source and with the names in its folder."""
    folder = source.file.parent
    files = [folder, *(folder / name for name in source.kept)]
    files += [ROOT / name for name in source.checkout]
    stats = [file.stat() if file.exists() else None for file in files]
    return [stat and (stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats]


def _no_such_file(path: str | os.PathLike) -> UserError:
    """Says where the file was looked for, and which one may be meant."""
    place = Path(os.path.abspath(Path(path).expanduser()))
    if (ROOT / path).is_file():
        meant = f"the project has {ROOT / path}"
    else:
        names = sorted(file.stem for file in AGENTS.glob("*.py") if file.stem not in NOT_AGENTS)
        name = f"agents/{difflib.get_close_matches(place.stem, names, n=1, cutoff=0.0)[0]}.py"
        meant = f"the nearest agent is {name if Path(name).is_file() else ROOT / name}"
    return UserError(f"--agent={path}: there is no such file as {place}; {meant}")


def _read(file: Path, package: str) -> Source:
    """Read an agent file and follow its imports, those inside functions too."""
    importlib.invalidate_caches()
    folder = file.parent
    kept: dict[str, bytes] = {}
    digests: dict[str, str] = {}
    checkout: dict[str, str] = {}
    todo = [_Module(f"{SELF}.{file.stem}", file, True)]
    seen = set(todo)
    while todo:
        module = todo.pop()
        content = module.file.read_bytes()
        tree = ast.parse(content, module.file.name)
        place = module.file.relative_to(folder if module.own else ROOT).as_posix()
        (digests if module.own else checkout)[place] = _digest(_skeleton(tree))
        if module.own:
            kept[place] = content
        names = set(_imported(tree, module))
        imported = {m for name in names for m in _located(name, folder, package)}
        todo += imported - seen
        seen |= imported
    own = {module.name for module in seen if module.own}
    named = {name for name in own if _is_in(name, SELF) or _is_in(name, package)}
    siblings = frozenset(name.partition(".")[0] for name in own - named)
    return Source(file, package, kept, digests, dict(sorted(checkout.items())), siblings)


def _imported(tree: ast.AST, module: _Module) -> Iterator[str]:
    """The absolute names that a module imports; a.b for `from a import b`, module or not."""
    is_package = module.file.name == "__init__.py"
    parent = module.name if is_package else module.name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(relative, parent)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _located(name: str, folder: Path, package: str) -> Iterator[_Module]:
    """The modules of the agent's folder or the checkout that importing a dotted name runs."""
    found = _root_of(name, folder, package)
    if found is None:
        return
    prefix, own = found
    if own and prefix == package and (folder / "__init__.py").is_file():
        yield _Module(package, folder / "__init__.py", own)
    locations = [str(folder if own else ROOT)]
    for part in filter(None, name.removeprefix(prefix).split(".")):
        prefix = f"{prefix}.{part}".lstrip(".")
        spec = PathFinder.find_spec(prefix, locations)
        if spec and isinstance(spec.loader, SourceFileLoader):
            yield _Module(prefix, Path(spec.loader.path), own)
        if not spec or spec.submodule_search_locations is None:
            return
        locations = spec.submodule_search_locations


def _root_of(name: str, folder: Path, package: str) -> tuple[str, bool] | None:
    """The beginning of a dotted name that stands for the agent's folder, or '', and whether the
    rest is found in that folder, not in the checkout; None where it is found in neither."""
    for prefix in (SELF, package):
        if _is_in(name, prefix):
            return prefix, True
    top = name.partition(".")[0]
    if _is_sibling(top, folder):
        return "", True
    return ("", False) if ROOT in _places(top, [str(ROOT), *sys.path]) else None


def _is_in(name: str, package: str) -> bool:
    """Whether a dotted name is that of a package or of a module in it."""
    return bool(package) and f"{name}.".startswith(f"{package}.")


def _is_sibling(top: str, folder: Path) -> bool:
    """Whether a top-level import finds a module of the agent's folder."""
    if top in sys.stdlib_module_names:
        return False
    if folder == ROOT and not (folder / f"{top}.py").is_file():
        return False  # a package of the checkout
    return folder in _places(top, [str(ROOT), str(folder), *sys.path])


def _package_of(folder: Path) -> str:
    """The dotted name by which imports reach a folder below the module search path; or ''."""
    for entry in (Path(entry).resolve() for entry in sys.path):
        if folder in (ROOT, AGENTS) or folder == entry or not folder.is_relative_to(entry):
            continue
        parts = folder.relative_to(entry).parts
        if entry in _places(parts[0], [str(ROOT), *sys.path]):
            return ".".join(parts)
    return ""


def _places(top: str, paths: list[str]) -> set[Path]:
    """The folders of `paths` where a top-level module is found; several for a namespace."""
    spec = PathFinder.find_spec(top, paths)
    if spec is None:
        return set()
    files = spec.submodule_search_locations or [spec.origin or ""]
    return {Path(file).parent.resolve() for file in files}


# ------------------------------------------------------------------------------- comparing


def _differing(ours: dict[str, str], theirs: dict[str, str]) -> list[str]:
    """The names with different digests."""
    return [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def _skeleton(node: Any) -> Any:
    """A syntax tree without docstrings and positions; the same in Python 3.10 to 3.13."""
    if isinstance(node, list):
        return [_skeleton(item) for item in node if not _is_docstring(item)]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.JoinedStr):  # Python 3.12 ends some with an empty constant
        fields["values"] = [part for part in node.values if getattr(part, "value", None) != ""]
    pairs = [(name, value) for name, value in fields.items() if value not in (None, [])]
    return type(node).__name__, [(name, _skeleton(value)) for name, value in pairs]


def _is_docstring(node: Any) -> bool:
    """Whether a statement is a string that nothing reads."""
    constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return constant and isinstance(node.value.value, str)
