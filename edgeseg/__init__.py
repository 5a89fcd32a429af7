"""edgeseg: a FLAIR-abnormality network for brain MRI, from PyTorch to the machine beside the scanner.

Non-commercial research use only. Not a medical device.
"""

__version__ = "0.1.0"
