# SPDX-License-Identifier: Apache-2.0
"""One function per operator's intent; the command line and the API call these and nothing below."""
