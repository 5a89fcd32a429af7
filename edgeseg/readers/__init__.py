"""Files -> `Study`: find what a path holds, and read one study of it, by rules or by what a user names.

::

    for files in find_studies(path):
        study = read_study(files)

SimpleITK and pydicom are imported when a study is read, not with this package.
"""

import logging

from edgeseg.readers.choice import AUTOMATIC, NONE, Selection
from edgeseg.readers.discovery import StudyFiles, find_studies, read_study
from edgeseg.readers.rules import Rules
from edgeseg.readers.rules import load as load_rules

__all__ = ["AUTOMATIC", "NONE", "Rules", "Selection", "StudyFiles", "find_studies", "load_rules", "read_study"]

logging.getLogger("pydicom").propagate = False
"""pydicom's remarks quote files' names and values, so no log may have them: edgeseg's errors say what matters."""
