# SPDX-License-Identifier: Apache-2.0
"""Embedded sites: small servers that speak the OpenStack APIs antipode uses, with real bytes behind
them, for trying, training and tests.

Nothing else of antipode imports this package; antipode reaches these sites through clouds.yaml, as
it reaches any other.
"""
