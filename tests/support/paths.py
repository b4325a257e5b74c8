"""Where the repository's files are, and an environment in which `mx` is found."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MODELS = ROOT / "fixtures" / "models.py"
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
