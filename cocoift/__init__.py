"""COCO instruction fine-tuning: merge annotations, tune LLaVA, measure multi-round bias.

The study of arXiv 2401.08968 as notebooks over a small package.  Data flows one way: annotation
files -> turns -> records -> training samples -> model -> dialogs -> verdicts -> tables -> figures.
"""

import logging
import os

# OpenMP reads it when torch is loaded: threads that wait soon leave their core to other programs
# (at once: twice the time).
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

# Imported by peft on some processors, bitsandbytes advises to fetch kernels from a hub: noise in
# every notebook, and there may be no hub.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"
