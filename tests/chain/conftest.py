import pytest

from tests.chain.chain import Run, run_recipe


@pytest.fixture(scope="session")
def mini(tmp_path_factory) -> Run:
    """One uninterrupted run of the mini recipe, shared by the tests that look at its results."""
    root = tmp_path_factory.mktemp("chain")
    return run_recipe(root / "run", root / "store")
