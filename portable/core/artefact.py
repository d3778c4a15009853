"""What a stage leaves behind: a folder, sealed with a list of its files and their hashes.

A folder is an artefact only once ``artefact.json`` stands in it, and that file is written last; so a stage
that was killed leaves a folder that is visibly unfinished. The digest covers names and bytes of the payload,
never times or logs: equal content has an equal digest, on any machine, at any date.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portable.core.errors import ArtefactError
from portable.core.storage import file_digest, read_json, write_json

SEAL = "artefact.json"


@dataclass(frozen=True, slots=True)
class Artefact:
    """A sealed folder.

    ``kind`` is corpus, conversations, model or scores; ``digest`` is SHA-256 of the payload.
    """

    kind: str
    path: Path
    digest: str
    summary: dict[str, Any]  # Any: the few JSON numbers a stage wants shown, e.g. documents kept


def seal(
    path: Path,
    kind: str,
    payload: Sequence[str],
    summary: Mapping[str, Any] | None = None,  # Any: JSON values, as in Artefact
) -> Artefact:
    """Hash the ``payload`` (files or folders inside ``path``) and write the seal.

    Raises: ArtefactError if a named payload does not exist.
    """
    files = {str(file.relative_to(path)): file_digest(file) for file in _payload_files(path, payload)}
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    artefact = Artefact(kind, path, digest, dict(summary or {}))
    write_json(path / SEAL, {"kind": kind, "digest": digest, "files": files, "summary": artefact.summary})
    return artefact


def open_artefact(path: Path, kind: str | None = None, *, verify: bool = False) -> Artefact:
    """Read the seal of ``path``; with ``verify`` also hash every file again.

    Raises: ArtefactError if it is missing, unfinished, damaged or not of ``kind``.
    """
    if not (path / SEAL).is_file():
        state = "is an unfinished folder (it has no artefact.json)" if path.is_dir() else "does not exist"
        raise ArtefactError(f"artefact {path} {state}; run the stage that makes it, or name another folder")
    content = read_json(path / SEAL)
    if kind is not None and content["kind"] != kind:
        raise ArtefactError(f"artefact {path} is of kind '{content['kind']}', but '{kind}' is needed here")
    for name, digest in content["files"].items():
        file = path / name
        if not file.is_file():
            raise ArtefactError(
                f"artefact {path} has lost its file '{name}'; delete the folder and run the stage again"
            )
        if verify and file_digest(file) != digest:
            raise ArtefactError(
                f"artefact {path} is damaged: the hash of '{name}' differs from its seal; "
                "delete the folder and run the stage again"
            )
    return Artefact(content["kind"], path, content["digest"], content["summary"])


def _payload_files(path: Path, payload: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for name in payload:
        item = path / name
        if item.is_dir():
            files.extend(file for file in item.rglob("*") if file.is_file())
        elif item.is_file():
            files.append(item)
        else:
            raise ArtefactError(f"cannot seal {path}: its payload '{name}' does not exist")
    return sorted(files)
