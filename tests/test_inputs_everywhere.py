"""What works on every system and in every shell, as far as this one can tell."""

import ast
import operator
import os
import subprocess
import sys
from pathlib import Path

import pytest

from landmarking.config import PROJECT
from landmarking.processes import map_apart

POSIX_ONLY = {
    *("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog", "spwd"),
    *("curses", "readline", "crypt", "nis"),
}
ONE_PLACE = "processes.py"

FILES = [*(PROJECT / "landmarking").rglob("*.py"), *(PROJECT / "experiments").rglob("*.py")]


def posix_imports(tree):
    """Names of POSIX modules that are imported, also by `import_module`, with whether at once."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module.split(".")[0])
    return POSIX_ONLY & set(found)


def test_the_guard_sees_an_import():
    text = "def f():\n    from resource import getrusage\n"
    assert posix_imports(ast.parse(text)) == {"resource"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_module_imports_what_windows_lacks(path):
    text = path.read_text(encoding="utf-8")
    assert posix_imports(ast.parse(text)) == set()
    late = any(f'import_module("{name}")' in text for name in POSIX_ONLY)
    assert not late or path.name == ONE_PLACE or "benchmarks" in path.parts


WITHOUT = """
import sys
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
from importlib import import_module
from pathlib import Path
for path in sorted(Path(sys.argv[1], "landmarking").rglob("*.py")):
    name = ".".join(path.relative_to(sys.argv[1]).with_suffix("").parts)
    if path.name not in ("__main__.py", "dicom.py"):
        import_module(name.removesuffix(".__init__"))
from landmarking.files import file_lock
from landmarking.processes import peak_mib
assert peak_mib() != peak_mib()
with file_lock(Path(sys.argv[2]) / "a.lock"):
    print("held")
"""


def test_everything_is_imported_and_locks_work_without_them(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(PROJECT), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "held\n", done.stderr


def landmarking(*words, **environment):
    kept = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "landmarking.cli", *words],
        capture_output=True,
        check=False,
        env={**kept, **environment},
    )


SHELLS = {
    "a notebook of another environment, no HOME": {"MPLBACKEND": "module://no_such_package.agg"},
    "plain C, a HOME that is not there": {
        "HOME": "/nowhere/at/all",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    },
}


@pytest.mark.parametrize("shell", SHELLS)
def test_inputs_from_any_shell_are_predicted(shell, tmp_path):
    """The scan has a name with blanks, signs and bytes that are no UTF-8, and cannot be changed."""
    from landmarking.imaging.scan import Scan
    from landmarking.imaging.template import block_average, load_template
    from landmarking.prediction.msp import write_nifti

    template = load_template()
    data, affine = block_average(template.brain, template.affine, 2.0)
    assert Scan(data, affine, "head").voxel_mm.min() > 1.0
    write_nifti(tmp_path / "plain.nii.gz", data, affine)
    folder = tmp_path / "a=b, c"
    folder.mkdir()
    name = os.fsencode(folder) + b"/K\xf6pfe $x^{2$ \xe5\xa4\xb4.nii.gz"
    os.rename(tmp_path / "plain.nii.gz", name)
    os.chmod(name, 0o444)
    folder.chmod(0o555)
    out = tmp_path / "öut"
    done = landmarking("predict", str(folder), "-o", str(out), **SHELLS[shell])
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"1 done, 0 finished before, 0 failed" in done.stdout
    table = (out / "landmarks.csv").read_text(encoding="utf-8")
    assert len(table.splitlines()) == 9
    assert "K\\udcf6pfe" in table
    # What is written under such a name is found again.
    again = landmarking("predict", str(folder), "-o", str(out), "--json", **SHELLS[shell])
    assert b'"reused": true' in again.stdout


def test_work_that_ends_its_process_ends_no_other():
    assert list(map_apart(operator.neg, [1, 2])) == [-1, -2]
    assert list(map_apart(os._exit, [3])) == [None]


def test_no_message_names_a_python_exception():
    """Neither by its type nor by a name that is written out."""
    names = ("KeyError", "ValueError", "TypeError", "IndexError", "AttributeError", "OSError")
    wrong = []
    for path in (PROJECT / "landmarking").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                text = ast.unparse(node)
                if "type(error)" in text or any(f"{name}:" in text for name in names):
                    wrong.append(f"{Path(path).name}: {text}")
    assert wrong == []
