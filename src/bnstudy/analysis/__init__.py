"""From tables to verdicts: frames, statistics, claims, figures, report."""
