"""Tests. What all of their processes need to have in their environment is set here, before anything is imported."""

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # a forked child would wait for threads that only its parent has
os.environ.setdefault("PYTHONHASHSEED", "0")  # so that commands that run models need not start again with it
