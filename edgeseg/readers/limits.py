"""How much a study may ask for: what is larger is refused before it is read, so that no file can fill the memory."""

LARGEST_FILE = 1 << 30
"""Bytes of a file. The largest volume below, of 32-bit voxels, has half as many."""
MOST_VOXELS = 1 << 27
"""Voxels of a file or a series: a 3D acquisition of 512 x 512 x 512."""
