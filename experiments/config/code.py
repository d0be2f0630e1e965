"""Callables of the user's own, as configs name them: ``my_models.py:MyNet`` or ``package.module:build``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.config.errors import named
from experiments.config.paths import configs_dir


def _parts(name: str) -> tuple[str, str]:
    place, separator, attribute = name.rpartition(":")
    if not separator or not place or not attribute.isidentifier():
        raise ValueError(f"must be file.py:callable or package.module:callable, got {name!r}")
    return place, attribute


def _file(place: str) -> Path | None:
    """The file that a place names: below the folder of configs or, if none is there, the working folder."""
    if not place.endswith(".py"):
        return None
    path = next((path for path in (configs_dir() / place, Path(place).absolute()) if path.is_file()), None)
    if path is None:
        raise ValueError(f"no file {place} in {configs_dir()} or {Path.cwd()}")
    return path


def identity_of(name: str) -> str:
    """What stands for a callable's code in a run's identity: the SHA-256 of its file, or its package's name and version.

    Raises
    ------
    ValueError
        If there is no such file or installed package.
    """
    place, _ = _parts(name)
    if path := _file(place):
        return f"SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    package = place.partition(".")[0]
    distributions = importlib.metadata.packages_distributions().get(package)
    if not distributions:
        raise ValueError(f"no installed package holds {package!r}; install it, or name a file as file.py:callable")
    return f"{distributions[0]} {importlib.metadata.version(distributions[0])}"


def called(name: str, code: str | None, offered: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    """Call a user's callable with what it takes of `offered`, and with all `arguments`.

    Raises
    ------
    ValueError
        If it is no longer the code that a run was planned with, cannot be imported or called, or raises.
    """
    if (found := identity_of(name)) != code:
        raise ValueError(f"{name} is {found}, the run's is {code}; restore it, or give the whole command again")
    try:
        function: Callable[..., Any] = getattr(_module(_parts(name)[0]), _parts(name)[1])
        taken = inspect.signature(function).parameters
        return function(**{key: value for key, value in offered.items() if key in taken}, **arguments)
    except Exception as error:  # the user's code raises whatever it likes
        raise ValueError(f"{name} cannot be called ({named(error)})") from error


def _module(place: str) -> ModuleType:
    """The module of a place; that of a file is made anew when the file has changed."""
    path = _file(place)
    if path is None:
        return importlib.import_module(place)
    name = f"{path.stem}_{hashlib.sha256(bytes(path) + path.read_bytes()).hexdigest()[:16]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is not a module")
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
