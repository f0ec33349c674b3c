"""Figures say in words what they show, and carry the words in their files."""

import pandas as pd

from cocoift.core.images import png_texts
from cocoift.report import figures


def test_the_alternative_text_is_made_of_the_words_on_the_figure(tmp_path):
    panels = {f"source {n}": pd.DataFrame({"words": [1, 2, 40]}) for n in (1, 2)}
    figure = figures.length_panels(panels, title="How long <they> are", columns=2)
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
