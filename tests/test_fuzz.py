"Damaged files are read rightly or refused by name; a thousand of a kind with `python tests/fuzz.py 1000`."
import faulthandler
import pytest

from fuzz import TARGETS, fuzz

@pytest.mark.parametrize('target', TARGETS)
def test_damaged_files(target):
    faulthandler.enable()
    counts, wrong, slowest, memory = fuzz(target, 200)
    assert not wrong, '\n'.join(wrong)
    assert counts['read']>5 and counts.total()-counts['read']>50, counts  # the damage is neither trivial nor total
    assert memory<1000
