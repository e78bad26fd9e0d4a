"""Sources without a single pair say so, whatever they are made of."""

import tarfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workbench.data.csv import CSV
from workbench.data.folder import Folder
from workbench.data.hf import HF
from workbench.data.parquet import Parquet
from workbench.data.shards import Shards


def test_nothing_to_train_on_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("filepath,title\n")
    (tmp_path / "metadata.jsonl").write_text("\n")
    tarfile.open(tmp_path / "a.tar", "w").close()
    pq.write_table(
        pa.table({"image": pa.array([], pa.binary()), "caption": pa.array([], pa.string())}), tmp_path / "a.parquet"
    )
    datasets.Dataset.from_dict({"image": [], "caption": []}).save_to_disk(tmp_path / "saved")
    for data, message in (
        (HF(path=str(tmp_path / "saved")), "or was saved without a row"),
        (CSV(path=str(tmp_path / "a.csv")), "has a header, and no row below it"),
        (Folder(path=tmp_path), "has no line: write one a picture"),
        (Shards(path=str(tmp_path / "a.tar")), "hold no image with a .txt"),
        (Parquet(path=str(tmp_path / "a.parquet")), "there is no row in .*a.parquet"),
    ):
        with pytest.raises(ValueError, match=message):
            len(data)
