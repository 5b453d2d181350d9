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
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

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


_state = {"active": False, "spawned": False, "later": False, "checked": -math.inf}
_lock = threading.Lock()

#: Loading numba and the compiled kernels takes up to this many seconds, once per process.
LOAD_SECONDS = 1.5


def ready(seconds: float = math.inf) -> bool:
    """Whether kernels run compiled from now on; never waits for a compiler.

    Call it before a hot loop. With a warm cache the compiled code is loaded when ``seconds``, the
    time the caller has left, allows it, and otherwise after that time; with a cold cache the
    background compiler is started.
    """
    if _state["active"]:
        return True
    if not available():
        return False
    now = time.monotonic()
    if now - _state["checked"] < 1.0:
        return False
    _state["checked"] = now
    if _stamp().exists():
        if seconds >= LOAD_SECONDS:
            _activate()
            return True
        if not _state["later"]:
            _state["later"] = True
            timer = threading.Timer(seconds + 0.2, _activate)
            timer.daemon = True
            timer.start()
    elif not _state["spawned"]:
        _state["spawned"] = True
        _spawn_compiler()
    return False


def _activate() -> None:
    import numba

    with _lock:
        if _state["active"]:
            return
        _import_kernels()
        for one in _kernels:
            one._compiled = numba.njit(cache=True, nogil=True)(one.interpreted)
        # Kernels find each other through their module's globals: those must be dispatchers.
        for name, module in list(sys.modules.items()):
            if name.startswith("cpsched."):
                for attribute, value in list(vars(module).items()):
                    if isinstance(value, Kernel):
                        setattr(module, attribute, value._compiled)
        _state["active"] = True


def compile_all() -> float:
    """Compile every kernel into the cache, in this process; returns the seconds it took.

    The README's set-up command and images call this once (``python -m cpsched.core.jit``).
    """
    started = time.monotonic()
    if not available():
        return 0.0
    modules = _import_kernels()
    _activate()
    for module in modules:
        module.warm_up()
    stamp = _stamp()
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text("compiled\n")
    return time.monotonic() - started


def _kernel_files() -> list[Path]:
    """The modules that hold kernels: ``kernels*.py`` in the core and in each family."""
    root = Path(__file__).resolve().parents[1]
    return sorted([*root.glob("core/kernels*.py"), *root.glob("families/*/kernels*.py")])


def _import_kernels() -> list[Any]:
    root = Path(__file__).resolve().parents[2]
    names = [".".join(f.relative_to(root).with_suffix("").parts) for f in _kernel_files()]
    return [importlib.import_module(name) for name in names]


@functools.cache
def _stamp() -> Path:
    """A file that exists when the cache is warm for these sources, this numba, this machine."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parents[1]
    for source in _kernel_files():
        digest.update(source.read_bytes())
        digest.update(str(source.stat().st_mtime_ns).encode())
    digest.update(importlib.metadata.version("numba").encode())
    digest.update(repr((sys.version, root)).encode())
    user = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    base = (
        Path(user) if os.access(os.path.expanduser("~"), os.W_OK) else Path(tempfile.gettempdir())
    )
    return base / "cpsched" / f"kernels-{digest.hexdigest()[:20]}"


def _spawn_compiler() -> None:
    lock = _stamp().with_suffix(".compiling")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        if lock.exists() and time.time() - lock.stat().st_mtime < 120.0:
            return
        lock.write_text(str(os.getpid()))
        subprocess.Popen(
            [sys.executable, "-m", "cpsched.core.jit"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        logger.info("kernels stay interpreted: the compiler did not start (%s)", error)


if __name__ == "__main__":
    # Run as a module this file is `__main__`: use the imported copy that the kernels registered in.
    os.nice(5)
    importlib.import_module("cpsched.core.jit").compile_all()
