"""The long-running service: conductor, reapers and clean-up."""
