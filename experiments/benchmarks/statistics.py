"""Coverage of the intervals and type-I errors of the tests, by simulation: see `simulations`."""  # noqa: A005

from __future__ import annotations

import sys
import sysconfig
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

# A script's folder comes first where Python looks for modules: who imports `statistics` beside this
# file means the standard library's.
_SPEC = spec_from_file_location(
    "statistics", Path(sysconfig.get_paths()["stdlib"], "statistics.py")
)
assert _SPEC is not None
assert _SPEC.loader is not None
_LIBRARY = module_from_spec(_SPEC)
sys.modules["statistics"] = _LIBRARY
_SPEC.loader.exec_module(_LIBRARY)

if __name__ == "__main__":
    from arguments import main
    from simulations import run

    main(run)
