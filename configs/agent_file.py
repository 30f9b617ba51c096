"""The one loader of agent files.

An agent file is a Python file anywhere on disk that defines `AGENT` and `get_config`. While it
is executed, imports look in its folder, after the checkout and the standard library and before
installed packages. The modules found there, its siblings, are private: two agents with a
`helper.py` each get their own. Import siblings at the top of the file; a function that imports
one later does not find it.
"""

import importlib
import itertools
import sys
from collections.abc import Callable, Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

from configs.agent_source import ROOT, Source, read
from configs.trust import UntrustedError
from utils.code import code_digest
from utils.errors import UserError
from utils.files import expanded

_loaded: dict[Path, Source] = {}
_numbers = itertools.count()


Admit = Callable[[Mapping[Path, bytes]], None]
"""Raises UntrustedError for files, with their content, that may not be executed."""


def load_source(path: str | Path, package: str = "", admit: Admit | None = None) -> Source:
    """Execute an agent file, unless it and its siblings are as they were the last time.

    Args:
        path: of the file.
        package: what imports call its folder; by default, the folder's own name.
        admit: asked before each file is executed; None: all of them may be.

    Raises UserError if the file is missing, does not run, or defines no agent; and what `admit`
    raises.
    """
    file = expanded(path)
    if not file.is_file():
        raise UserError(f"--agent={path}: there is no such file as {file.absolute()}")
    file = file.parent.resolve() / file.name
    source = _loaded.get(file)
    if source and all(read(file.parent / name) == source.kept[name] for name in source.kept):
        return source
    try:
        source = _Importer(file, package or _package_name(file.parent), admit).load()
    except UntrustedError:
        raise
    except Exception as error:  # whatever a user's file raises is the user's to read
        text = f"the file does not run ({type(error).__name__}: {error})"
        raise UserError(f"--agent={path}: {text}") from error
    kind = getattr(source.module, "AGENT", None)
    if not (isinstance(kind, type) and hasattr(source.module, "get_config")):
        text = "the file defines no AGENT and get_config; see agents/trqam_fixed_lambda.py"
        raise UserError(f"--agent={path}: {text}")
    _loaded[file] = source
    return source


def _package_name(folder: Path) -> str:
    """A folder's name, by which imports may call it; '' if an installed package has it."""
    file = getattr(PathFinder.find_spec(folder.name), "origin", None)
    return folder.name if file in (None, str(folder / "__init__.py")) else ""


class _Importer(MetaPathFinder, Loader):
    """Imports an agent file and its siblings, and keeps the content of each.

    sys.modules keeps them as `name` and `name.helper`. The plain name `helper` is there only
    while the agent file is executed.
    """

    def __init__(self, file: Path, package: str, admit: Admit | None):
        self.file, self.package, self.admit = file, package, admit
        self.name = f"agent_file_{next(_numbers)}"
        self.kept: dict[str, bytes] = {}

    def load(self) -> Source:
        """Execute the agent file; modules of others with its siblings' names are put aside."""
        hidden = {name: sys.modules.pop(name) for name in self.sibling_names()}
        sys.meta_path.insert(0, self)
        try:
            module = importlib.import_module(self.name)
        finally:
            sys.meta_path.remove(self)
            for name in self.sibling_names():
                del sys.modules[name]
            sys.modules.update(hidden)
        # Of the checkout, what agents are made of and has been imported.
        names = [name for name in sys.modules if name.startswith("agents.")]
        files = [f"{name.replace('.', '/')}.py" for name in sorted([*names, "utils.networks"])]
        checkout = {name: code_digest(read(ROOT / name)) for name in files}
        return Source(self.file, self.package, self.kept, checkout, module)

    def sibling_names(self) -> list[str]:
        """The plain names in sys.modules that the agent's folder has modules for."""
        tops = {name.partition(".")[0] for name in sys.modules} - {self.name, "__main__"}
        tops = {top for top in tops if self.find_file(top, self.file.parent)}
        return [name for name in sys.modules if name.partition(".")[0] in tops]

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        """How to import the agent file or a sibling; None for other names."""
        parent = sys.modules.get(name.rpartition(".")[0])
        is_other = parent and getattr(parent, "__loader__", None) is not self
        folder = Path(path[0]) if path else self.file.parent
        file = None if is_other else self.find_file(name, folder)
        if file is None:
            return None
        # The agent file is a package too, so that `from .helper import x` works in it.
        is_package = file in (self.file, file.with_name("__init__.py"))
        path = [str(file.parent)] if is_package else None
        return spec_from_file_location(name, file, loader=self, submodule_search_locations=path)

    def find_file(self, name: str, folder: Path) -> Path | None:
        """The file of a module, of a package its __init__.py; None if there is none."""
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
        # A package may lack __init__.py; an installed one of that name then comes first.
        if any(place.glob("*.py")) and _package_name(place):
            return place / "__init__.py"
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Read a module's file once, keep the content, and execute it."""
        file = Path(str(module.__file__))
        content = self.kept[file.relative_to(self.file.parent).as_posix()] = read(file)
        if self.admit:
            self.admit({file: content})
        if not module.__name__.startswith(self.name):  # by which its classes are found later
            module.__name__ = f"{self.name}.{module.__name__}"
            sys.modules[module.__name__] = module
        exec(compile(content, file, "exec", dont_inherit=True), vars(module))
