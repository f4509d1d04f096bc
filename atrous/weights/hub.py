"""Downloads from and uploads to the Hugging Face hub, with a check of the full SHA-256.

The hub states the SHA-256 of every large file. Its own client compares lengths alone, so the hash
is compared here. With ``ATROUS_OFFLINE=1`` the client's cache is the only source.
"""

import os
import re
import tempfile
from pathlib import Path

from atrous.errors import AtrousError, ResourceError
from atrous.images.web import offline
from atrous.model import DeepLabV3Plus
from atrous.weights.store import save
from atrous.weights.transfer import file_digest

FILE = "model.safetensors"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def parse(text: str) -> tuple[str, str | None]:
    """Splits ``hf:org/name@revision`` into repository and branch, tag or commit.

    >>> parse("hf:org/name@v1")
    ('org/name', 'v1')

    Raises:
        AtrousError: Another form.
    """
    repository, _, revision = text.removeprefix("hf:").partition("@")
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        raise AtrousError(
            "E-HUB-NAME",
            f"{text!r} is not the name of a repository",
            fix="write hf:org/name or hf:org/name@revision",
        )
    return repository, revision or None


def download(source: str) -> Path:
    """Returns the model of ``hf:org/name@revision``: from the client's cache, or downloaded.

    Raises:
        AtrousError: ``E-HUB-FAILED`` if it cannot be fetched, ``E-HUB-HASH`` if its hash is not
            the one that the hub states.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, revision = parse(source)
    where = f"hf:{repository}" + (f"@{revision}" if revision else "")
    try:
        path = Path(
            hf_hub_download(
                repository,
                FILE,
                revision=revision,
                endpoint=os.environ.get("HF_ENDPOINT"),
                local_files_only=offline(),
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise _unreachable(where, error) from None
    _check_hash(path, where)
    return path


def _check_hash(path: Path, where: str) -> None:
    """Compares a file with its SHA-256, which is the name of its blob in the client's cache."""
    blob = path.resolve()
    if not re.fullmatch("[0-9a-f]{64}", blob.name):
        raise ResourceError(
            "E-HUB-HASH",
            f"the hub states no SHA-256 of {path.name}: it is not stored as a large file",
            where=where,
        )
    found = file_digest(blob)
    if found != blob.name:
        blob.unlink()
        raise ResourceError(
            "E-HUB-HASH",
            f"{path.name} has sha256 {found}, the hub says {blob.name}; the copy was deleted",
            where=where,
            fix="run this again; if it happens twice, tell the repository's owner",
        )


def push_to_hub(model: DeepLabV3Plus, repository: str, *, private: bool = False) -> str:
    """Uploads a model as ``model.safetensors`` to a repository, which is created if it is missing.

    Needs a token: ``hf auth login`` or ``HF_TOKEN``.

    Args:
        model: Any model of this package.
        repository: ``org/name``.
        private: Whether a new repository is private.

    Returns:
        The commit. ``hf:org/name@commit`` loads this upload.

    Raises:
        AtrousError: Offline, not allowed, or the network fails.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    name, _ = parse(repository)
    if offline():
        raise _unreachable(f"hf:{name}", "ATROUS_OFFLINE forbids the network")
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    with tempfile.TemporaryDirectory(prefix="atrous-") as folder:
        path = Path(folder) / FILE
        save(model, path)
        try:
            api.create_repo(name, private=private, exist_ok=True)
            commit = api.upload_file(
                path_or_fileobj=path, path_in_repo=FILE, repo_id=name, commit_message="Add model"
            )
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise _unreachable(f"hf:{name}", error) from None
    return commit.oid


def _unreachable(where: str, error: object) -> AtrousError:
    return ResourceError(
        "E-HUB-FAILED",
        f"{FILE} cannot be reached: {' '.join(str(error).split())[:300]}",
        where=where,
        fix="check name, revision, network and token (hf auth login)"
        if not offline()
        else "unset ATROUS_OFFLINE, or fetch it once while online",
    )
