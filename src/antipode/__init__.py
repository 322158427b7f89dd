# SPDX-License-Identifier: Apache-2.0
"""antipode: geo-site disaster recovery for VNFs on OpenStack."""

__version__ = "0.1.0"
