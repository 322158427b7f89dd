# SPDX-License-Identifier: Apache-2.0
"""The canary's guest: an image built from Debian packages, and the program whose records it
keeps.
"""
