"""The W&B mirror, and what is shown on the console."""
