# SPDX-License-Identifier: Apache-2.0
"""A client of the REST API of antipode, and the commands `openstack dr …`."""

__version__ = "1.0.0"
