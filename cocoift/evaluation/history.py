"""What the history is worth: later answers of a dialog, predicted with it and without it.

Dropping the history at inference prevents a collapse that comes from it, but also removes whatever
a later question refers to.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pandas as pd

from cocoift.core.schema import Record, read_records
from cocoift.tuning.chat import Encoding
from cocoift.tuning.checkpoints import load_adapters, using
from cocoift.tuning.data import TrainingSet, later_rounds, samples
from cocoift.tuning.loss import sample_losses
from cocoift.tuning.model import dense, load_model, load_processor
from cocoift.tuning.recipe import Training


def history_sets(
    records: Iterable[Record], encoding: Encoding, forms: Mapping[str, str]
) -> tuple[TrainingSet, TrainingSet]:
    """Return the later answers of conversations, with their history and each without it.

    Conversations are records of two rounds or more that state no answer format; those that exceed
    the context are left out.  `forms` maps a source to its answer format.
    """
    dialogs = [
        record
        for record in records
        if len(record.sources) > 1 and {forms.get(name) for name in record.sources} == {"free"}
    ]
    whole, too_long = samples(dialogs, encoding)
    cut = {report.record_id for report in too_long}
    kept = [
        replace(sample, spans=sample.spans[1:], sources=sample.sources[1:])
        for sample in whole
        if sample.record_id not in cut
    ]
    alone = [part for dialog in dialogs if dialog.id not in cut for part in later_rounds(dialog)]
    return TrainingSet(len(kept), kept, []), TrainingSet(len(alone), *samples(alone, encoding))


def history_worth(training: Training) -> pd.DataFrame:
    """Return a tuned model's loss on later answers about the training's images, a row per image.

    Columns: seed, image, tokens (of those answers), with_history, without (nats over all of them).
    No rows where there are no such answers.  Raises `DataError` when mixture or adapter are not
    there.
    """
    wanted, processor = set(training.images), load_processor(training.checkpoint)
    encoding = training.encoding(processor.tokenizer)
    records = (record for record in read_records(training.mixture) if record.image in wanted)
    sets = history_sets(records, encoding, training.forms)
    if not sets[1].samples:
        return pd.DataFrame(columns=["seed", "image", "tokens", "with_history", "without"])
    four_bit, device = training.recipe.four_bit, training.device
    model = load_model(training.checkpoint, four_bit=four_bit, device=device)
    tuned = load_adapters(dense(model) if device == "cpu" else model, {"mix": training.adapter})
    with using(tuned, "mix") as answering:
        whole, alone = (
            sample_losses(answering, processor, data, training=training).groupby("image").sum()
            for data in sets
        )
    found = whole.rename(columns={"loss": "with_history"}).assign(without=alone.loss)
    return found.reset_index().assign(seed=training.seed)
