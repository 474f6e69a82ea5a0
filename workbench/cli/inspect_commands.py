"""What the commands that look at a checkpoint do: `workbench inspect|verify`."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cli.progress import ProgressLine, stopping
from workbench.cli.settings import recipe_of, refuse_settings
from workbench.errors import CheckpointError
from workbench.shell import quoted

if TYPE_CHECKING:
    from workbench.checkpoint.integrity import Checked


def inspect(arguments: argparse.Namespace) -> None:
    """Say what a checkpoint, an export or a model folder holds."""
    from workbench.checkpoint.integrity import read_quantization
    from workbench.checkpoint.native import QUANT_METHOD
    from workbench.conversion import int4_path
    from workbench.coverage.preflight import preflight_source
    from workbench.foreign import open_int4, quant_method
    from workbench.hf.dequantized import stored_format
    from workbench.hf.folders import local_folder, read_config
    from workbench.hf.skeleton import open_source
    from workbench.targets.run import RECORD_FILE

    path = int4_path(arguments.directory)
    if path is not None:
        refuse_settings(arguments)
    if path is not None and (path.is_file() or quant_method(path) != QUANT_METHOD):
        _inspect_foreign(path, as_json=arguments.json)
        return
    folder = local_folder(arguments.directory)
    if path is not None:
        _inspect_checkpoint(folder, read_config(folder), read_quantization(folder), as_json=arguments.json)
    elif (folder / RECORD_FILE).is_file():
        _inspect_export(folder, as_json=arguments.json)
    elif read_config(folder).get("quantization_config") and stored_format(read_config(folder)) is None:
        open_int4(folder)  # which names the formats that there are
    else:
        coverage = preflight_source(open_source(arguments.directory), recipe_of(arguments))
        print(json.dumps(coverage.to_json(), indent=2) if arguments.json else coverage)


def _inspect_checkpoint(folder: Path, config: dict[str, Any], quantization: dict[str, Any], *, as_json: bool) -> None:
    from workbench.checkpoint.integrity import check_headers
    from workbench.checkpoint.native import parse
    from workbench.checkpoint.writer import size_on_disk
    from workbench.sizes import size

    modules = parse(quantization)
    stored = check_headers(folder, modules)
    if as_json:
        print(json.dumps(quantization, indent=2))
        return
    width = max((len(name) for name in modules), default=6)
    print(f"{'module':<{width}}  {'shape':<14} {'group':>5} {'domain':<10} {'scales':<8} {'bits':>5}  solved by")
    for name, form in modules.items():
        shape = f"{form.out_features}x{form.in_features}"
        bits = 8 * form.size_bytes / (form.out_features * form.in_features)
        held = f"{shape:<14} {form.group_size:>5} {form.domain:<10} {form.scale_dtype:<8} {bits:>5.2f}"
        print(f"{name:<{width}}  {held}  {form.solved_by or '?'}")
    dense = quantization.get("modules_to_not_convert") or []
    architectures = config.get("architectures") or ["unknown architecture"]
    print(
        f"{architectures[0]}, format {quantization['format_version']}, {len(modules)} int4 modules, "
        f"{len(dense)} dense linear layer{'' if len(dense) == 1 else 's'}, {len(stored.names())} tensors, "
        f"{size(size_on_disk(folder))}; "
        f"made by {quantization.get('producer', 'an unknown program')}"
    )


def _inspect_export(folder: Path, *, as_json: bool) -> None:
    """Say what an export is that only its own engine reads."""
    from workbench.checkpoint.writer import size_on_disk
    from workbench.sizes import size
    from workbench.targets.record import read_record
    from workbench.targets.run import error_said

    record = read_record(folder)
    if as_json:
        print(json.dumps(record, indent=2))
        return
    errors = {str(name): float(error) for name, error in record["max_error"].items()}
    worst = max(errors, key=lambda name: errors[name], default="")
    made = f"{record.get('model', '?')} as {record.get('target', '?')}, made by {record.get('producer', '?')}"
    print(f"{made}: {len(errors)} int4 modules, {len(record['files'])} files, {size(size_on_disk(folder))}")
    print(error_said(errors.get(worst, 0.0), worst))
    print(f"check it: workbench verify {quoted(str(folder))}; how to load it stands in {folder / 'README.md'}")


def _inspect_foreign(path: Path, *, as_json: bool) -> None:
    """Say what an int4 checkpoint of another library holds."""
    from workbench.conversion import opened_int4
    from workbench.foreign import quant_method
    from workbench.int4_source import weight_bytes
    from workbench.sizes import size

    outline = opened_int4(path).outline()
    method = "gguf" if path.is_file() else quant_method(path)
    if as_json:
        held = {
            name: {"shape": list(form.shape), "group_size": form.group_size, "domain": form.domain}
            for name, form in outline.int4.items()
        }
        print(json.dumps({"quant_method": method, "stored_bytes": weight_bytes(path), "modules": held}, indent=2))
        return
    width = max((len(name) for name in outline.int4), default=6)
    print(f"{'module':<{width}}  {'shape':<14} {'group':>5} domain")
    for name, form in outline.int4.items():
        shape = "x".join(map(str, form.shape))
        print(f"{name:<{width}}  {shape:<14} {form.group_size:>5} {form.domain}")
    dense, native = size(outline.dense_bytes), size(outline.native_bytes)
    print(
        f"{method}, {len(outline.int4)} int4 modules, {len(outline.dense)} dense tensors ({dense}); "
        f"{size(weight_bytes(path))} stored, {native} as native"
    )
    for note in outline.notes:
        print(f"note: {note}")
    print(f"convert it: workbench import {quoted(str(path))} --out DIR")


def verify(arguments: argparse.Namespace) -> None:
    """Check every hash, shape and range of a checkpoint, or every file of an export."""
    from workbench.checkpoint.integrity import accept_changes
    from workbench.targets.run import RECORD_FILE, accept_export_changes, verify_export

    folder: Path = arguments.directory
    exported = (folder / RECORD_FILE).is_file()
    if arguments.accept:
        changed = accept_export_changes(folder) if exported else accept_changes(folder)
        print(f"{folder}: every tensor is what was saved; {', '.join(changed) or 'no file'} accepted as changed")
        return
    if exported:
        print(f"{folder}: whole ({verify_export(folder)} files checked)")
        return
    found = _verified(folder)
    bad = [f"{one.what}: {one.problem}" for one in found if one.problem]
    for line in bad:
        print(f"damaged: {line}")
    if bad:
        raise CheckpointError(
            f"{str(folder)!r} is damaged in {len(bad)} of {len(found)} places, first {bad[0]}.",
            mend=f"fetch or save it again{_or_accept(folder, found)}",
        )
    print(f"{folder}: whole ({len(found)} things checked)")


def _or_accept(folder: Path, found: list[Checked]) -> str:
    """Say how changes are accepted, where nothing but files beside the weights differs."""
    bad = [one.what for one in found if one.problem]
    beside = all((folder / name).is_file() and not name.endswith(".safetensors") for name in bad)
    command = f"workbench verify {quoted(str(folder))} --accept"
    return f", or accept what you changed yourself: {command}" if beside else ""


def _verified(folder: Path) -> list[Checked]:
    """Verify with a line of progress; a Ctrl-C ends it within a block."""
    from workbench.checkpoint.integrity import iter_verify
    from workbench.jobs import progress_since
    from workbench.sizes import size

    found, start, shown_percent = [], time.monotonic(), -1
    with ProgressLine() as shown, stopping() as cancel:
        for one in iter_verify(folder, cancel=cancel):
            found.append(one)
            percent = 100 * one.done_bytes // max(1, one.total_bytes)
            if one.done_bytes and percent != shown_percent:
                shown_percent = percent
                shown.show(progress_since(start, one.done_bytes, one.total_bytes, f"of {size(one.total_bytes)}"))
    return found
