"""The exceptions Portable raises.

PortableError                 anything of ours; exit code 1
├── UserError                 the user can mend it; exit code 2, no traceback without --debug
│   ├── ConfigError           a setting is unknown, of the wrong kind, or contradicts another
│   ├── DataError             input data is missing, empty, malformed
│   ├── ArtefactError         an artefact is missing, incomplete, damaged or of another kind
│   ├── BackendUnavailable    the hardware, engine or package asked for is not usable here
│   └── StorageError          a disk is full, read-only or out of reach
├── StoppedError              a run was asked to end, and has saved its state; exit code 75
├── ShapeError                tensors do not fit together
├── CapabilityError           a device, collective or kernel cannot do what was asked of it
└── CollectiveError           a process of the group is late, gone, or out of step with the others

A message is a small letter to the user: what was asked, why it cannot be, what would work.
"""

import difflib
from collections.abc import Iterable


class PortableError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class UserError(PortableError):
    """Something the user can change."""

    exit_code = 2


class ConfigError(UserError):
    """A setting is unknown, of the wrong kind, or contradicts another."""


class DataError(UserError):
    """Input data is missing, empty or malformed."""


class ArtefactError(UserError):
    """An artefact is missing, incomplete, damaged or of another kind."""


class BackendUnavailable(UserError):  # noqa: N818 - the name is the specification's
    """The hardware, engine or package asked for is not usable on this machine."""


class StorageError(UserError):
    """A disk is full, read-only or out of reach."""


class StoppedError(PortableError):
    """A run was asked to end before its last step; the same command continues it."""

    exit_code = 75  # "temporary failure, try again later" in sysexits.h


class ShapeError(PortableError):
    """Tensors do not fit together."""


class CapabilityError(PortableError):
    """A device, collective or kernel cannot do what was asked of it."""


class CollectiveError(PortableError):
    """A process of the group is late, gone, or out of step with the others."""


def did_you_mean(word: str, known: Iterable[str], limit: int = 3) -> str:
    """Return " Did you mean 'a' or 'b'?" for the nearest known words, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=limit, cutoff=0.6)
    if not near:
        return ""
    return " Did you mean " + " or ".join(f"'{name}'" for name in near) + "?"
