"""One function per operator's intent; the command line and the API call these and nothing below."""
