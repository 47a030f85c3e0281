"""The tests run from a checkout, whether this package is installed or not."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("harmonet_monai") is None:
    sys.path.insert(0, str(Path(__file__).parent / "src"))
