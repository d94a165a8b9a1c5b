"""The installed command `landmarking`: parses, and leaves the work to modules loaded when needed.

Exit status: 0 all done; 1 a scan failed and the others are done (or a comparison has no landmark in
common); 2 nothing was done: wrong arguments, no such model, a folder that cannot be written; 130
interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from typing import TypeAlias

STARTED = time.perf_counter()
"""When the command began, for the time of starting up."""

SHELLS = {
    "prepare": "Cut the slices of a cohort: landmarking prepare cohort=bids cohort.root=DIR",
    "train": "Train one model or a sweep: landmarking train experiment=demo_sl",
    "evaluate": "Predict another cohort with a trained study, and print its errors.",
    "report": "Tables and figures of a study: landmarking report runs=DIR",
    "framework": "Maps, data-driven landmarks, shape and diagnosis of two groups (Figure 1).",
}
"""Commands that Hydra composes; each is the script of its name in experiments/."""

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

EPILOG = """exit status:
  0    everything was done
  1    a scan failed; the others are done, and the summary says what failed and why
  2    nothing was done: wrong arguments, no such model, a folder that cannot be written
  130  interrupted; what is finished stays, and the same command goes on from there
"""

_PREDICT = """Find the landmarks of T1 scans. For each scan: <name>_desc-auto_landmarks.mrk.json
(for 3D Slicer) and .fcsv, <name>_qc.png and <name>_prediction.json; for all of them landmarks.csv.
Positions are world mm of the scan. Finished scans of the same bytes and model are skipped. Files
that you have made or changed are never replaced: points that you move in the .mrk.json are kept."""

_CALIBRATE = """Find the radius that holds the truth with 90 % probability. Errors of people whom no
run has learnt from are divided by the model's doubt (split-conformal); the factors are kept in
RUN_DIR/calibration.json, which predict and pack take from there."""

_PACK = """Pack trained runs into one file that predict takes. The weights are kept with 16 bits,
and the card is made from the runs' own files and from the cohorts given with --evaluate."""


_MSP = """Find the mid-sagittal plane of T1 scans. For each scan: <name>_msp.mrk.json (a plane for
3D Slicer), <name>_msp.json (plane, matrices and figures), <name>_aligned.nii.gz (the scan with the
plane as its middle layer) and <name>_slice.nii.gz (the mid-sagittal slice). Both images lie in the
scan's own world, so that a viewer overlays them."""


_MORPHOMETRY = """Measure distances, angles and areas between landmarks. By person, with what the
landmarks' own uncertainty does to them; compare two groups of people; hold automatic against manual
landmarks. Exploratory: the measures are no clinical standard."""


_QC = """Say what there is to look at. Of results of predict: how many are done, flagged, and what
review.tsv beside the page says; the page is written anew. Of a prepared cohort: the scans to look
at, and where their pictures lie."""


_GATHER = """Put scans with their landmarks into a BIDS tree, to train and test on. Either files of
your own, or (--results) what you have corrected in a folder of results: scans whose points you have
moved in the .mrk.json or .fcsv files. Scans are copied; nothing in the tree is replaced."""


_RUNS = """Say what has been run. States, settings that differ, errors, room on disk, for any number
of runs below a folder; remove runs, or export them as one table."""


_CONF = """Copy the configuration, conf/, to a folder of one's own. Then
`landmarking train --config-path DIR` composes from there; `--config-dir DIR` adds a folder with
files of new names to what ships."""


_DOCTOR = """Print versions, devices, folders, and what is wrong with this installation. The first
thing to send with a question."""


_COMPLETION = """Print a script that completes this command in a shell. For bash:
landmarking completion bash > ~/.local/share/bash-completion/completions/landmarking"""


_EXPORT = """Write a model as a graph for other programs: .pt2 (torch.export) or .onnx. What is read
back is checked against torch within 0.01 mm; a .json beside it says how slices are made."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What was typed after `landmarking`; by default that of this process.

    Returns:
        The exit status.
    """
    plain_environment()
    typed = list(sys.argv[1:] if arguments is None else arguments)
    if typed[:1] and typed[0] in SHELLS:
        return run_shell(typed[0], typed[1:])
    options = parser().parse_args(typed)
    return run(options.run, options)


def run(where: str, options: argparse.Namespace) -> int:
    """Do what a command does, and say what is wrong in one line.

    Args:
        where: `MODULE:FUNCTION`, or a function of `landmarking.commands`.
        options: What the function takes.

    Returns:
        The exit status.
    """
    from landmarking.errors import LandmarkingError

    try:
        module, _, function = where.rpartition(":")
        work = getattr(import_module(module or "landmarking.commands"), function)
        return int(work(options))
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


def run_shell(name: str, typed: Sequence[str]) -> int:
    """Run one of the Hydra commands as its script in experiments/ is run, whose twin it is.

    Args:
        name: One of `SHELLS`.
        typed: What follows it on the command line.

    Returns:
        The exit status.
    """
    import runpy

    from landmarking.config import PROJECT

    script = PROJECT / "experiments" / f"{name}.py"
    # Processes that Lightning starts beside this one are started by the same words.
    sys.argv = [str(script), *_from(name, typed)]
    runpy.run_path(str(script), run_name="__main__")
    return 0


def _from(name: str, typed: Sequence[str]) -> list[str]:
    """`train --from MODEL` as Hydra's `adapt.start=MODEL`."""
    words = list(typed)
    if name == "train" and "--from" in words[:-1]:
        at = words.index("--from")
        words[at : at + 2] = [f"adapt.start={words[at + 1]}"]
    return words


def plain_environment() -> None:
    """What a command line needs of its process, whatever notebook or locale it was started from.

    Pictures are drawn without a window, and text that the terminal cannot show is escaped.
    """
    os.environ["MPLBACKEND"] = "agg"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


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
    for name, text in SHELLS.items():
        commands.add_parser(name, help=text, add_help=False)
    _add_predict(commands)
    _add_msp(commands)
    _add_runs(commands)
    _add_qc(commands)
    _add_gather(commands)
    _add_compare(commands)
    _add_morphometry(commands)
    _add_info(commands)
    _add_calibrate(commands)
    _add_pack(commands)
    _add_export(commands)
    _add_conf(commands)
    _command(commands, "doctor", _DOCTOR, "landmarking.housekeeping:run_doctor")
    command = _command(
        commands, "completion", _COMPLETION, "landmarking.housekeeping:print_completion"
    )
    command.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    return top


def _version() -> str:
    from landmarking import __version__

    return __version__


def _command(commands: Commands, name: str, text: str, run: str) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=text.split(". ")[0].rstrip(".").replace("%", "%%"),
        description=text,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _add_predict(commands: Commands) -> None:
    command = _command(commands, "predict", _PREDICT, "run_predict")
    _add_scans(command)
    _add_model(command)
    command.add_argument(
        "--no-picture", action="store_true", help="draw no <name>_qc.png (saves a second a scan)"
    )
    command.add_argument(
        "--acpc",
        choices=("header", "resample"),
        help="also the scan turned to AC-PC, its header alone or resampled, and the turn for "
        "Slicer and ITK (.tfm), FSL (.mat, resample only), FreeSurfer (.lta) and MINC (.xfm)",
    )
    command.add_argument(
        "--labels", action="store_true", help="also the landmarks as a NIfTI label map"
    )
    command.add_argument(
        "--truth",
        nargs="+",
        metavar="FILE",
        default=(),
        help="landmark files (.mrk.json, .fcsv), one a scan in the same order: print errors in mm",
    )


def _add_info(commands: Commands) -> None:
    text = "Say what a model is: networks, training, landmarks, accuracy, limits."
    command = _command(commands, "info", text, "info")
    command.add_argument(
        "model", nargs="*", metavar="MODEL", help="as predict's --model (default: what ships)"
    )
    how = command.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print one JSON object")
    how.add_argument("--markdown", action="store_true", help="print the model card as a page")


def _add_calibrate(commands: Commands) -> None:
    command = _command(commands, "calibrate", _CALIBRATE, "calibrate")
    command.add_argument("run_folder", metavar="RUN_DIR", help="a run, or a study of one model")
    command.add_argument(
        "--on", required=True, metavar="DIR", help="prepared cohort, outputs/prepared/<name>-..."
    )
    command.add_argument(
        "--groups", nargs="+", default=(), metavar="GROUP", help="default: those trained on"
    )
    command.add_argument("--coverage", type=float, default=0.9, help="default 0.9")
    command.add_argument(
        "--folds",
        metavar="STUDY",
        help="runs of the same recipe that each left out a fold of people, who are judged by them; "
        "RUN_DIR itself may have learnt from everybody",
    )
    command.add_argument(
        "--shifts",
        type=int,
        default=1,
        choices=range(1, 10),
        metavar="N",
        help="average N looks at a slice, each shifted by a pixel or two (default 1, at most 9)",
    )


def _add_pack(commands: Commands) -> None:
    command = _command(commands, "pack", _PACK, "pack")
    command.add_argument("runs", nargs="+", metavar="RUN_DIR", help="runs, or studies of runs")
    command.add_argument("-o", "--output", required=True, metavar="FILE.zip", help="file to write")
    command.add_argument("--name", required=True, help="what reports call the model")
    command.add_argument(
        "--evaluate",
        nargs="+",
        default=(),
        metavar="DIR",
        help="prepared cohorts with truth; their errors become the card's accuracy",
    )
    command.add_argument("--note", default="", help="a sentence on what it was trained on")
    command.add_argument("--licence", default="MIT", help="of the weights (default MIT)")
    command.add_argument("--card", metavar="FILE.md", help="also write the model card as a page")


def _add_msp(commands: Commands) -> None:
    command = _command(commands, "msp", _MSP, "run_msp")
    _add_scans(command)
    command.add_argument(
        "--spacing", type=float, default=1.0, metavar="MM", help="voxel size (default 1)"
    )
    command.add_argument("--no-images", action="store_true", help="write the plane alone")


def _add_qc(commands: Commands) -> None:
    command = _command(commands, "qc", _QC, "landmarking.housekeeping:run_qc")
    command.add_argument("folder", metavar="DIR", help="results of predict, or a prepared cohort")
    command.add_argument("--json", action="store_true", help="print one JSON object")


def _add_runs(commands: Commands) -> None:
    command = _command(commands, "runs", _RUNS, "landmarking.housekeeping:list_runs")
    actions = command.add_subparsers(required=True, metavar="ACTION")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=text, description=text)
        added.set_defaults(run=f"landmarking.housekeeping:{name}_runs")
        return added

    for name, text in (("list", "one line a run"), ("export", "all runs as .csv or .json")):
        added = action(name, text)
        added.add_argument("root", nargs="?", metavar="DIR", help="default: the outputs folder")
        added.add_argument("--state", choices=("finished", "stopped", "begun"), help="these alone")
        added.add_argument(
            "--sort",
            default="path",
            metavar="COLUMN",
            help="such as val_error_mm, size_mb, changed",
        )
        if name == "list":
            added.add_argument("--json", action="store_true", help="print one JSON object")
        else:
            added.add_argument("-o", "--output", required=True, metavar="FILE")
    splits = action("splits", "who was in which fold and on which side, as a table for other tools")
    splits.add_argument("root", nargs="?", metavar="DIR", help="default: the outputs folder")
    splits.add_argument("-o", "--output", required=True, metavar="FILE.tsv")
    show = action("show", "settings, errors, files and what a run was made with")
    show.add_argument("runs", nargs=1, metavar="RUN_DIR")
    diff = action("diff", "settings in which runs differ, beside their errors")
    diff.add_argument("runs", nargs="+", metavar="RUN_DIR")
    for each in (show, diff):
        each.add_argument("--json", action="store_true", help="print one JSON object")
    remove = action("rm", "remove runs")
    remove.add_argument("runs", nargs="+", metavar="RUN_DIR")
    remove.add_argument("--yes", action="store_true", help="without asking")


def _add_gather(commands: Commands) -> None:
    command = _command(commands, "gather", _GATHER, "landmarking.housekeeping:run_gather")
    command.add_argument("root", metavar="TREE", help="BIDS tree, made if need be")
    command.add_argument("pairs", nargs="*", metavar="SCAN[=LANDMARKS]", help="scans to add")
    command.add_argument("--group", required=True, help="train, HS, DS or another group's name")
    command.add_argument(
        "--results",
        action="append",
        default=[],
        metavar="DIR",
        help="-o of predict, with corrections; several times for several folders",
    )
    command.add_argument(
        "--accepted", action="store_true", help="also scans that review.tsv accepts as they are"
    )


def _add_conf(commands: Commands) -> None:
    command = _command(commands, "conf", _CONF, "landmarking.housekeeping:copy_configuration")
    actions = command.add_subparsers(required=True, metavar="ACTION")
    copy = actions.add_parser("copy", help="copy it", description=_CONF)
    copy.add_argument("folder", metavar="DIR", help="folder to make")


def _add_export(commands: Commands) -> None:
    command = _command(commands, "export", _EXPORT, "export")
    command.add_argument(
        "model", nargs="*", metavar="MODEL", help="as predict's --model (default: what ships)"
    )
    command.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="file ending in .pt2 or .onnx"
    )


def _add_compare(commands: Commands) -> None:
    text = "Compare predictions with truth, in mm. Within the plane that was found, and in space."
    command = _command(commands, "compare", text, "run_compare")
    command.add_argument(
        "files",
        nargs="+",
        metavar="RESULT TRUTH",
        help="pairs of a <name>_prediction.json and a landmark file (.mrk.json, .fcsv)",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")


def _add_morphometry(commands: Commands) -> None:
    command = _command(commands, "morphometry", _MORPHOMETRY, "run_morphometry")
    command.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="landmarks.csv of predict, or landmark files (.mrk.json, .fcsv)",
    )
    command.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="folder of the tables and the picture"
    )
    command.add_argument(
        "--truth", nargs="+", default=(), metavar="FILE",
        help="manual landmark files of the same people: how far both agree",
    )  # fmt: skip
    command.add_argument("--participants", metavar="TSV", help="participants.tsv of the people")
    command.add_argument("--by", metavar="COLUMN", help="its column with two groups to compare")
    command.add_argument(
        "--covariate", metavar="COLUMN", help="its column to take out, such as age"
    )


def _add_scans(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "scans",
        nargs="+",
        metavar="SCAN",
        help="scan (.nii, .nii.gz, .mgz, .mgh, .hdr/.img, .nrrd), DICOM folder, folder of scans, "
        "or BIDS tree",
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
    command.set_defaults(participants=(), sessions=())
    command.add_argument(
        "--workers", type=_count, default=1, metavar="N", help="processes (default 1)"
    )
    command.add_argument("--overwrite", action="store_true", help="do finished scans again")
    command.add_argument(
        "--allow-scaled",
        action="store_true",
        help="read scans whose header stretches their voxels, as in template space",
    )
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
