"""The installed command `landmarking`: parses, and leaves the work to modules loaded when needed.

Exit status: 0 all done; 1 a scan failed and the others are done (or a comparison has no landmark in
common); 2 nothing was done: wrong arguments, no such model, a folder that cannot be written; 130
interrupted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from importlib import import_module

STARTED = time.perf_counter()
"""When the command began, for the time of starting up."""

EPILOG = """exit status:
  0    everything was done
  1    a scan failed; the others are done, and the summary says what failed and why
  2    nothing was done: wrong arguments, no such model, a folder that cannot be written
  130  interrupted; what is finished stays, and the same command goes on from there
"""

_PREDICT = """Find the landmarks of T1 scans. For each scan: <name>_landmarks.mrk.json (3D Slicer),
<name>_landmarks.fcsv, <name>_qc.png and <name>_prediction.json; for all of them landmarks.csv.
Positions are world mm of the scan. Finished scans of the same bytes and model are skipped."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What was typed after `landmarking`; by default that of this process.

    Returns:
        The exit status.
    """
    options = parser().parse_args(arguments)
    from landmarking.errors import LandmarkingError

    try:
        module, _, function = options.run.partition(":")
        run = getattr(import_module(f"landmarking.prediction.{module}"), function)
        return int(run(options))
    except LandmarkingError as error:
        sys.stderr.write(f"landmarking: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("landmarking: interrupted; the same command goes on from here\n")
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough, such as `landmarking info | head`.
        sys.stderr.close()
        return 0


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    top = argparse.ArgumentParser(
        prog="landmarking",
        description="Anatomical landmarks on the mid-sagittal plane of T1 brain MRI.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_predict(commands)
    return top


def _version() -> str:
    from landmarking import __version__

    return __version__


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, run: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=text.split(". ")[0].rstrip("."),
        description=text,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _add_predict(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = _command(commands, "predict", _PREDICT, "predict_command:run")
    _add_scans(command)
    _add_model(command)
    command.add_argument(
        "--no-picture", action="store_true", help="draw no <name>_qc.png (saves a second a scan)"
    )
    command.add_argument(
        "--truth",
        nargs="+",
        metavar="FILE",
        default=(),
        help="landmark files (.mrk.json, .fcsv), one a scan in the same order: print errors in mm",
    )


def _add_scans(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "scans", nargs="+", metavar="SCAN", help=".nii or .nii.gz file, folder, or BIDS tree"
    )
    command.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="DIR",
        help="folder of the results, made if need be",
    )
    command.add_argument(
        "--bids", action="store_true", help="the input is a BIDS tree; write BIDS derivatives"
    )
    command.add_argument(
        "--workers", type=_count, default=1, metavar="N", help="processes (default 1)"
    )
    command.add_argument("--overwrite", action="store_true", help="do finished scans again")
    command.add_argument(
        "--json", action="store_true", help="print one JSON object for machines, nothing else"
    )
    command.add_argument(
        "--timing", action="store_true", help="print seconds by stage, start-up and memory"
    )
    command.add_argument(
        "--quiet", action="store_true", help="no progress bar, print failures only"
    )


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        nargs="+",
        default=(),
        metavar="MODEL",
        help="a packed model (.zip), or folders of your own runs; the runs of a single-landmark "
        "sweep are pooled, those of several seeds averaged (default: the model that ships)",
    )


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"at least 1, found {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
