# SPDX-License-Identifier: Apache-2.0
"""Neutron of an embedded site, a module for each thing that its API is about."""
