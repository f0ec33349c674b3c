"""A small synthetic COCO: drawn scenes with exact ground truth, written in upstream formats."""
