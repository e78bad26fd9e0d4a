"""What becomes of raw items, gaps, ids and labels: small files, and numbers that can be told by hand."""

import csv
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from workbench.errors import RecipeError
from workbench.studies.synergy.plain_numbers import BANDS, CELLS, DIRECTIONS, of_picture, of_sequence, of_sound, of_text
from workbench.studies.synergy.samples import MOST_CLASSES, Numbers, _as_numbers, is_task, read


def test_a_picture_is_its_edges_and_its_colours() -> None:
    picture = Image.new("RGB", (128, 128), (255, 0, 0))
    picture.paste((255, 255, 255), (64, 0, 128, 128))  # one edge, from left to right, in the middle
    found = of_picture(picture)
    edges, colours = found[: DIRECTIONS * CELLS**2].view(DIRECTIONS, -1), found[DIRECTIONS * CELLS**2 :]
    assert colours.view(3, CELLS, CELLS)[0].min() == 1  # red everywhere
    assert colours.view(3, CELLS, CELLS)[1, :, 0].max() == 0  # green only on the right
    assert (edges.sum(1) > 0).tolist() == [direction == DIRECTIONS // 2 for direction in range(DIRECTIONS)]
    assert of_picture(picture.resize((32, 32))).shape == found.shape


def test_texts_with_common_letters_are_near_and_all_are_as_long() -> None:
    a, b, c = (of_text(text) for text in ("a red fox", "red foxes", "submarine"))
    assert torch.cosine_similarity(a, b, dim=0) > 0.4 > torch.cosine_similarity(a, c, dim=0)
    assert float(a.norm()) == pytest.approx(math.sqrt(len(a)))


def test_a_tone_fills_its_band_at_any_rate() -> None:
    loud = []
    for rate in (16000, 44100):
        tone = torch.sin(2 * math.pi * 1000 * torch.arange(rate // 2) / rate)
        found = of_sound((tone, rate))
        loud.append(int(found[:BANDS].argmax()))
        assert float(found[-1]) == pytest.approx(math.log(0.5), abs=1e-3)
    edges = torch.logspace(math.log10(50), math.log10(8000), BANDS + 1)
    assert all(edges[band] <= 1100 and edges[band + 1] >= 900 for band in loud)
    assert of_sound((torch.zeros(1), 16000)).isfinite().all()


def test_a_sequence_is_mean_spread_and_length_of_its_frames() -> None:
    frames = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    assert of_sequence(frames).tolist() == pytest.approx([2, 2, 1, 0, math.log(2)])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Twelve rows of two readings and a sentence: row 3 lacks its sentence, row 5 has a reading that is none."""
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["who", "left", "right", "said", "kind", "tags", "size"])
        for row in range(12):
            left = "nan" if row == 5 else f"[{row}, 1]"
            said = "" if row == 3 else f"sentence {row}"
            writer.writerow([row // 2, left, f"[{row}]", said, "odd" if row % 2 else "even", '["x"]', row or ""])
    return path


FIELDS = "fields={left: {kind: vector}, right: {kind: vector}, said: {kind: text}}"
LABELS = "labels={kind: kind, tags: {from: tags, many: true}, size: {from: size, number: true}}"


def read_table(table: Path, *targets: str, **options: object) -> Numbers:
    settings = (FIELDS, LABELS, "id=who", "max_bad=3")
    return read(str(table), settings=settings, targets=targets, **options)  # type: ignore[arg-type]


def test_gaps_are_kept_bad_rows_counted_and_equal_ids_are_equal(table: Path) -> None:
    found = read_table(table)
    assert len(found.ids) == 11
    assert [bad.name for bad in found.bad] == ["rows.csv: row 6"] or len(found.bad) == 1
    assert found.present["said"].tolist() == [True] * 3 + [False] + [True] * 7
    assert found.inputs["said"][3].abs().sum() == 0
    assert found.complete(("left", "said")).tolist() == [0, 1, 2, *range(4, 11)]
    same = found.ids[:, None] == found.ids
    assert same.sum() == 5 * 4 + 1  # pairs of rows, and the partner of the bad one
    assert found.measured == {"left", "right"}
    assert found.others == ("kind", "tags", "size")


def test_labels_are_read_when_they_are_targets_as_numbers(table: Path) -> None:
    found = read_table(table, "kind", "size", "left")
    assert found.labels == ("kind", "size")
    assert found.fields == ("left", "right", "said")
    assert found.inputs["kind"][:3].tolist() == [[1, 0], [0, 1], [1, 0]]
    assert not found.present["size"][0]  # the first row has none
    assert found.inputs["size"][1:3].tolist() == [[1], [2]]
    assert "size" in found.measured


def test_some_rows_by_the_seed_and_some_fields(table: Path) -> None:
    one, same, other = (read_table(table, samples=6, seed=seed, fields=("left", "said")) for seed in (1, 1, 2))
    assert torch.equal(one.inputs["left"], same.inputs["left"])
    assert not torch.equal(one.inputs["left"], other.inputs["left"])
    assert list(one.inputs) == ["left", "said"]


def test_what_is_no_field_and_no_label_is_said(table: Path) -> None:
    with pytest.raises(RecipeError, match="no field 'lefd'; did you mean 'left'"):
        read_table(table, fields=("lefd",))
    with pytest.raises(RecipeError, match="no field 'kid'; did you mean 'kind'"):
        read_table(table, "kid")


def test_a_label_of_very_many_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=f"1,001 classes, more than {MOST_CLASSES}"):
        _as_numbers("name", [str(number) for number in range(1001)])


def test_a_task_has_what_it_never_shows_as_a_label() -> None:
    found = read("latent-synergy", settings=("bits=2",), samples=50)
    assert (found.fields, found.labels) == (("a", "b"), ("y",))
    bits = found.inputs["a"].long() ^ found.inputs["b"].long()
    assert torch.equal(found.inputs["y"].argmax(1), bits[:, 0] + 2 * bits[:, 1])


def test_a_mistake_in_the_settings_of_a_task_is_one_message() -> None:
    with pytest.raises(RecipeError, match="--set bits: "):
        read("xor", settings=("bits=many",))


def test_a_file_of_a_tasks_name_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_task("xor")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "xor").mkdir()
    assert not is_task("xor")
