"""Small pictures that say which one they are, and tars of such."""

import io
import tarfile
from pathlib import Path

from PIL import Image

from workbench.loading.fields import Fields
from workbench.loading.table import Table, read_sample


def picture(level: int) -> bytes:
    """The PNG of one grey level."""
    out = io.BytesIO()
    Image.new("L", (9, 7), level).save(out, "PNG")
    return out.getvalue()


def write(path: Path, members: dict[str, bytes]) -> Path:
    """A tar of them, in this order."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def pair(
    image: str | tuple[str, ...] | None = None,
    text: str | tuple[str, ...] | None = None,
    views: int = 1,
    at_most: int = 1,
    pick: str = "random",
    max_pixels: int = 10**7,
    classes: Path | None = None,
) -> dict[str, Fields]:
    """The fields of pictures with texts."""
    said = {"from": text, "at_most": at_most, "pick": pick, "classes": classes}
    return {"fields": Fields.parse({"image": {"from": image, "views": views, "max_pixels": max_pixels}, "text": said})}


def read_pair(table: Table, index: int, max_pixels: int) -> tuple[Image.Image, list[str]]:
    """The picture and the texts of a row."""
    found = read_sample(table, index, pair(max_pixels=max_pixels)["fields"])
    return found["image"][0], found["text"]
