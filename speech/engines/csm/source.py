"""Where an engine's files come from: a local folder, or a hub repository at a pinned revision.

Knows nothing of what is in the files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger

from speech.errors import StartupError

HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Source:
    """A folder's path, or a hub repository `owner/name` with a revision (a commit, a tag or a branch).

    setting: the setting that named it, so that a message can say which one to change. token: the hub's access token;
    None takes HF_TOKEN or the token of `hf auth login`.
    """

    place: str
    revision: str | None = None
    setting: str = "weights"
    token: str | None = None

    @property
    def is_folder(self) -> bool:
        """A place with a path's first character, or one that exists, is a folder; anything else is a repository."""
        return self.place.startswith((".", "/", "~")) or Path(self.place).is_dir()

    def __str__(self) -> str:
        return self.place if self.is_folder or not self.revision else f"{self.place}@{self.revision}"

    @property
    def label(self) -> str:
        """What callers may read: a repository with its revision, or the name of a folder without its path."""
        return Path(self.place).expanduser().resolve().name if self.is_folder else str(self)

    def find(self, name: str) -> Path | None:
        """The path of file `name` on this machine, downloaded if need be; None where the source has no such file."""
        if self.is_folder:
            folder = Path(self.place).expanduser()
            if not folder.is_dir():
                raise StartupError(f"{self.setting}: there is no folder {folder}")
            path = folder / name
            return path if path.is_file() else None
        return self._from_hub(name)

    def get(self, name: str) -> Path:
        """As `find`, but a file that is not there is a StartupError."""
        path = self.find(name)
        if path is None:
            raise StartupError(f"{self.setting}: {self} has no file {name}")
        return path

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON object read from file `name`, or None where there is no such file."""
        path = self.find(name)
        if path is None:
            return None
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise StartupError(f"{self.setting}: {name} of {self} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise StartupError(f"{self.setting}: {name} of {self} is not a JSON object")
        return value

    def _from_hub(self, name: str) -> Path | None:
        import huggingface_hub
        from huggingface_hub import errors

        cached = huggingface_hub.try_to_load_from_cache(self.place, name, revision=self.revision)
        if isinstance(cached, str):
            return Path(cached)
        logger.info("{}: fetching {} of {}", self.setting, name, self)
        try:
            # It draws its own progress bar, in bytes, on the operator's terminal.
            return Path(huggingface_hub.hf_hub_download(self.place, name, revision=self.revision, token=self.token))
        except errors.LocalEntryNotFoundError as error:
            raise StartupError(
                f"{self.setting}: {name} of {self} is not on this machine and the hub cannot be reached. Go online "
                f"once, or download it elsewhere (hf download {self.place}) and set {self.setting} to that folder."
            ) from error
        except errors.EntryNotFoundError:
            return None
        except errors.GatedRepoError as error:
            raise StartupError(self._gated()) from error
        except errors.RevisionNotFoundError as error:
            raise StartupError(
                f"{self.setting}: repository {self.place} has no revision {self.revision}; set another revision"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise StartupError(
                f"{self.setting}: there is no repository {self.place}, or it is private. Check its name; for a "
                f"private one set HF_TOKEN to a token that may read it."
            ) from error
        except errors.HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else None
            if status in (401, 403):
                raise StartupError(self._gated()) from error
            raise StartupError(f"{self.setting}: the hub answered {status} for {name} of {self}: {error}") from error
        except OSError as error:
            raise StartupError(f"{self.setting}: {name} of {self} could not be fetched: {error}") from error

    def _gated(self) -> str:
        return (
            f"{self.setting}: the hub does not give {self.place} to this machine. Accept its licence at "
            f"{HUB}/{self.place} and set HF_TOKEN to a token of that account, or set {self.setting} to a mirror "
            f"or to a folder that holds the files."
        )


def safetensors_files(source: Source, *, config: dict[str, Any]) -> list[Path]:
    """The paths of the weight files of `source`, in order.

    A repository may hold two layouts side by side; then its config.json names the index of the one it describes
    (`transformers_weights`), and that one is taken so that only one of the two is downloaded.
    """
    named = config.get("transformers_weights")
    for index_name in [named] if named else ["model.safetensors.index.json", "model.safetensors"]:
        if not str(index_name).endswith(".index.json"):
            path = source.find(str(index_name))
            if path is not None:
                return [path]
            continue
        index = source.json(str(index_name))
        if index is not None:
            parts = sorted(set(index.get("weight_map", {}).values()))
            if not parts:
                raise StartupError(f"{source.setting}: {index_name} of {source} names no files")
            return [source.get(part) for part in parts]
    if source.is_folder:
        paths = sorted(Path(source.place).expanduser().glob("*.safetensors"))
        paths = [path for path in paths if path.name != "expected.safetensors"]
        if len(paths) == 1:
            return paths
    raise StartupError(f"{source.setting}: {source} holds no model.safetensors")
