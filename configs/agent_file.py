"""Loads agent files.

An agent file is a Python file anywhere on disk that defines `AGENT` and `get_config`. Its
imports are searched in the checkout, the standard library, its own folder, and the installed
packages, in this order. Modules of its own folder, its siblings, are private: two agents that
have a `helper.py` each import their own. Import siblings at the top of the file; a function
that imports one later does not find it.
"""

import importlib
import inspect
import itertools
import sys
from collections.abc import Callable, Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from configs.agent_source import ROOT, Source, read
from configs.trust import UntrustedError
from utils.code import code_digest
from utils.errors import UserError
from utils.files import expanded

NEEDED = ("lr", "batch_size", "horizon_length", "action_chunking", "discount")
"""The settings that training and evaluation read, which every agent has."""
_loaded: dict[Path, Source] = {}
_numbers = itertools.count()


Admit = Callable[[Mapping[Path, bytes]], None]
"""Takes the content of files, and raises UntrustedError if one may not be executed."""


def load_source(
    path: str | Path, package: str = "", admit: Admit | None = None
) -> Source:
    """Load an agent file; it is executed again only if it or a sibling has changed.

    Raises UserError if the file is missing, does not run or defines no agent, and what `admit`
    raises.

    Args:
        path: the file.
        package: the name of its folder in imports; by default the folder's own name.
        admit: called before each file is executed; None allows all files.
    """
    file = expanded(path)
    if not file.is_file():
        raise UserError(f"--agent={path}: there is no such file as {file.absolute()}")
    file = file.parent.resolve() / file.name
    source = _loaded.get(file)
    if source and all(
        read(file.parent / name) == kept for name, kept in source.kept.items()
    ):
        return source
    try:
        source = _Importer(file, package or _package_name(file.parent), admit).load()
    except UntrustedError:
        raise
    except Exception as error:  # a user's file may raise any type
        text = f"the file does not run ({type(error).__name__}: {error})"
        raise UserError(f"--agent={path}: {text}{hint(error, file)}") from error
    if fault := fault_of(source.module):
        raise UserError(f"--agent={path}: {fault}")
    _loaded[file] = source
    return source


def hint(error: Exception, file: Path) -> str:
    """Return what to do if an import found a folder of the project in place of a sibling of the
    same name; "" for other errors.

    Args:
        error: what executing the agent file raised.
        file: the agent file.
    """
    if not isinstance(error, ImportError) or not error.name or file.parent == ROOT:
        return ""
    top = error.name.partition(".")[0]
    siblings = (file.parent / top, file.parent / f"{top}.py")
    if not (ROOT / top / "__init__.py").is_file() or not any(
        sibling.exists() for sibling in siblings
    ):
        return ""
    return f"; {top} is a folder of the project: write from .{error.name} import ..."


def fault_of(module: ModuleType) -> str:
    """Return what an agent file's AGENT and get_config lack; "" if they are usable."""
    kind = getattr(module, "AGENT", None)
    get_config = getattr(module, "get_config", None)
    if not (isinstance(kind, type) and callable(get_config)):
        return (
            "the file defines no AGENT and get_config; see agents/trqam_fixed_lambda.py"
        )
    if fault := fault_of_class(kind):
        return fault
    owner = getattr(get_config, "__self__", kind)
    if getattr(owner, "OPTIONS", None) != getattr(kind, "OPTIONS", None):
        return (
            f"get_config is {owner.__name__}'s and does not read the OPTIONS of"
            f" {kind.__name__}; end the file with get_config = {kind.__name__}.get_config"
        )
    try:
        missing = [name for name in NEEDED if name not in get_config()]
    except Exception as error:  # a user's function may raise any type
        return f"get_config fails ({type(error).__name__}: {error})"
    names = ", ".join(missing)
    return f"there is no setting {names}, which every agent needs" if missing else ""


def root_class(kind: type) -> Any:
    """Return agents.base.Agent, found among a class's ancestors; None if it is not there.

    This folder does not import agents/.
    """
    return next(
        (base for base in kind.__mro__ if base.__module__ == "agents.base"), None
    )


def fault_of_class(kind: Any) -> str:
    """Return what the class of an agent lacks; "" if it can be created."""
    if root_class(kind) is None:
        return f"AGENT = {kind.__name__} is not a subclass of agents.base.Agent"
    if inspect.isabstract(kind):
        missing = ", ".join(sorted(kind.__abstractmethods__))
        return f"{kind.__name__} does not define {missing}, which every agent needs"
    return ""


def _package_name(folder: Path) -> str:
    """Return a folder's name for imports; '' if an installed package has that name."""
    file = getattr(PathFinder.find_spec(folder.name), "origin", None)
    return folder.name if file in (None, str(folder / "__init__.py")) else ""


class _Importer(MetaPathFinder, Loader):
    """Imports an agent file and its siblings, and keeps the content of each.

    sys.modules holds them as `name` and `name.helper`. The plain name `helper` is in it only
    while the agent file is executed.

    Args:
        file: the agent file.
        package: the name of its folder in imports.
        admit: called before each file is executed; None allows all files.
    """

    def __init__(self, file: Path, package: str, admit: Admit | None):
        self.file = file
        self.package = package
        self.admit = admit
        self.name = f"agent_file_{next(_numbers)}"
        self.kept: dict[str, bytes] = {}

    def load(self) -> Source:
        """Execute the agent file, hiding other modules that have its siblings' names."""
        hidden = {name: sys.modules.pop(name) for name in self.sibling_names()}
        sys.meta_path.insert(0, self)
        try:
            module = importlib.import_module(self.name)
        finally:
            sys.meta_path.remove(self)
            for name in self.sibling_names():
                del sys.modules[name]
            sys.modules.update(hidden)
        # digests of the project's modules that an agent may depend on
        names = [name for name in sys.modules if name.startswith("agents.")]
        files = [
            f"{name.replace('.', '/')}.py"
            for name in sorted([*names, "utils.networks"])
        ]
        checkout = {name: code_digest(read(ROOT / name)) for name in files}
        return Source(self.file, self.package, self.kept, checkout, module)

    def sibling_names(self) -> list[str]:
        """Return the names in sys.modules for which the agent's folder has a module."""
        tops = {name.partition(".")[0] for name in sys.modules} - {
            self.name,
            "__main__",
        }
        tops = {top for top in tops if self.find_file(top, self.file.parent)}
        return [name for name in sys.modules if name.partition(".")[0] in tops]

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        """Return how to import the agent file or a sibling; None for other names."""
        parent = sys.modules.get(name.rpartition(".")[0])
        is_other = parent and getattr(parent, "__loader__", None) is not self
        folder = Path(path[0]) if path else self.file.parent
        file = None if is_other else self.find_file(name, folder)
        if file is None:
            return None
        # The agent file counts as a package, so that `from .helper import x` works in it.
        is_package = file in (self.file, file.with_name("__init__.py"))
        path = [str(file.parent)] if is_package else None
        return spec_from_file_location(
            name, file, loader=self, submodule_search_locations=path
        )

    def find_file(self, name: str, folder: Path) -> Path | None:
        """Return the file of a module, __init__.py for a package; None if it is missing."""
        if name == self.name:
            return self.file
        if name in sys.stdlib_module_names or (ROOT / name / "__init__.py").is_file():
            return None
        place = folder / name.rpartition(".")[2]
        for file in (place / "__init__.py", Path(f"{place}.py")):
            if file.is_file() and file != self.file:
                return file
        if name == self.package:
            return self.file.with_name("__init__.py")
        # A folder without __init__.py is a package, unless an installed one has its name.
        if any(place.glob("*.py")) and _package_name(place):
            return place / "__init__.py"
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Read a module's file, keep its content, and execute it."""
        file = Path(str(module.__file__))
        content = self.kept[file.relative_to(self.file.parent).as_posix()] = read(file)
        if self.admit:
            self.admit({file: content})
        # classes are looked up by this name
        if not module.__name__.startswith(self.name):
            module.__name__ = f"{self.name}.{module.__name__}"
            sys.modules[module.__name__] = module
        exec(compile(content, file, "exec", dont_inherit=True), vars(module))
