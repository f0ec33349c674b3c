"""What notebook 04 says of its trainings."""

import pandas as pd

from cocoift.report.tables import LABELS
from cocoift.report.training import validation_sentence


def test_the_base_model_is_tuned_on_nothing():
    rows = [("base", "mix", 1.0, 9), ("mix", "mix", 2.0, 9), ("base", "merged", 2.0, 9),
            ("mix", "merged", 1.5, 9)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["model", "laid_out", "loss", "tokens"])
    assert validation_sentence(table, LABELS) == (
        "Held-out records are predicted best: laid out as the LLaVA-style mixture, by the base "
        "model (1.000 nats per token); laid out as the merged mixture, by the model tuned on the "
        "LLaVA-style mixture (1.500 nats per token)."
    )
