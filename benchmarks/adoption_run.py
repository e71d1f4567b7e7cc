"""One run of ``benchmarks.adoption``."""

from benchmarks.adoption import run
from benchmarks.race import one_run

if __name__ == "__main__":
    one_run(run, __doc__)
