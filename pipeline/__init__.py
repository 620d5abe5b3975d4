"""The command line, the series run by papermill, its report, and what users call around it."""

import sys
from pathlib import Path

# the project's own `shared`, and `benchmarks`, before a folder of that name where the command was typed
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
