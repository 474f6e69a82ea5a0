"""What would make an export wrong or lose a person's files, said before any work."""

from __future__ import annotations

from pathlib import Path

from workbench.checkpoint.native import int4_layers
from workbench.coverage.coverage import Coverage
from workbench.errors import CheckpointError, ConfigError, ModelError
from workbench.int4_source import Int4Source
from workbench.kinds import QUANTIZABLE_KINDS
from workbench.sources import FolderSource, ModelSource, Source
from workbench.targets.run import RECORD_FILE

CHECKPOINT_MARKS = ("config.json", RECORD_FILE)  # a folder with one of these holds a model or an export


def export_target(source: Source, directory: Path | str, *, overwrite: bool) -> Path:
    """Return the folder to write, "~" expanded; raises as `writable_place` does."""
    read = source.path if isinstance(source, FolderSource | Int4Source) else None
    return writable_place(directory, read, overwrite=overwrite)


def writable_place(directory: Path | str, read: Path | None, *, overwrite: bool) -> Path:
    """Return the folder to write, "~" expanded.

    Args:
        directory: The folder as the person wrote it.
        read: Folder or file of the model that is read, or None.
        overwrite: Whether a folder that exists may be replaced.

    Raises:
        CheckpointError: when the name is blank, the folder is or holds the model itself or the working folder, or
            replacing it would delete files that are no checkpoint.
    """
    if not str(directory).strip():
        raise CheckpointError("The export directory is blank.", mend="name a new folder, for instance exports/int4")
    target = Path(directory).expanduser()
    whole = target.resolve()
    if Path.cwd().is_relative_to(whole):
        raise CheckpointError(f"{str(target)!r} holds the working folder.", mend="name a new folder inside it")
    if read is not None and read.resolve().is_relative_to(whole):
        raise CheckpointError(f"{str(target)!r} holds the model that is read.", mend="name another folder")
    check_replaceable(target, overwrite=overwrite)
    return target


def check_replaceable(directory: Path | str, *, overwrite: bool) -> None:
    """Refuse to replace a folder that holds files but no checkpoint.

    Raises:
        CheckpointError: when it does.
    """
    target = Path(directory).expanduser()
    whole = target.resolve()
    if (
        overwrite
        and whole.is_dir()
        and any(whole.iterdir())
        and not any((whole / mark).is_file() for mark in CHECKPOINT_MARKS)
    ):
        raise CheckpointError(
            f"{str(target)!r} holds files but no config.json: replacing it would delete what is no checkpoint.",
            mend="name another folder, or remove this one yourself",
        )


def check_exportable(source: Source, coverage: Coverage) -> None:
    """Refuse an export of which no layer becomes int4, or that a live model cannot give.

    Raises:
        ModelError: when the live model is on the meta device, or has int4 layers already.
        ConfigError: when the recipe leaves every layer dense.
    """
    if isinstance(source, ModelSource):
        _check_live(source)
    if coverage.int4_rows:
        return
    linear = [row for row in coverage.rows if row.kind in QUANTIZABLE_KINDS or "leaves dense" in row.reason]
    if not linear:
        raise ModelError(f"{coverage.model!r} has no linear layer.", mend="open a model with nn.Linear layers")
    reasons = "; ".join(dict.fromkeys(row.reason for row in linear))
    raise ConfigError(f"No layer becomes int4 under this recipe: {reasons}.", mend="make at least one layer int4")


def _check_live(source: ModelSource) -> None:
    done = list(int4_layers(source.model))
    if done:
        raise ModelError(
            f"{len(done)} layers of {source.name!r} are int4 already, first {done[0]!r}.",
            mend="open it without a recipe, wb.Workbench(model), to convert it; or open the original to choose anew",
        )
    empty = [name for name, parameter in source.model.named_parameters() if parameter.is_meta]
    if empty:
        raise ModelError(
            f"{source.name!r} is on the meta device: {len(empty)} weights have no values, first {empty[0]!r}.",
            mend="load the model with its weights: wb.load_model(path)",
        )
