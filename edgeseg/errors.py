"""Every error that edgeseg raises on purpose, and the exit code that each one means.

::

    EdgesegError                    1   something went wrong that has no better name
    ├── InputError                  2   a study, file, folder or configuration that cannot be used
    │   ├── StudyError              2   the images: unreadable, incomplete, or not what is needed
    │   ├── ConfigError             2   a field of a training configuration, or of a file of rules
    │   └── OutputError             2   the place where results should go
    ├── PartialFailure              3   some of several studies failed, the others are done
    ├── BackendMissing              4   a runtime or an extra is not installed
    ├── EngineError                 5   an engine is damaged, foreign, or cannot be built
    └── ParityError                 6   parity failed, or was never verified

A message is one sentence or two: what was found, what was expected, and how to mend it. It may stand in any log: of a
DICOM study it names neither folder nor file, which may have the patient's name; ``identified`` says the same and does.
"""


class EdgesegError(Exception):
    """Base of all errors that edgeseg raises on purpose.

    Parameters
    ----------
    message
        What any log may hold.
    identified
        The same with the folder or the file; None where the message leaves nothing out.
    """

    exit_code = 1

    def __init__(self, message: str = "", identified: str | None = None) -> None:
        super().__init__(message)
        self.identified = message if identified is None else identified

    def reveal(self) -> None:
        """Name folders and files from here on: the user asked for it."""
        self.args = (self.identified,)


class InputError(EdgesegError):
    """An input that cannot be used as it is."""

    exit_code = 2


class StudyError(InputError):
    """Images that are unreadable, incomplete, or not the sequences that are needed."""


class ConfigError(InputError):
    """A training configuration, or a file of rules, with a field or a value that is not supported."""


class OutputError(InputError):
    """A place that results cannot be written to."""


class PartialFailure(EdgesegError):
    """Some of several studies failed; the others are done."""

    exit_code = 3


class BackendMissing(EdgesegError):
    """A runtime, or an optional part of edgeseg, is not installed."""

    exit_code = 4


class EngineError(EdgesegError):
    """An engine that is damaged, of unknown origin, or cannot be built."""

    exit_code = 5


class ParityError(EdgesegError):
    """An engine whose masks are not those of the PyTorch model, or were never compared with them."""

    exit_code = 6
