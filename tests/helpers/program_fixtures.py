"""A plugin: a module whose tests take ``programs`` says ``pytest_plugins = ["helpers.program_fixtures"]``."""

from collections.abc import Iterator

import pytest

from helpers.programs import Programs, serving


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    """Runs commands whose own commands are forked, too, see helpers/programs.py."""
    with serving() as made:
        yield made
