"""How tests in tests/gpu choose their device, beside the fixture ``device`` there."""

import pytest

# For a test of what others test on the CPU already, so that there it is part of the campaign only
SLOW_ON_CPU = pytest.mark.parametrize("device", [pytest.param("on_cpu", marks=pytest.mark.slow), "on_cuda"], indirect=True)
