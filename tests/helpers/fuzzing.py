"""How tests draw random cases: the same ones in every run, others if MONAI_PROX_FUZZ_SEED gives a number."""

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st

CAMPAIGN = settings.get_profile("campaign").max_examples
SEED = os.environ.get("MONAI_PROX_FUZZ_SEED")

texts = st.one_of(st.text(max_size=6), st.sampled_from(["", "1", "../../x", "/etc", "largest", "prox", "a\0b", "\n"]))
numbers = st.one_of(
    st.sampled_from(
        [0, 1, -1, 2, 3, 7, 10**9, -(10**9), 10**17, 10**40, 10**400, 0.5, -0.5, 1.0, 1e308, float("inf"), float("nan")]
    ),
    st.integers(),
    st.floats(),
)
leaves = st.one_of(st.none(), st.booleans(), numbers, texts)
plain_data = st.recursive(
    leaves, lambda children: st.lists(children, max_size=4) | st.dictionaries(texts, children, max_size=4), max_leaves=8
)


def cases(count: int) -> Callable[[Any], Any]:
    """Decorates a test to run with ``count`` cases in a campaign, and with a twentieth of them otherwise."""
    given = settings(
        max_examples=count if settings.default.max_examples == CAMPAIGN else max(3, count // 20),
        derandomize=SEED is None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )

    def of(test: Any) -> Any:
        return given(test if SEED is None else seed(int(SEED))(test))

    return of
