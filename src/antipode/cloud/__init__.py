# SPDX-License-Identifier: Apache-2.0
"""One OpenStack site as antipode needs it; knows nothing of VNFs."""
