"Damaged files are read rightly or refused by name; a thousand of a kind with `python tests/fuzz.py 1000`."
import faulthandler
import pytest

from fuzz import TARGETS, fuzz

@pytest.mark.parametrize('target', TARGETS)
def test_damaged_files(target):
    faulthandler.dump_traceback_later(300)  # says where, should one never come back
    try: counts, wrong, slowest, memory = fuzz(target, 200)
    finally: faulthandler.cancel_dump_traceback_later()
    assert not wrong, '\n'.join(wrong)
    if target=='one_of_two': assert counts['read']==200
    else: assert counts['read']>5 and counts['read']<150, counts  # the damage is neither trivial nor total
    assert memory<1000
