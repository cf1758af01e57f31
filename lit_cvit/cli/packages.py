"""Which package a class needs that is not installed."""

from __future__ import annotations

import sys

from lightning_utilities.core.imports import RequirementCache


def missing_package(cls: type, error: ImportError) -> ValueError:
    """An error that names the package to install.

    Args:
        cls: The class that could not be built.
        error: What its constructor raised.
    """
    modules = [vars(sys.modules[parent.__module__]) for parent in cls.__mro__]
    # Lightning's classes state what they need beside them.
    stated = [each for names in modules for each in names.values() if isinstance(each, RequirementCache)]
    lacking = [each.requirement for each in stated if not each and each.requirement]
    package = lacking[0] if lacking else error.name
    if not package:
        return ValueError(f"{cls.__name__}: {error}")
    return ValueError(f"{cls.__name__} needs a package that is not installed: pip install '{package}'")
