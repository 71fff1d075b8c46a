"""Errors that a user can mend.

A `UserError` carries one sentence that names the value or file at fault and says what to do. Commands print
that sentence alone. Every other exception is a defect of this package and keeps its stack trace.
"""

# Exit status of a command that met a defect of this package (EX_SOFTWARE of sysexits.h).
DEFECT_EXIT = 70


class UserError(ValueError):
    """Invalid input: a configuration value, an argument, a file or a data set."""


class MissingExtraError(UserError, ImportError):
    """A function needs an optional package; the message names the extra to install."""
