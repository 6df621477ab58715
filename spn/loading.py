"""Import hook: every module of this package keeps the source that it was compiled from.

A result's recipe holds a digest of the code that made it. It must be the code that ran, so the digest is computed from
the loaded source, not from the files, which may have changed since. For the same reason cached bytecode is matched by
the content of its source: Python matches by size and time, which edits can leave unchanged (`touch -r`, `rsync -t`).
"""

import hashlib
import importlib.util
import marshal
import os
import sys
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

CHECKED_BY_HASH = (0b11).to_bytes(4, "little")
"""The flags of a .pyc that names the hash of its source (PEP 552)."""


class KeepingLoader(SourceFileLoader):
    """Loads a module and keeps its source."""

    source: bytes

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the current source, from cached bytecode if that matches."""
        self.source = self.get_data(self.path)
        # The key includes the path, because code objects contain it: a copied folder needs its own bytecode.
        key = hashlib.sha256(self.path.encode() + self.source).digest()[:8]
        head = importlib.util.MAGIC_NUMBER + CHECKED_BY_HASH + key
        cache = Path(importlib.util.cache_from_source(self.path))
        with suppress(OSError, EOFError, ValueError, TypeError):  # bytecode is missing or damaged: compile again
            content = cache.read_bytes()
            if content.startswith(head):
                return marshal.loads(content[len(head) :])
        code: CodeType = self.source_to_code(self.source, self.path)
        if not sys.dont_write_bytecode:
            _write(cache, head + marshal.dumps(code))
        return code


class KeepingFinder(PathFinder):
    """Finds the modules of this package as Python does, and loads them by `KeepingLoader`."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find a module of this package; leave all others to Python's own finders."""
        if not fullname.startswith(f"{__package__}."):
            return None
        spec = super().find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = KeepingLoader(fullname, spec.loader.path)
        return spec


def keep_sources() -> None:
    """Install the hook, so that modules of this package imported later keep their source."""
    if KeepingFinder not in sys.meta_path:
        # Directly before Python's own finder, so that earlier hooks, such as a type checker's, still come first.
        sys.meta_path.insert(sys.meta_path.index(PathFinder), KeepingFinder)


def loaded_source(name: str) -> bytes | None:
    """Return the source that a module was loaded from; None if it was not loaded, or was by another import hook."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return getattr(spec.loader, "source", None) if spec is not None else None


def _write(path: Path, content: bytes) -> None:
    """Write bytecode by renaming; do nothing in a read-only folder, where the module is compiled every time."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
