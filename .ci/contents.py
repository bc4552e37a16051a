"""Refuses a wheel or source distribution that lacks what users need or carries what they do not."""

import sys
import tarfile
import zipfile
from pathlib import PurePosixPath

path = sys.argv[1]
if path.endswith(".whl"):
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
    allowed = ("sgdl_wrap/", "sgdl_wrap-")
    needed = ("sgdl_wrap/py.typed", "sgdl_wrap/denoiser.py")
else:
    with tarfile.open(path) as archive:  # all lies in one folder
        names = [name.partition("/")[2] for name in archive.getnames()]
    allowed = ("sgdl_wrap/", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff",
               "pyproject.toml", "PKG-INFO", ".gitignore")  # fmt: skip
    needed = ("sgdl_wrap/py.typed", "README.md", "CITATION.cff")
foreign = [name for name in names if name and not name.startswith(allowed)]
foreign += [n for n in names if PurePosixPath(n).suffix in (".pyc", ".tsv", ".csv", ".pt")]
missing = [name for name in needed if name not in names]
if foreign or missing:
    sys.exit(f"{path}: does not belong there: {foreign}; missing: {missing}")
print(f"{path.rpartition('/')[2]}: {len(names)} files, all of them meant")
