"""What `import sgdl_wrap` costs beyond torch, in ms of processor time: the best of fresh processes.

Usage: python .ci/import_time.py [limit in ms]; above the limit it fails. Run it with the Python
that the wheel is installed in. `python -X importtime -c "import torch, sgdl_wrap"` says where it
goes, in wall time.
"""

import os
import subprocess
import sys

RUNS = 7
SCRIPT = """
import time, torch
start = time.process_time()
import sgdl_wrap
print(1000 * (time.process_time() - start))
"""
environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
times = []
for _ in range(RUNS):  # the first may compile
    command = [sys.executable, "-c", SCRIPT]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    times.append(float(told.stdout))
best, every = min(times), ", ".join(f"{t:.0f}" for t in times)
print(f"import sgdl_wrap: {best:.1f} ms beyond torch (of {RUNS} runs: {every})")
if len(sys.argv) > 1 and best > float(sys.argv[1]):
    sys.exit(f"Expected at most {sys.argv[1]} ms. See -X importtime for what takes them.")
