"""Figures show what they were given."""

import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.colors import same_color
from matplotlib.patches import Rectangle
from PIL import Image

from workbench.figures import embeddings
from workbench.figures.embeddings import RIGHT, WRONG, Answer


def test_a_heat_map_holds_the_scores_and_labels_every_row_and_column() -> None:
    scores = np.random.default_rng().normal(size=(5, 7))
    rows, columns = [f"row {i}" for i in range(5)], [f"column {i}" for i in range(7)]
    figure = embeddings.heat_map(scores, rows, columns, "what it is")
    axes, ruler = figure.axes
    (picture,) = axes.images
    np.testing.assert_array_equal(picture.get_array(), scores)
    assert [t.get_text() for t in axes.texts] == rows + columns
    assert [t.get_text() for t in figure.texts] == ["what it is"]
    assert ruler.get_title() == "score"
    drawn = embeddings.pixels(figure)
    assert drawn.dtype == np.uint8
    assert drawn.shape[2] == 3
    assert len(np.unique(drawn.astype(int) @ [65536, 256, 1])) > 35  # a colour for each cell


def test_right_answers_are_green_and_wrong_ones_are_not() -> None:
    correct = np.random.default_rng().random((4, 3)) < 0.5
    names = [[f"answer {i}{j}" for j in range(3)] for i in range(4)]
    image = Image.new("RGB", (8, 6))
    answers = [
        [Answer(n, 0.5, bool(c)) for n, c in zip(*line, strict=True)] for line in zip(names, correct, strict=True)
    ]
    figure = embeddings.retrieved_texts([(image, f"query {i}") for i in range(4)], answers, "title")
    (axes,) = figure.axes
    colour_of = {t.get_text(): t.get_color() for t in axes.texts}
    assert len(axes.images) == 4
    for line, flags in zip(names, correct, strict=True):
        assert [colour_of[name] for name in line] == [RIGHT if flag else WRONG for flag in flags]

    answers = [[Answer(image, 0.5, bool(flag)) for flag in flags] for flags in correct]
    figure = embeddings.retrieved_images([f"query {i}" for i in range(4)], answers, "title")
    (axes,) = figure.axes
    frames = [p for p in axes.patches if isinstance(p, Rectangle)]
    assert len(axes.images) == len(frames) == 12
    assert [same_color(frame.get_edgecolor(), RIGHT) for frame in frames] == correct.flatten().tolist()


@pytest.mark.parametrize("size", [(100, 30), (30, 100), (8, 8)])
def test_a_thumbnail_keeps_the_proportions(size: tuple[int, int]) -> None:
    tile = embeddings.thumbnail(Image.new("RGB", size, "red"), 40)
    assert tile.shape == (3, 40, 40)
    red = (tile[0] == 1) & (tile[1] == 0)
    shrink = min(1, 40 / max(size))
    assert red.sum() == pytest.approx(size[0] * size[1] * shrink**2, abs=1)
    assert (tile[:, ~red] == 1).all()


def test_a_text_is_a_thumbnail_too_and_letters_without_a_glyph_are_no_warning() -> None:
    assert embeddings.thumbnail("a very long text about a red square, and more of it", 48).min() < 0.5
    embeddings.pixels(embeddings.heat_map(np.eye(2), ["赤い", "四角"], ["赤い", "四角"], "日本語"))


def test_short() -> None:
    assert embeddings.short("one\ntwo", 10) == "one two"
    assert embeddings.short("abcdef", 4) == "abc…"


def test_no_figure_is_kept_alive_by_pyplot() -> None:
    embeddings.pixels(embeddings.heat_map(np.eye(2), "ab", "cd", "title"))
    assert not Gcf.figs


def test_dollars_are_dollars() -> None:
    image = Image.new("RGB", (20, 30), "red")
    text = "from $5 to $\\frac{ a piece"  # a formula for matplotlib, and a broken one
    for figure in (
        embeddings.contact_sheet([(image, "20 x 30", [text, text])], text),
        embeddings.retrieved_images([text], [[embeddings.Answer(image, 0.5, True)]], text),
        embeddings.retrieved_texts([(image, text)], [[embeddings.Answer(text, 0.5, True)]], text),
        embeddings.heat_map(np.zeros((1, 1)), [text], [text], "scores"),
    ):
        assert embeddings.pixels(figure).std() > 10
