"""What callers do wrong most often is named, before anything is compiled, with what to do."""

import json
import re
import subprocess
import sys

import pytest
import slips


@pytest.fixture(scope="module")
def messages():
    """The message that each slip gets, without the type checks that tests have."""
    result = subprocess.run([sys.executable, slips.__file__], check=True, capture_output=True, text=True)
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", slips.CASES)
def test_a_slip_is_named(messages, name):
    assert re.search(slips.CASES[name][1], messages[name]), messages[name]
