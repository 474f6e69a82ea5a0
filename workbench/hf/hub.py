"""Hub names: the snapshot of a model, downloaded when it is not here yet."""

from __future__ import annotations

from pathlib import Path

from workbench.errors import ModelError

# What loading reads; of a repository that holds its weights twice, the form that transformers loads.
WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
UNWANTED = ("*/*.safetensors", "consolidated*.safetensors")


def snapshot(name: str) -> Path:
    """Return the folder of a hub name such as "org/name"; HF_HUB_OFFLINE and HF_HOME are respected.

    Raises:
        ModelError: when the hub does not give it, with what to do about that.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)))
    except Exception as error:  # of the hub, of the network, of the disk: the person needs the name and the mend
        raise ModelError(
            f"The model {name!r} is no folder here, and the hub did not give it ({type(error).__name__}).",
            allowed="a model folder, a hub name such as 'org/name', or 'demo'",
            mend=_mend(error),
        ) from None


def _mend(error: Exception) -> str:
    from huggingface_hub import errors, is_offline_mode

    if isinstance(error, errors.GatedRepoError):
        return "accept the model's terms on its page of the hub, then log in: hf auth login (or set HF_TOKEN)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "check the name; a private model needs a login: hf auth login (or set HF_TOKEN)"
    if is_offline_mode():
        return "unset HF_HUB_OFFLINE to download it, or name the folder of a model that is here"
    return "check the name and the network, or download the model and name its folder"
