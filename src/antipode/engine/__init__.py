# SPDX-License-Identifier: Apache-2.0
"""Runs: what protects and recovers is started, kept and watched here; all that is TaskFlow is in
this package.
"""
