"""Files -> `Study`: find what a path holds, and read one study of it.

::

    for files in find_studies(path):
        study = read_study(files)

SimpleITK and pydicom are imported when a study is read, not with this package.
"""

import logging

from edgeseg.readers.discovery import StudyFiles, find_studies, read_study

__all__ = ["StudyFiles", "find_studies", "read_study"]

logging.getLogger("pydicom").propagate = False
"""pydicom's remarks quote files' names and values, so no log may have them: edgeseg's errors say what matters."""
