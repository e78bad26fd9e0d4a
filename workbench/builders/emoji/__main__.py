"""`python -m workbench.builders.emoji --out DIR`: build the emoji set and print its counts as JSON."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from workbench.builders.emoji import build

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--sources",
        type=Path,
        default=Path(tempfile.gettempdir()) / "emoji_sources",
        help="scratch folder of the npm packages [%(default)s]",
    )
    parser.add_argument("--size", type=int, default=64, help="side of the pictures in pixels [%(default)s]")
    parser.add_argument("--workers", type=int, default=2, help="rendering processes [%(default)s]")
    try:
        counts = build(**vars(parser.parse_args()))
    except ValueError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(json.dumps(counts, indent=2) + "\n")
