"Damaged files are read rightly or refused by name; a thousand of a kind with `python tests/fuzz.py 1000`."
import faulthandler

import pytest

from fuzz import TARGETS, fuzz

USUAL = 300
# of the kinds that take longer
FILES = dict(card=200, weights=100, scene=60, index=200, sample=150, labels=200, item=60, one_of_two=40)

@pytest.mark.parametrize('target', TARGETS)
def test_damaged_files(target):
    faulthandler.dump_traceback_later(300)  # says where, should one never come back
    n = FILES.get(target, USUAL)
    try: counts, wrong, slowest, memory = fuzz(target, n)
    finally: faulthandler.cancel_dump_traceback_later()
    assert not wrong, '\n'.join(wrong)
    if target=='one_of_two': assert counts['read']==n
    else: assert .05*n<counts['read']<.8*n, counts  # the damage is neither trivial nor total
    assert memory<1000
