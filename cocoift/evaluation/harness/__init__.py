"""The protocols as tasks of other evaluation harnesses, and what their logs say."""
