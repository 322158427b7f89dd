# SPDX-License-Identifier: Apache-2.0
"""What an operator is shown of a change before it is confirmed: as a record for programs, and in
words, a line each. The command line, the REST API and the console show the same.
"""
