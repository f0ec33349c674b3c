"""Figures say in words what they show, and carry the words in their files."""

import random

import pandas as pd
import pytest
from PIL import Image

from cocoift.core.images import png_texts
from cocoift.report import figures, study_figures
from cocoift.sources.instances import Instance


def test_the_alternative_text_is_made_of_the_words_on_the_figure(tmp_path):
    panels = pd.DataFrame({"panel": ["source 1", "source 2"] * 3, "words": [1, 1, 2, 2, 40, 40]})
    figure = study_figures.lengths(
        panels, panels=["source 1", "source 2"], title="How long <they> are"
    )
    page = figures.show(figure, tmp_path / "lengths.png").data
    title, alt = png_texts(tmp_path / "lengths.png")
    assert title == "How long <they> are"
    assert alt == (
        "How long <they> are. Panels: source 1; source 2. Horizontal axis: words in the answer, "
        "log scale. Vertical axis: share of answers (%)"
    )
    assert 'alt="How long &lt;they&gt; are. Panels: source 1; source 2.' in page


def test_series_are_named_and_a_figure_without_words_of_its_own_is_called_as_its_file(tmp_path):
    shares = pd.DataFrame({"kept": [0.6], "dropped": [0.4]}, index=["VQAv2"])
    figure = figures.stacked_shares(shares, title="Kept", xlabel="share (%)")
    assert figures.alt_text(figure).endswith("Series: kept; dropped")
    figure.savefig(tmp_path / "merge_drops.png")
    assert png_texts(tmp_path / "merge_drops.png") == ("merge drops", "merge drops")


def instances(*found):
    return [(Instance(1, 1, bbox=box, iscrowd=crowd), name)
            for name, box, crowd in found]  # fmt: skip


@pytest.fixture
def photographs(tmp_path):
    """Three pictures: one of two things, one of a crowd, one of forty things at its edges."""
    rng = random.Random(0)
    many = [("traffic light", (rng.uniform(0, 630), rng.uniform(0, 470), 9, 9), 0)
            for _ in range(40)]  # fmt: skip
    found = {1: instances(("person", (0, 0, 90, 90), 1)), 2: instances(*many),
             7: instances(("cup", (5, 5, 80, 80), 0), ("kite", (600, 440, 39, 39), 0))}  # fmt: skip
    for image_id in found:
        Image.new("RGB", (640, 480)).save(tmp_path / f"{image_id:012d}.jpg")
    return found, tmp_path


def test_pictures_whose_boxes_can_be_told_apart_come_first_and_crowds_last(photographs):
    chosen = study_figures.sample_images(*photographs, count=5)
    assert [caption for _, caption, _ in chosen] == ["image 7", "image 2", "image 1"]


def test_no_name_of_a_box_leaves_its_picture_or_covers_another(photographs, tmp_path):
    chosen = study_figures.sample_images(*photographs, count=5)
    figure = study_figures.image_grid(chosen, title="Boxes")
    figures.show(figure, tmp_path / "boxes.png")
    assert figure.get_suptitle() == "Boxes (dotted: a crowd)"
    assert "image 2: traffic light × 40" in figures.alt_text(figure)
    figure.set_dpi(110)  # as the file is drawn
    figure.draw_without_rendering()
    for ax, least in zip(figure.axes, (2, 15, 1), strict=False):
        boxes = [text.get_bbox_patch().get_window_extent() for text in ax.texts]
        assert len(boxes) >= least
        for number, box in enumerate(boxes):
            assert ax.bbox.padded(1).contains(box.x0, box.y0)
            assert ax.bbox.padded(1).contains(box.x1, box.y1)
            assert not any(box.padded(-1).overlaps(other) for other in boxes[:number])


def answers(model, protocol, count=3):
    rows = {"model": model, "protocol": protocol, "words": range(1, count + 1)}
    return pd.DataFrame(rows).assign(panel=f"{model}: {protocol}")


def test_panels_of_which_most_lack_answers_are_left_out_and_the_rest_moves_up():
    names = [f"m{n}" for n in range(5)]
    table = pd.concat([answers(name, f"p{name}") for name in names])
    panels = [f"{model}: p{of}" for model in names for of in names]
    figure = study_figures.lengths(table, title="Lengths", panels=panels, columns=5)
    assert [ax.get_title(loc="left") for ax in figure.axes if ax.axison] == [
        f"{name}: p{name}" for name in names
    ]
    assert figure.axes[0].get_gridspec().ncols == 4 and len(figure.axes) == 5


def test_one_panel_without_answers_leaves_a_row_to_each_model():
    asked = [("base", "alone"), ("mix", "alone"), ("mix", "training"), ("merged", "alone"),
             ("merged", "training")]  # fmt: skip
    table = pd.concat([answers(*pair) for pair in asked])
    panels = [f"{name}: {protocol}" for name in ("base", "mix", "merged")
              for protocol in ("training", "alone")]  # fmt: skip
    figure = study_figures.lengths(table, title="Lengths", panels=panels, columns=2)
    assert [ax.axison for ax in figure.axes] == [False, *[True] * 5]
    assert figure.axes[1].get_title(loc="left") == "base: alone"


def levels(metric, rows):
    """Levels of one model in one setting: seed, value, low, high."""
    table = pd.DataFrame(rows, columns=["seed", "value", "low", "high"])
    return table.assign(metric=metric, setting="s", model="mix")


@pytest.mark.parametrize("joined", [False, True])
def test_no_interval_or_seed_of_a_figure_lies_off_its_axes(joined):
    shares = levels("total", [("all", 99, 96, 104), ("0", 100, 98, 100), ("1", 0, 0, 1)])
    gains = levels("change", [("all", 20, 10, 30), ("0", 44, 40, 48), ("1", -40, -50, -30)])
    panels = {"total": "score (%)", "change": "points"}
    figure = figures.interval_plot(pd.concat([shares, gains]), panels=panels,
                                   series={"mix": "m"}, title="t", joined=joined)  # fmt: skip
    ends = [ax.get_ylim() if joined else ax.get_xlim() for ax in figure.axes]
    assert ends[0][0] < 0 and ends[0][1] > 104
    assert ends[1] == (-52.5, 52.5)


def test_dots_of_single_trainings_stand_clear_of_the_interval():
    table = levels("total", [("all", 50, 40, 60), ("0", 50, 45, 55)])
    look = {"panels": {"total": "score (%)"}, "series": {"mix": "m"}, "title": "t"}
    (ax,) = figures.interval_plot(table, **look).axes
    dots = next(line for line in ax.lines if line.get_marker() == ".")
    mark = next(line for line in ax.lines if line.get_marker() == "o")
    assert 0.05 < dots.get_ydata()[0] - mark.get_ydata()[0] < 0.2


@pytest.mark.parametrize(("count", "rows", "columns"), [(8, 2, 4), (5, 2, 4), (3, 1, 3)])
def test_a_panel_a_model_makes_rows_of_four(count, rows, columns):
    names = {f"m{n}": f"model {n}" for n in range(count)}
    table = pd.concat([answers(name, "alone") for name in names])
    figure = study_figures.length_curves(table, models=names, protocols={"alone": "alone"})
    margins = table.assign(margin=table.words)
    other = study_figures.margin_histograms(margins, models=names, protocols={"alone": "alone"})
    for drawn in (figure, other):
        grid = drawn.axes[0].get_gridspec()
        assert (grid.nrows, grid.ncols) == (rows, columns)
        assert sum(ax.axison for ax in drawn.axes) == count


def test_the_legend_names_the_protocols_that_only_some_models_have():
    rows = [("a", "alone", 3), ("a", "after", 1), ("b", "alone", 8)]
    answers = pd.DataFrame(rows, columns=["model", "protocol", "words"])
    both = {"after": "after a short-answer round", "alone": "single-round"}
    figure = study_figures.length_curves(answers, models={"a": "A", "b": "B"}, protocols=both)
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(named) == sorted(both.values())
