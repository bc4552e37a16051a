"""Runs the Python blocks of pages with the sgdl_wrap that is installed, as a newcomer would.

Usage: python .ci/blocks.py PAGE...; each page by itself, in a folder of its own. The tests run them
from the working tree; this is for the wheel in an empty environment.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

for page in [Path(name).resolve() for name in sys.argv[1:]]:
    blocks = re.findall(
        r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    if not blocks:
        sys.exit(f"{page.name}: no code")
    names = {"__name__": page.name}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for block in blocks:
            exec(compile(block, page.name, "exec"), names)
        os.chdir(page.parent)
    print(f"{page.name}: {len(blocks)} blocks run")
