"""The most common mistakes of callers raise an error that says what to do, before anything is compiled."""

import json
import re
import subprocess
import sys

import pytest
import slips


@pytest.fixture(scope="module")
def messages():
    """Returns the message of each slip, without the type checks of the tests."""
    result = subprocess.run([sys.executable, slips.__file__], check=True, capture_output=True, text=True)
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", slips.CASES)
def test_a_slip_is_named(messages, name):
    assert re.search(slips.CASES[name][1], messages[name]), messages[name]
