"""What stage one of an assembled base gave: notebook 00's sentence about it."""

import pandas as pd

from cocoift.core.resampling import ratio


def alignment_sentence(losses: pd.DataFrame, *, resamples: int = 2_000) -> str:
    """Return how much likelier held-out captions are with the right image than with another.

    `losses` are those of `tuning.loss.picture_losses`.  If the 95 % interval reaches 0, the
    sentence says that the base does not see.
    """
    if len(losses) < 2:
        return "Whether the base sees was not measured: that takes two held-out images."
    difference = losses.other - losses.shown
    gain, low, high = ratio(losses.image, difference, losses.shown.notna(), resamples=resamples)
    found = (
        f"About {len(losses)} held-out images, stage one's answers are {gain:.2f} "
        f"[{low:.2f}, {high:.2f}] nats per token likelier with the right image than with "
        "another one."
    )
    if low > 0:
        return found
    return f"**The base does not see, so nothing that follows measures what it should.** {found}"
