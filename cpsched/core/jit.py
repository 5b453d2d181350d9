"""Hot kernels: written once in numba's subset, compiled when the extra ``fast`` is installed.

Compiling takes seconds and would eat a deadline, so it never happens in the calling process: when
the cache on disk is cold, a background process fills it and the kernels run interpreted until it
is warm. Results never depend on which of the two ran, except through the work done in the time.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import logging
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cpsched.core import idle

logger = logging.getLogger("cpsched")

F = TypeVar("F", bound=Callable[..., Any])

_kernels: list[Kernel] = []


class Kernel:
    """A function that runs compiled when that is possible without waiting.

    Attributes
    ----------
    interpreted
        The Python source function.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.interpreted = function
        self._compiled: Callable[..., Any] | None = None
        _kernels.append(self)

    def __call__(self, *args: Any) -> Any:
        return (self._compiled or self.interpreted)(*args)


def kernel(function: F) -> F:
    """Mark a function as a kernel; it lives in a module named ``kernels*.py``.

    Such a module also offers ``warm_up()``, which calls each of its kernels once on tiny arrays of
    the types used in production, so that the background compiler fills the cache.
    """
    return Kernel(function)  # type: ignore[return-value]


@functools.cache
def available() -> bool:
    """Whether numba is installed (and not switched off by CPSCHED_NO_NUMBA=1)."""
    if os.environ.get("CPSCHED_NO_NUMBA") == "1":
        return False
    return importlib.util.find_spec("numba") is not None


#: Loading numba and the compiled kernels takes up to this many seconds, once per process.
LOAD_SECONDS = 1.5

#: A compiler that has run for so many seconds is taken for dead.
COMPILING = 1800.0

_lock = threading.Lock()
_active: set[str] = set()
_asked: dict[str, float] = {}
_cached: set[str] = set()
_postponed: set[str] = set()


def ready(seconds: float = math.inf, family: str | None = None) -> bool:
    """Whether the kernels in use run compiled from now on; never waits for a compiler.

    Call it before a hot loop. With a warm cache the compiled code is loaded when ``seconds``, the
    time the caller has left, allows it, and otherwise when no call runs; with a cold cache the
    background compiler is started. Kernels are in use when their module has been imported; with
    ``family`` only that family's count, so that cold kernels of others do not matter.
    """
    wanted = _groups_in_use() if family is None else {family}
    waiting = wanted - _active
    if not waiting:
        return bool(_active)
    if not available():
        return False
    for group in sorted(waiting):
        if group not in _cached:
            now = time.monotonic()
            if now - _asked.get(group, -math.inf) < 1.0:
                continue
            _asked[group] = now
            if not _stamp(group).exists():
                _spawn_compiler(group)
                continue
            _cached.add(group)
        if seconds >= LOAD_SECONDS:
            _activate(group)
        elif group not in _postponed:
            _postponed.add(group)
            idle.when_idle(seconds + 0.2, functools.partial(load, group))
    return not wanted - _active


#: How much slower interpreted kernels are, for the counted work of deterministic runs.
INTERPRETED = 400.0


def slowdown(family: str | None = None) -> float:
    """Factor on the counted work of a kernel: 1 when compiled, `INTERPRETED` otherwise.

    With ``family`` only that family counts, so that cold kernels of others do not matter.

    With it a deterministic run ends by its counted work, not by the wall, in both cases. Its
    result is the same on every run with the kernels in the same state.
    """
    wanted = _groups_in_use() if family is None else {family}
    return INTERPRETED if wanted - _active else 1.0


def _group_of(module: str) -> str | None:
    """The family whose kernels a module holds, or None: ``cpsched.families.<kind>.kernels*``."""
    parts = module.split(".")
    if len(parts) == 4 and parts[:2] == ["cpsched", "families"] and parts[3].startswith("kernels"):
        return parts[2]
    return None


def _groups_in_use() -> frozenset[str]:
    return _groups_of(len(_kernels))


@functools.lru_cache(maxsize=1)
def _groups_of(count: int) -> frozenset[str]:
    """The families of the first ``count`` kernels: all, as long as no module is imported anew."""
    groups = {_group_of(kernel.interpreted.__module__) for kernel in _kernels[:count]}
    return frozenset(group for group in groups if group is not None)


def _files(group: str) -> list[Path]:
    return sorted((Path(__file__).resolve().parents[1] / "families" / group).glob("kernels*.py"))


def _modules(group: str) -> list[Any]:
    names = [f"cpsched.families.{group}.{file.stem}" for file in _files(group)]
    return [importlib.import_module(name) for name in names]


def _activate(group: str) -> None:
    """Replace a family's kernels by compiled ones, wherever cpsched refers to them."""
    import numba

    with _lock:
        if group in _active:
            return
        _modules(group)
        # numba notices changes of a kernel's own file only, not of kernels it calls elsewhere: a
        # cache folder per content of all of them cannot be stale.
        config: Any = numba.config
        before = config.CACHE_DIR
        config.CACHE_DIR = str(_stamp(group).parent / _stamp(group).stem)
        try:
            for one in _kernels:
                if _group_of(one.interpreted.__module__) == group:
                    one._compiled = numba.njit(cache=True, nogil=True)(one.interpreted)
        finally:
            config.CACHE_DIR = before
        # Kernels find each other through their module's globals: those must be dispatchers.
        for name, module in list(sys.modules.items()):
            if name.startswith("cpsched."):
                for attribute, value in list(vars(module).items()):
                    if isinstance(value, Kernel) and value._compiled is not None:
                        setattr(module, attribute, value._compiled)
        _active.add(group)


def load(group: str) -> bool:
    """Load a family's compiled kernels now; False when they are not in the cache yet.

    A host that will have little time per call does this once, when it starts.
    """
    if not available():
        return False
    if not _stamp(group).exists():
        _modules(group)
        return ready()
    _activate(group)
    # numba reads a kernel's code from its cache at the first call, which takes a while as well.
    for module in _modules(group):
        module.warm_up()
    return True


def compile_all(groups: Sequence[str] = ()) -> float:
    """Compile kernels into the cache, in this process; returns the seconds it took.

    Images call this once (``python -m cpsched.core.jit [FAMILY ...]``; all families without
    names).
    """
    started = time.monotonic()
    if not available():
        return 0.0
    root = Path(__file__).resolve().parents[1] / "families"
    for group in groups or sorted({f.parent.name for f in root.glob("*/kernels*.py")}):
        stamp = _stamp(group)
        if stamp.exists():
            continue
        _activate(group)
        for module in _modules(group):
            module.warm_up()
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text("compiled\n")
    return time.monotonic() - started


@functools.cache
def _stamp(group: str) -> Path:
    """A file that exists when the cache is warm for these sources, this numba, this machine."""
    digest = hashlib.sha256()
    for source in _files(group):
        digest.update(source.read_bytes())
        digest.update(str(source.stat().st_mtime_ns).encode())
    digest.update(importlib.metadata.version("numba").encode())
    digest.update(repr((sys.version, str(Path(__file__).resolve()))).encode())
    home = Path.home()
    user = os.environ.get("XDG_CACHE_HOME")
    base = Path(user) if user else home / ".cache"
    if not user and not os.access(home, os.W_OK):
        base = Path(tempfile.gettempdir())
    return base / "cpsched" / f"{group}-{digest.hexdigest()[:20]}.ready"


def _alive(lock: Path) -> bool:
    """Whether the compiler that a lock names may still run."""
    try:
        os.kill(int(lock.read_text() or 0), 0)
    except (ValueError, ProcessLookupError):
        return False
    except OSError:
        return True
    return True


def _spawn_compiler(group: str) -> None:
    lock = _stamp(group).with_suffix(".compiling")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        if lock.exists() and time.time() - lock.stat().st_mtime < COMPILING and _alive(lock):
            return
        compiler = subprocess.Popen(
            [sys.executable, "-m", "cpsched.core.jit", group],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        lock.write_text(str(compiler.pid))
    except OSError as error:
        logger.info("kernels stay interpreted: the compiler did not start (%s)", error)


if __name__ == "__main__":
    # Run as a module this file is `__main__`: use the imported copy that the kernels registered in.
    os.nice(5)
    importlib.import_module("cpsched.core.jit").compile_all(sys.argv[1:])
