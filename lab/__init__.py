# SPDX-License-Identifier: Apache-2.0
"""Two real OpenStack sites on one Debian machine: where antipode is developed, tested and shown."""
