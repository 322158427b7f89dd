"""The kinds of runs: one module each, with its request, flow, tasks and rollback."""
