"""A verified folder to the Hugging Face hub."""

import re
from pathlib import Path

from huggingface_hub import HfApi, get_token

from atr.errors import AtrError, UsageError

NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def check_push(repository: str) -> None:
    """Looks for what is needed before anything is written.

    Raises:
        UsageError: `repository` is no ORG/NAME, or no token is stored.
    """
    if not NAME.fullmatch(repository):
        raise UsageError(f"--push {repository!r}: allowed is ORG/NAME, a name on the Hugging Face hub")
    if not get_token():
        raise UsageError(
            f"--push {repository}: no token for the Hugging Face hub is there. Run `hf auth login`, or set HF_TOKEN"
        )


def push(folder: Path, repository: str) -> str:
    """Uploads a folder in one commit; a new repository is private. The token is huggingface_hub's own.

    Returns:
        The address of the repository.

    Raises:
        AtrError: the hub refuses it or cannot be reached; the folder stays.
    """
    api = HfApi()
    try:
        address = api.create_repo(repository, exist_ok=True, private=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Model exported by atr")
    except Exception as error:  # the client's HTTP library raises kinds of its own, another one in each version
        raise AtrError(
            f"{folder} is complete, but was not uploaded to {repository} ({reason(error)}). Look at the network, "
            f"the token and its rights (`hf auth whoami`), then: hf upload {repository} {folder}"
        ) from error
    return str(address)


def reason(error: Exception) -> str:
    """An error in a line, without headers of requests."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
