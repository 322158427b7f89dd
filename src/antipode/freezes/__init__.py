"""Unquiescing whatever is past its deadline: primitives, ledger and reaper."""
