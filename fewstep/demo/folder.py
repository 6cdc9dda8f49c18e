"""Where the files of the embedded model lie: weights, configs, learned tables."""

from pathlib import Path

FOLDER = Path(__file__).parent
