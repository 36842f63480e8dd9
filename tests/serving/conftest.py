"""One server for all tests, its model, and a client."""

import openai
import pytest

from tests.support import random_monkey
from tests.support.serving import serving


@pytest.fixture(scope="package")
def served_monkey():
    monkey = random_monkey.make_monkey()
    monkey.model.eval()
    return monkey


@pytest.fixture(scope="package")
def server(served_monkey):
    with serving(served_monkey) as (address, engine):
        yield address, engine


@pytest.fixture(scope="package")
def client(server):
    address, _ = server
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client
