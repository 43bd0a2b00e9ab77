"""Errors that are meant for the person at the terminal."""


class InputError(Exception):
    """Bad input: one line for the person; the commands print it and exit with 2."""
