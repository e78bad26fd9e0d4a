"""The same samples with five fields in every source: what is in sample n can be told from n."""

import io
import json
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_pairs import picture

from workbench.data.csv import CSV
from workbench.data.folder import Folder
from workbench.data.hf import HF
from workbench.data.json import JSON
from workbench.data.parquet import Parquet
from workbench.data.shards import Shards
from workbench.errors import BadSample
from workbench.loading.fields import Fields
from workbench.loading.samples import Samples

soundfile = pytest.importorskip("soundfile")


RATE = 8000


def wav(levels: np.ndarray, rate: int = RATE, subtype: str = "FLOAT") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, levels, rate, subtype=subtype, format="WAV")
    return out.getvalue()


def header(shape: str, dtype: str = "<f8") -> bytes:
    """A .npy whose header says this shape, with 24 bytes behind it."""
    said = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said)) + said + bytes(24)


def npy(array: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def row(n: int) -> dict[str, Any]:
    """Sample n as files: what it holds can be told from n. Each third lacks its sound, each fourth its text."""
    return {
        "jpg": picture(n),
        "txt": None if n % 4 == 3 else f"text {n}",
        "wav": None if n % 3 == 2 else wav(np.full(50 + n, n / 100, np.float32)),
        "npy": npy(np.arange(3) + n),
        "frames.npy": npy(np.full((2 + n, 2), n, np.float64)),
    }


ROWS = [row(n) for n in range(12)]


FIELDS = {
    "image": {"views": 2},
    "text": {},
    "sound": {"kind": "audio", "seconds": 0.01, "rate": RATE},
    "sensor": {"kind": "vector"},
    "face": {"kind": "sequence", "at_most": 5},
}


COLUMNS = dict(zip(FIELDS, ("jpg", "txt", "wav", "npy", "frames.npy"), strict=True))


def fields(**where: str | list[str]) -> dict[str, Any]:
    """The five fields, read from where a source has them."""
    return {"fields": Fields.parse({name: {**said, "from": where[name]} for name, said in FIELDS.items()})}


def write_tar(path: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    with tarfile.open(path, "w") as tar:
        for n, cells in enumerate(rows):
            for ending, content in cells.items():
                if content is not None:
                    info = tarfile.TarInfo(f"{n:03}.{ending}")
                    content = content.encode() if isinstance(content, str) else content
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return str(path)


def shards(folder: Path, **more: Any) -> Samples:
    return Shards(path=write_tar(folder / "0.tar"), **fields(**COLUMNS), **more)


def parquet(folder: Path, **more: Any) -> Samples:
    columns: dict[str, Any] = {name: [cells[ending] for cells in ROWS] for name, ending in COLUMNS.items()}
    columns["sensor"] = [(np.arange(3) + n).tolist() for n in range(12)]
    columns["face"] = [np.full((2 + n, 2), float(n)).tolist() for n in range(12)]
    about = [{"film": {"plot": text}} for text in columns.pop("text")]
    pq.write_table(pa.table({**columns, "about": about}), folder / "0.parquet")
    where = {name: name for name in COLUMNS} | {"text": "about.film.plot"}
    return Parquet(path=str(folder / "0.parquet"), **fields(**where), **more)


def hf(folder: Path, **more: Any) -> Samples:
    columns: dict[str, Any] = {name: [cells[ending] for cells in ROWS] for name, ending in COLUMNS.items()}
    columns["sensor"] = [(np.arange(3) + n).tolist() for n in range(12)]
    columns["sound"] = [None if sound is None else {"bytes": sound, "path": None} for sound in columns["sound"]]
    datasets.Dataset.from_dict(columns).save_to_disk(folder / "saved")
    return HF(path=str(folder / "saved"), **fields(**{name: name for name in COLUMNS}), **more)


def files(folder: Path) -> None:
    for n, cells in enumerate(ROWS):
        for ending, content in cells.items():
            if content is not None:
                file = folder / f"{n:03}.{ending}"
                file.write_bytes(content.encode() if isinstance(content, str) else content)


def csv(folder: Path, **more: Any) -> Samples:
    files(folder)
    lines = ["picture,says,sound,a,b,c,face"]
    for n, cells in enumerate(ROWS):
        sound = f"{n:03}.wav" if cells["wav"] else ""
        lines.append(f"{n:03}.jpg,{cells['txt'] or ''},{sound},{n},{n + 1},{n + 2},{n:03}.frames.npy")
    (folder / "list.csv").write_text("\n".join(lines))
    where = {"image": "picture", "text": "says", "sound": "sound", "sensor": ["a", "b", "c"], "face": "face"}
    return CSV(path=str(folder / "list.csv"), **fields(**where), **more)


def jsonl_rows() -> list[str]:
    return [
        json.dumps(
            {
                "file_name": f"{n:03}.jpg",
                "about": {"plot": cells["txt"]},
                "sound": {"path": f"{n:03}.wav"} if cells["wav"] else None,
                "sensor": [n, n + 1, n + 2],
                "face": f"{n:03}.frames.npy",
            }
        )
        for n, cells in enumerate(ROWS)
    ]


IN_JSON = {"image": "file_name", "text": "about.plot", "sound": "sound", "sensor": "sensor", "face": "face"}


def in_json(folder: Path, **more: Any) -> Samples:
    files(folder)
    (folder / "list.jsonl").write_text("\n".join(jsonl_rows()))
    return JSON(path=str(folder / "list.jsonl"), **fields(**IN_JSON), **more)


def metadata(folder: Path, **more: Any) -> Samples:
    (folder / "data").mkdir()
    files(folder / "data")
    (folder / "data" / "metadata.jsonl").write_text("\n".join(jsonl_rows()))
    return Folder(path=str(folder / "data"), **fields(**IN_JSON), **more)


def beside(folder: Path, **more: Any) -> Samples:
    (folder / "data").mkdir()
    files(folder / "data")
    return Folder(path=str(folder / "data"), **fields(**COLUMNS), **more)


SOURCES: list[Callable[..., Samples]] = [shards, parquet, hf, csv, in_json, metadata, beside]


def vectors(folder: Path, cells: list[Any], **more: Any) -> Samples:
    """Texts with vectors, in lines of JSON."""
    lines = [json.dumps({"text": f"text {n}", "x": cell, **more}) for n, cell in enumerate(cells)]
    (folder / "list.jsonl").write_text("\n".join(lines))
    said = {"text": {"from": "text"}, "x": {"kind": "vector", "from": "x"}}
    return JSON(path=str(folder / "list.jsonl"), fields=Fields.parse(said), max_bad=99)


def why(data: Samples, index: int) -> str:
    with pytest.raises(BadSample) as caught:
        data.sample(index, np.random.default_rng(0))
    return caught.value.reason
