"""Python runs this file at its start where PYTHONPATH names its folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from tests.mutation import hook

del sys.path[0]
hook.install()
