# SPDX-License-Identifier: Apache-2.0
"""The web console: pages over `operations/`, rendered here, that load nothing from elsewhere."""
