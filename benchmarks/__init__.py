"""What the fleet does in figures, each beside its limit of the same run."""
