"""A folder of pictures with a metadata.jsonl, as Hugging Face's imagefolder has it: {"file_name": ..., "text": ...}.

Paths start from the folder of their metadata.jsonl, of which there may be several, in subfolders. `text` may be a list
of captions; lines with the same picture are one sample with several captions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from workbench.loading.captions import flat
from workbench.loading.pairs import Keys, Pairs
from workbench.loading.pairs_in_lists import ListedPairs, require_columns
from workbench.loading.paths import as_tuple
from workbench.types import Skipped

__all__ = ["Folder"]

METADATA = "metadata.jsonl"


class Folder(Pairs[Path]):
    """Image-text pairs of a folder; pictures that no metadata.jsonl names are not looked for.

    Args:
        path: the folder of the training pairs.
        validation: a folder of held-out pairs for evaluation.
        image_key: the key of a picture's path in metadata.jsonl.
        caption_key: the key of a caption or of a list of them, or a list of keys.
    """

    def __init__(
        self,
        *,
        path: Path,
        validation: Path | None = None,
        image_key: str = "file_name",
        caption_key: Keys = "text",
        **more: Any,
    ) -> None:
        super().__init__(path, validation, **more)
        self.image_key, self.caption_keys = image_key, as_tuple(caption_key)

    def missing(self) -> str | None:
        """One line on what to point where, when the folder is not there."""
        return _missing(self.path)

    def table(self, source: Path) -> ListedPairs:
        if complaint := _missing(source):
            raise ValueError(complaint)
        root = source.expanduser()
        images: list[str] = []
        captions: list[list[str]] = []
        left_out: list[Skipped] = []
        keys: dict[str, None] = {}
        for name, folder, row in _rows(root):
            keys |= dict.fromkeys(row)
            if isinstance(row.get(self.image_key), str):
                images.append(os.path.join(folder, row[self.image_key]))  # noqa: PTH118  # ten times as fast as a Path
                captions.append([text for text in flat(map(row.get, self.caption_keys)) if isinstance(text, str)])
            else:
                left_out.append(Skipped(name, f"not a line with '{self.image_key}'"))
        if not images and not left_out:
            raise ValueError(f"the {METADATA} of {root} has no line: write one a picture")
        require_columns([self.image_key, *self.caption_keys], list(keys), f"the {METADATA} of {root}")
        said = pa.chunked_array([captions], pa.list_(pa.large_string()))
        return ListedPairs(root, pa.chunked_array([images], pa.large_string()), [said], left_out)


def _rows(root: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(where it stands, its folder from the root, a line) of every metadata.jsonl; a broken line is empty."""
    files = [root / METADATA] if (root / METADATA).exists() else sorted(root.rglob(METADATA))
    if not files:
        raise ValueError(
            f"{root} has no {METADATA}: write one with a line a picture, "
            '{"file_name": "a.jpg", "text": "a caption"}; "text" may be a list'
        )
    for file in files:
        folder = os.path.relpath(file.parent, root)
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                if line.strip():
                    yield f"{file}: line {number}", folder, row if isinstance(row, dict) else {}


def _missing(source: Path) -> str | None:
    if source.expanduser().is_dir():
        return None
    return f"no folder '{source}': point to yours (pictures and {METADATA}) with --set data.path=/where"
