# SPDX-License-Identifier: Apache-2.0
"""The REST API over `operations`, with the conventions of an OpenStack service."""
