"""A directory of modules of a user's, which a test writes, edits and imports afresh."""

from __future__ import annotations

import importlib
import shutil
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from daskcache.fingerprint import Fingerprinter


class Workspace:
    """Modules on the import path.

    Parameters
    ----------
    root : Path
        An empty directory, on ``sys.path`` already.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, files: Mapping[str, str]) -> None:
        """Write modules by path below the root, in place of all that were there."""
        for old in self.root.rglob("*.py"):
            old.unlink()
        for name, source in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(source))
        self.forget()

    def forget(self) -> None:
        """Make the next import read the files again."""
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(str(self.root)):
                del sys.modules[name]
        importlib.invalidate_caches()
        # Compiled files are told from others by size and second: an edit may change neither.
        for cache in list(self.root.rglob("__pycache__")):
            shutil.rmtree(cache)

    def load(self, name: str) -> ModuleType:
        """Import a module."""
        return importlib.import_module(name)

    def find(self, target: str) -> Any:
        """Import what ``module:name`` says."""
        module, _, name = target.partition(":")
        found: Any = self.load(module)
        for step in name.split("."):
            found = getattr(found, step)
        return found

    def digest(self, files: Mapping[str, str], target: str, **settings: Any) -> bytes:
        """Write modules and fingerprint what one of them defines."""
        self.write(files)
        return Fingerprinter(**settings).fingerprint(self.find(target))
