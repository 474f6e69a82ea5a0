"""The command line, `workbench COMMAND`: quantize, export, import, look, measure, and open the notebooks.

Every error of a person's input is one clear line on stderr and exit code 2; Ctrl-C is 130, with nothing half-written.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from workbench import __version__
from workbench.cli import export_commands, inspect_commands, measure_commands, page_commands, quantize_commands
from workbench.errors import Cancelled, WorkbenchError
from workbench.export_formats import EXPORT_FORMATS
from workbench.recipe.presets import PRESETS

USAGE_ERROR, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a pipe on Windows may not know every sign that we print
            stream.reconfigure(errors="replace")
    parser = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:  # said by the command's own parser, with its usage, which argparse itself leaves to the outer one
        arguments.refuse(f"unrecognized arguments: {' '.join(unknown)}")
    command: Callable[[argparse.Namespace], None] | None = arguments.command
    if command is None:
        parser.print_help(sys.stderr)
        return USAGE_ERROR
    try:
        command(arguments)
        sys.stdout.flush()
    except (KeyboardInterrupt, Cancelled):
        print("workbench: stopped; nothing was half-written", file=sys.stderr)
        return INTERRUPTED
    except WorkbenchError as error:
        return _fail(str(error))
    except BrokenPipeError:  # who reads us has seen enough: let the interpreter's last flush go nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _fail(str(error))
    return 0


def _fail(message: str) -> int:
    print(f"workbench: {' '.join(message.split())}", file=sys.stderr)
    return USAGE_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="workbench",
        description="Int4 weight-only quantization: choose, see, measure, export.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="begin with:\n"
        "  workbench lab                            in a notebook\n"
        "  workbench quantize demo --out demo-int4  without one\n"
        "  workbench COMMAND --help                 what a command takes",
    )
    parser.add_argument("--version", action="version", version=f"int4-workbench {__version__}")
    parser.set_defaults(command=None, refuse=parser.error)
    subparsers = parser.add_subparsers(metavar="COMMAND")

    def add(command: Callable[[argparse.Namespace], None], help_line: str) -> argparse.ArgumentParser:
        one = subparsers.add_parser(command.__name__.rstrip("_"), help=help_line, description=command.__doc__)
        one.set_defaults(command=command, refuse=one.error)
        return one

    _lab_arguments(add(page_commands.lab, "open the workbench in JupyterLab"))
    _quantize_arguments(add(quantize_commands.quantize, "quantize a model folder into a checkpoint"))
    _export_arguments(add(export_commands.export, "write a model in a format that another engine loads"))
    _targets_arguments(add(export_commands.targets, "say which formats can hold a model, before any work"))
    _import_arguments(add(export_commands.import_, "convert an int4 checkpoint of another library"))
    _inspect_arguments(add(inspect_commands.inspect, "say what a checkpoint, an export or a model folder holds"))
    _report_arguments(add(page_commands.report, "write one HTML file for people without a kernel"))
    one = add(inspect_commands.verify, "check every hash of a checkpoint or an export")
    one.add_argument("directory", type=Path, help="a checkpoint, or what workbench export wrote")
    one.add_argument(
        "--accept", action="store_true", help="when every tensor is whole, take files that you changed as they are now"
    )
    one = add(quantize_commands.generate, "load a checkpoint and print greedy text")
    one.add_argument("directory", type=Path, help="a native checkpoint (workbench import makes one of another format)")
    one.add_argument("prompt", help="the text to go on from")
    one.add_argument("--tokens", type=int, default=40, help="most new tokens (default 40)")
    _bench_arguments(add(measure_commands.bench, "measure a linear layer, int4 and dense, by batch size"))
    _throughput_arguments(add(measure_commands.throughput, "measure the tokens per second of models, side by side"))
    _tune_arguments(add(measure_commands.tune, "measure the fastest path at each batch size, and take it from now on"))
    return parser


def _lab_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("model", nargs="?", help="a model folder or hub name (default: the embedded demo model)")
    one.add_argument("--port", type=int, default=8888, help="port of the server (default 8888, or the next free one)")
    one.add_argument("--no-browser", action="store_true", help="do not open a browser")
    one.add_argument(
        "--notebook-dir", type=Path, metavar="DIR", help="the notebooks' copies (default: ./int4-workbench-notebooks)"
    )


def _quantize_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("model", help="a model folder, a hub name, or demo")
    one.add_argument("--out", type=Path, metavar="DIR", help="the folder to make")
    one.add_argument("--overwrite", action="store_true", help="replace the folder when it exists")
    one.add_argument("--dry-run", action="store_true", help="print the coverage and stop")
    one.add_argument("--calibration", type=Path, metavar="FILE", help="a text like what the model will see")
    one.add_argument(
        "--min-coverage", type=float, default=0.0, metavar="SHARE", help="least share of linear bytes in int4, 0 to 1"
    )
    _settings(one)


def _export_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("model", help="a model folder, a hub name, demo, or an int4 checkpoint")
    one.formatter_class = argparse.RawDescriptionHelpFormatter
    one.description = textwrap.fill(one.description or "", 78)
    one.epilog = "formats, and what loads them:\n" + "\n".join(
        f"  {name:<20}{engines}" for name, engines in EXPORT_FORMATS.items()
    )
    one.add_argument("--format", required=True, metavar="NAME", help="one of those below")
    one.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    one.add_argument("--overwrite", action="store_true", help="replace the folder when it exists")
    one.add_argument("--calibration", type=Path, metavar="FILE", help="a text like what the model will see")
    _settings(one)


def _targets_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("model", help="a model folder, a hub name, demo, or an int4 checkpoint")
    one.add_argument("--json", action="store_true", help="print JSON")
    _settings(one)


def _import_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("checkpoint", help="a folder of compressed-tensors, GPTQ or AWQ, or a GGUF file")
    one.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    one.add_argument("--overwrite", action="store_true", help="replace the folder when it exists")


def _inspect_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("directory", help="a checkpoint, an export, a GGUF file, a model folder, a hub name, or demo")
    one.add_argument("--json", action="store_true", help="print JSON")
    _settings(one)


def _report_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("model", help="a model folder, a hub name, or demo")
    one.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html")
    one.add_argument("--speed", action="store_true", help="measure the speed by batch size too")
    one.add_argument("--calibration", type=Path, metavar="FILE", help="a text like what the model will see")
    _settings(one)


def _settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what becomes int4, and how")
    named = ", ".join(PRESETS)
    group.add_argument("--recipe", metavar="FILE", help=f"a recipe file, or one of {named}, in place of the settings")
    group.add_argument("--group-size", type=int, help="256, 128, 64 or 32 (default 64)")
    group.add_argument("--hqq", action="store_true", help="solve for the zero points with HQQ")
    group.add_argument("--domain", help="float, int or symmetric (default: what the kernel takes first)")
    group.add_argument("--solver", help="rtn, hqq, refined or calibrated (default: follows --hqq)")
    group.add_argument("--preserve-zero", choices=["yes", "no"], help="keep 0 exact (default: the domain's own)")
    group.add_argument("--inner-k-tiles", type=int, help="2, 4 or 8: tiles of the CUDA layout (default 8)")
    group.add_argument(
        "--include",
        action="append",
        metavar="PATTERN",
        help="layers to quantize, by a part of their name (mlp, layers.0), a glob or re:REGEX; may be given again",
    )
    group.add_argument("--exclude", action="append", metavar="PATTERN", help="layers to keep dense; may be given again")
    group.add_argument("--output-head", action="store_true", help="make the output head int4 too: faster decoding")


def _layer_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("-n", type=int, default=4096, help="out_features (default 4096)")
    one.add_argument("-k", type=int, default=4096, help="in_features (default 4096)")
    one.add_argument("--group-size", type=int, help="256, 128, 64 or 32 (default 64)")
    one.add_argument(
        "--dtypes",
        type=_names,
        default=["bfloat16"],
        metavar="LIST",
        help="of bfloat16,float16,float32 (default: the first)",
    )
    one.add_argument("--device", default="cpu", choices=["cpu", "cuda"])


def _bench_arguments(one: argparse.ArgumentParser) -> None:
    _layer_arguments(one)
    one.add_argument(
        "--batch-sizes", type=_whole_numbers, metavar="LIST", help="for instance 1,4,16 (default 1,2,4 and on to 2048)"
    )
    one.add_argument(
        "--paths", type=_names, metavar="LIST", help="of int4,op,fused,dequantize,dense (default: all there are here)"
    )
    one.add_argument("--compiled", action="store_true", help="measure int4 and dense compiled by torch.compile too")
    one.add_argument("--json", type=Path, metavar="FILE", help="write points, machine and roofline here")
    one.add_argument("--csv", type=Path, metavar="FILE", help="write the points here")


def _throughput_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("models", nargs="+", metavar="MODEL", help="a checkpoint, a model folder, a hub name, or demo")
    one.add_argument("--prompt-tokens", type=int, default=256, help="tokens of the prompt (default 256)")
    one.add_argument("--new-tokens", type=int, default=32, help="timed new tokens in each turn (default 32)")
    one.add_argument("--rounds", type=int, default=5, help="timed turns of each model (default 5)")
    one.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    one.add_argument("--json", type=Path, metavar="FILE", help="write the measurements here")


def _tune_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("model", nargs="?", help="an int4 checkpoint with the shapes to measure (default: one, below)")
    _layer_arguments(one)


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 1,4,16") from None
