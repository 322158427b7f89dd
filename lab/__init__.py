"""Two real OpenStack sites on one Debian machine: where antipode is developed, tested and shown."""
