"""Optional engines are imported when they are chosen, and their absence is explained."""

import importlib
from types import ModuleType

from portable.core.errors import BackendUnavailable


def import_engine(package: str, extra: str) -> ModuleType:
    """Import ``package``.

    Raises: BackendUnavailable with the command that installs it, or with what is wrong with it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name == package:
            raise BackendUnavailable(
                f"engine={extra} needs the package '{package}', which is not installed; "
                f"run: pip install 'portable-llm[{extra}]'"
            ) from error
        raise BackendUnavailable(
            f"engine={extra}: the package '{package}' is installed, but it lacks '{error.name}'; "
            f"repair it with: pip install --force-reinstall 'portable-llm[{extra}]'"
        ) from error
    except (ImportError, OSError) as error:
        raise BackendUnavailable(
            f"engine={extra}: the package '{package}' is installed but cannot be imported ({error}); "
            "its build and this machine's drivers may not fit"
        ) from error
