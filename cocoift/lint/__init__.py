"""Does instruction data teach a model to stay short?  For anybody's data, before any training."""
