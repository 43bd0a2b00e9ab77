"""What a command sets before it imports torch: how threads wait, and a compiler that is imported when it is used."""

import importlib
import os
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

SPINS = "1000"
"""Turns that a waiting thread of GNU's OpenMP spins before it sleeps: a few microseconds.

With none, a small step takes 58 ms instead of 33 on a quiet machine of 2 cores, to wake its threads; with 100,000, 400
ms instead of 79 beside a busy process (docs/performance.md).
"""
COMPILER = "torch._dynamo"


def before_torch() -> None:
    """Let threads wait briefly, and torch's compiler wait until something is compiled. Call it once, first of all."""
    wait_briefly()
    if COMPILER not in sys.modules:
        sys.modules[COMPILER] = LateCompiler()
        sys.meta_path.insert(0, CompilerParts())


def wait_briefly() -> None:
    """Let waiting CPU threads spin for a moment, then sleep: OpenMP reads it once.

    The threads of scipy's BLAS spin for longer, so that it gets none: with them, a fit of 8,000 pixels takes 7 times
    the CPU time.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


class LateCompiler(ModuleType):
    """Stands for `torch._dynamo`, whose import takes as long as that of torch, until something of it is needed.

    Fabric and torch's optimizers import it to ask whether they are being compiled. They are not: while this stands
    there, nothing is. Whatever else is asked of it, a module in it too, is asked of the compiler itself, which is
    imported then and takes this one's place for good.
    """

    def __init__(self) -> None:
        super().__init__(COMPILER)
        self.__spec__ = ModuleSpec(COMPILER, None, is_package=True)
        self.__path__: list[str] = []  # so that a module in it is looked for, and `CompilerParts` asked

    class OptimizedModule:
        """A module that `torch.compile` has wrapped, as Fabric looks for it: there is none."""

    @staticmethod
    def disable(function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
        """The function, without being compiled: as it is."""
        return function

    @staticmethod
    def graph_break() -> None:
        """Outside of what is compiled: nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # whoever looks through all modules asks for these
            raise AttributeError(name)
        return getattr(import_compiler(), name)


class CompilerParts(MetaPathFinder, Loader):
    """Finds the modules in `torch._dynamo` while its place is taken: it imports the compiler, and them with it."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        waits = name.startswith(f"{COMPILER}.") and isinstance(sys.modules.get(COMPILER), LateCompiler)
        return ModuleSpec(name, self) if waits else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        import_compiler()
        return importlib.import_module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: it is whole already."""


def import_compiler() -> ModuleType:
    if isinstance(sys.modules.get(COMPILER), LateCompiler):
        del sys.modules[COMPILER]
    return importlib.import_module(COMPILER)
