"""`wb embed`: a training on its file against one with the locked towers, bit by bit; killed and resumed; refused with
other encoders and data."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from json_keys import assert_keys
from PIL import Image

import workbench
from workbench.cli import cli
from workbench.encoders.mlp import MLP
from workbench.errors import RecipeError
from workbench.recipe.schema import load_recipe
from workbench.runs import embed as embedding
from workbench.runs.train import train
from workbench.types import Modality

IMAGE = {"layers": 1, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 16}
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
LOCKED = f"""
name: cards
data:
  name: folder
  path: cards
  validation: 20 %
  fields: {{image: {{}}, text: {{from: says}}, sensor: {{kind: vector, from: readings}}}}
  labels: {{suit: suit, marks: {{from: marks, many: true}}, worth: {{from: worth, number: true}}}}
  id: name
model:
  dim: 8
  head: linear
  encoders:
    image: {{name: open_clip, lock: 0, augment: none, config: {json.dumps(IMAGE)}}}
    text: {{name: open_clip, config: {json.dumps(TEXT)}}}
    sensor: {{name: mlp, standardise: false}}
objective: clip
train: {{for: 7 steps, batch: 8, lr: 1e-2}}
eval: {{every: 0 steps}}
log: {{tensorboard: false}}
parallel: {{workers: 0}}
"""
FEATURES = """
extends: locked.yaml
data:
  name: parquet
  path: train.parquet
  validation: null
  fields: {image: {kind: vector, from: image}, text: {from: text}, sensor: {kind: vector, from: sensor}}
  id: id
model: {encoders: {image: {name: mlp, depth: 0}}}
"""


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cards: every fifth lacks its text, some have two, one picture cannot be read: of 27 pictures the last batch
    of 8 has three."""
    rng, rows = np.random.default_rng(0), []
    (tmp_path / "cards").mkdir()
    for n in range(35):
        Image.fromarray(rng.integers(256, size=(20, 24, 3), dtype=np.uint8)).save(tmp_path / "cards" / f"{n}.png")
        says = None if n % 5 == 0 else [f"suit {n % 4}", f"card {n}"] if n % 3 else f"card {n}"
        row = {"file_name": f"{n}.png", "says": says, "readings": rng.normal(size=3).tolist(), "name": f"n{n}"}
        rows.append(row | {"suit": f"s{n % 4}", "marks": ["a", "b"][: n % 3], "worth": n / 2})
    (tmp_path / "cards" / "7.png").write_bytes(b"no picture")
    (tmp_path / "cards" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "locked.yaml").write_text(LOCKED)
    (tmp_path / "features.yaml").write_text(FEATURES)
    (tmp_path / "all.yaml").write_text(LOCKED.replace("lock: 0, ", ""))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, status: int = 0) -> Any:
    result = CliRunner().invoke(cli, ["embed", *words, "--json"])
    assert result.exit_code == status, result.output
    if status:
        return result.stderr
    printed = json.loads(result.stdout)
    assert_keys("embed", printed)
    return printed


def losses(recipe: str, *settings: str) -> list[list[float]]:
    records = train(load_recipe(recipe, settings), None, say=lambda _: None, console=False).records
    names = sorted(name for name in records[-1] if name.startswith("train/"))
    return [[record[name] for name in names] for record in records if "train/loss" in record]


@pytest.mark.slow
def test_losses_are_bitwise_those_of_the_locked_tower(cards: Path) -> None:
    said = run("locked.yaml", "--with", "locked.yaml", "--out", "train.parquet")
    assert [bad["name"].split("/")[-1] for bad in said["bad"]] == ["7.png (row 7)"]
    assert said["fields"]["image"] == {"kind": "vector", "rows": said["rows"] - 1}
    assert said["fields"]["text"]["kind"] == "text"  # that tower learns: its texts are in the file, and no embedding
    keys = [f"data.{key}={said[key]}" for key in ("embedded_by", "embedded_from")]
    expected = losses("locked.yaml")
    assert len(expected) == 7
    assert losses("features.yaml", *keys) == expected
    # a tower that learns is no such tower: the comparison sees a difference
    assert losses("features.yaml", "model.encoders.image={name: mlp, depth: 1}") != expected


@pytest.mark.slow
def test_a_locked_text_tower_too(cards: Path) -> None:
    """Of several texts the first is taken, so the recipe says so, too."""
    (cards / "locked.yaml").write_text(
        LOCKED.replace("text: {name: open_clip,", "text: {name: open_clip, lock: 0,").replace(
            "text: {from: says}", "text: {from: says, pick: first}"
        )
    )
    said = run("locked.yaml", "--with", "locked.yaml", "--out", "train.parquet")
    assert said["several"]["text"] > 3
    more = ("data.fields.text={kind: vector, from: text}", "model.encoders.text={name: mlp, depth: 0}")
    assert losses("features.yaml", *more) == losses("locked.yaml")


def test_labels_and_ids_are_in_the_file(cards: Path) -> None:
    said = run("locked.yaml", "--with", "locked.yaml", "--split", "validation", "--out", "held.parquet")
    rows = pq.read_table("held.parquet").to_pylist()
    assert said["rows"] == len(rows) == 7
    for row in rows:
        n = int(row["id"][1:])
        assert (row["suit"], row["marks"], row["worth"]) == (f"s{n % 4}", ["a", "b"][: n % 3], n / 2)
    both = {row["id"] for row in rows}
    run("locked.yaml", "--with", "locked.yaml", "--out", "train.parquet")
    assert both | {row["id"] for row in pq.read_table("train.parquet").to_pylist()} == {f"n{n}" for n in range(35)}


class Killed(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.parquet", "a.npz"])
def test_the_same_command_goes_on(cards: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    words = ("locked.yaml", "--with", "locked.yaml", "--out", name)
    run("locked.yaml", "--with", "locked.yaml", "--out", f"whole-{name}")
    monkeypatch.setattr(embedding, "CHUNK", 8)
    write, count = embedding.EmbeddingFile.write, []

    def die(self: object, begin: int, *rest: Any) -> None:
        if len(count) == 2:
            raise Killed
        count.append(begin)
        write(self, begin, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(embedding.EmbeddingFile, "write", die)
    with pytest.raises(Killed):
        CliRunner().invoke(cli, ["embed", *words], catch_exceptions=False)
    assert not Path(name).exists()
    monkeypatch.setattr(embedding.EmbeddingFile, "write", write)
    assert "other encoders, data or settings" in run(*words, "--batch", "4", status=1)
    assert run(*words)["resumed"] == 16
    assert not Path(f"{name}.parts").exists()
    if name.endswith(".parquet"):
        assert pq.read_table(name).equals(pq.read_table(f"whole-{name}"))
    else:
        a, b = (np.load(file, allow_pickle=False) for file in (name, f"whole-{name}"))
        assert all(np.array_equal(a[key], b[key]) for key in a.files)
    again = run(*words)
    assert again["resumed"] == again["rows"] == 28
    assert len(again["bad"]) == 1
    assert not Path(f"{name}.parts").exists()


@pytest.mark.slow
def test_arrays_hold_what_the_table_does(cards: Path) -> None:
    for name in ("a.parquet", "a.npz"):
        run("locked.yaml", "--with", "locked.yaml", "--out", name, "--field", "image", "--field", "text", "--tokens")
    arrays, table = np.load("a.npz", allow_pickle=False), pq.read_table("a.parquet").to_pydict()
    for row, cell in enumerate(table["text"]):
        length = arrays["text_length"][row]
        assert (cell is None) == (length == 0)
        if cell is not None:
            (cards / "x.npy").write_bytes(cell)
            tokens = np.load(cards / "x.npy")
            assert tokens.shape == (length, 8)
            assert np.array_equal(tokens, arrays["text"][row, :length])
    assert {length for length in arrays["text_length"] if length} == {4, 5}  # begin, a word, digits, end
    assert {length for length in arrays["image_length"] if length} == {5}  # the class token, four patches
    assert list(arrays["suit"]) == table["suit"]


@pytest.mark.slow
def test_tokens_are_a_sequence_to_train_on(cards: Path) -> None:
    run("locked.yaml", "--with", "locked.yaml", "--out", "train.parquet", "--tokens")
    more = ("data.fields.image={kind: sequence, from: image, at_most: 5}", "model.encoders.image=sequence")
    assert len(losses("features.yaml", *more)) == 7


@pytest.mark.slow
def test_a_run_gives_the_features_of_its_own_weights(cards: Path) -> None:
    train(load_recipe("locked.yaml"), Path("run"), say=lambda _: None, console=False)
    said = run("locked.yaml", "--with", "run", "--out", "a.parquet", "--set", "validation=null", "--field", "text")
    assert said["embedded_by"] != run("locked.yaml", "--with", "locked.yaml", "--out", "b.parquet")["embedded_by"]
    model = workbench.load("run")
    rows = [row for row in pq.read_table("a.parquet").to_pylist() if row["text"]]
    texts = {f"n{n}": f"suit {n % 4}" if n % 3 else f"card {n}" for n in range(35)}
    z = model.model.heads["text"](torch.tensor([row["text"] for row in rows])).detach()
    expected = model.encode({"text": [texts[row["id"]] for row in rows]}, ["text"])["text"]
    torch.testing.assert_close(torch.nn.functional.normalize(z, dim=-1), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_shared_space_of_a_run_is_what_it_encodes(cards: Path) -> None:
    train(load_recipe("locked.yaml"), Path("run"), say=lambda _: None, console=False)
    said = run("locked.yaml", "--with", "run", "--out", "a.parquet", "--shared")
    pooled = run("locked.yaml", "--with", "run", "--out", "b.parquet")
    assert said["embedded_by"] != pooled["embedded_by"]
    model = workbench.load("run")
    rows = {row["id"]: row for row in pq.read_table("a.parquet").to_pylist() if row["image"]}
    files = [f"cards/{name[1:]}.png" for name in rows]
    expected = model.encode({"image": files}, ["image"])["image"]
    found = torch.tensor([row["image"] for row in rows.values()])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert "name one of the two" in run(
        "locked.yaml", "--with", "run", "--out", "c.npz", "--shared", "--tokens", status=2
    )
    alone = run("locked.yaml", "--with", "{name: mlp, depth: 0}", "--dim", "8", "--out", "c.npz", "--shared", status=1)
    assert "--shared: the encoder of sensor ends in no shared space: name a run" in alone


@pytest.mark.slow
def test_files_of_others_are_refused_before_the_first_step(cards: Path) -> None:
    said = run("locked.yaml", "--with", "locked.yaml", "--out", "train.parquet")
    with pytest.raises(ValueError, match=f"comes from other encoders.*{said['embedded_by']}.*recipe says e0"):
        losses("features.yaml", "data.embedded_by=e0")
    with pytest.raises(ValueError, match=f"comes from other data.*{said['embedded_from']}.*recipe says d0"):
        losses("features.yaml", "data.embedded_from=d0")
    other = LOCKED.replace('"width": 32', '"width": 16')
    (cards / "other.yaml").write_text(other)
    held = run("locked.yaml", "--with", "other.yaml", "--split", "validation", "--out", "held.parquet")
    assert held["embedded_from"] == said["embedded_from"]
    with pytest.raises(ValueError, match=r"held.parquet and train.parquet come from different encoders"):
        losses("features.yaml", "data.validation=held.parquet")
    pq.write_table(pq.read_table("train.parquet").replace_schema_metadata(), "plain.parquet")
    with pytest.raises(ValueError, match="does not say who made it"):
        losses("features.yaml", "data.path=plain.parquet", f"data.embedded_by={said['embedded_by']}")
    metadata = {b"workbench.embed": b"[1]"}
    pq.write_table(pq.read_table("train.parquet").replace_schema_metadata(metadata), "odd.parquet")
    with pytest.raises(ValueError, match="embed it again"):
        losses("features.yaml", "data.path=odd.parquet")


@pytest.mark.slow
def test_weights_and_data_are_told_apart(cards: Path) -> None:
    first = run("locked.yaml", "--with", "locked.yaml", "--out", "a.parquet")
    (cards / "seeded.yaml").write_text(f"{LOCKED}\nseed: 1")
    assert run("locked.yaml", "--with", "seeded.yaml", "--out", "b.parquet")["embedded_by"] != first["embedded_by"]
    Image.new("RGB", (9, 9)).save(cards / "cards" / "0.png")
    Image.new("RGB", (9, 9)).save(cards / "cards" / "1.png")
    changed = run("locked.yaml", "--with", "locked.yaml", "--out", "c.parquet")
    assert changed["embedded_by"] == first["embedded_by"]
    assert changed["embedded_from"] != first["embedded_from"]
    assert "other encoders, data or settings" in run(
        "locked.yaml", "--with", "locked.yaml", "--out", "a.parquet", status=1
    )


def test_an_encoder_by_its_block(cards: Path) -> None:
    block = f"{{name: open_clip, config: {json.dumps(IMAGE)}}}"
    said = run("locked.yaml", "--with", block, "--out", "a.parquet", "--dim", "8", "--field", "image")
    assert said["fields"]["image"]["kind"] == "vector"
    assert len(pq.read_table("a.parquet").to_pylist()[0]["image"]) == 32
    run("locked.yaml", "--with", "{name: mlp, depth: 0}", "--out", "b.parquet")  # of the only field that it reads
    table = pq.read_table("b.parquet")
    assert table.column_names[:2] == ["id", "sensor"]
    metadata = [json.loads(line) for line in (cards / "cards" / "metadata.jsonl").read_text().splitlines()]
    readings = {row["name"]: row["readings"] for row in metadata}
    found = {row["id"]: row["sensor"] for row in table.to_pylist() if row["sensor"]}
    assert found == {id: np.float32(readings[id]).tolist() for id in found}


WRONG = [
    (["--out", "a.csv"], 1, r"--out a.csv: write a name that ends in .parquet or .npz"),
    (["--with", "open_clap"], 2, r"--with open_clap: no run folder, no recipe, and no encoder \(there are: audio"),
    (["--with", "{name: mlp, width: x}"], 2, r"--with: width"),
    (["--with", "{name: mlp"], 2, r"--with"),
    (["--with", "cards"], 1, r"cards is not a run folder"),
    (["--field", "smell"], 2, r"--field smell: the data has image, text, sensor"),
    (["--with", "mlp", "--tokens"], 1, r"--tokens: the encoder of sensor has none"),
    (["--with", "mlp", "--field", "image"], 2, r"encoder 'mlp': .*vectors, not image"),
    (["--split", "test"], 1, r"this data has no split 'test' \(there are: validation\)"),
    (["--with", "all.yaml"], 2, r"all.yaml trains all of its encoders \(image, text, sensor\).*lock: 0"),
    (["--field", "sensor", "--set", "fields.sensor.from=[readings, worth]"], 1, r"is vector 4, and .* reads vector 3"),
    (
        ["--field", "text", "--set", "fields.text={kind: vector, from: readings}"],
        1,
        r"field 'text' is vector 3, and its encoder reads text",
    ),
    (["--set", "labels.worth.from=suit"], 1, r"a label of .*row 0.* is no number: .*'s0'"),
    (["--set", "max_bad=0"], 1, r"1 bad samples among 28 .*7.png"),
    (["--set", "path=nothing"], 1, r"nothing"),
    (["--out", "locked.yaml/a.parquet"], 1, r"cannot write locked.yaml/a.parquet.parts"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "status", "said"), WRONG)
def test_one_message(cards: Path, words: list[str], status: int, said: str) -> None:
    message = run(
        "locked.yaml", "--with", "locked.yaml", "--out", "a.parquet", *words, status=status
    )  # the last counts
    assert re.search(said, message), message
    assert "Traceback" not in message
    assert not Path("a.parquet").exists()


def test_depth_0_hands_vectors_on() -> None:
    encoder = MLP(Modality("vector", (5,), measured=True), 3, depth=0)
    x = torch.randn(4, 5)
    assert torch.equal(encoder(x).pooled, x)
    assert (encoder.width, encoder.has_projection, encoder.needs_items) == (5, False, False)
    assert not list(encoder.parameters())
    assert MLP(Modality("vector", (5,)), 5, depth=0).has_projection


def test_depth_0_needs_a_head_where_widths_differ(cards: Path) -> None:
    columns = {"image": [[1.0] * 5] * 9, "text": ["a"] * 9, "sensor": [[1.0]] * 9, "id": [*"abcdefghi"]}
    pq.write_table(pa.table(columns), "train.parquet")
    with pytest.raises(RecipeError, match=r"image hands on 5 numbers, and model.dim is 8: set model.head=linear"):
        losses("features.yaml", "data.labels=null", "model.head=tower")
