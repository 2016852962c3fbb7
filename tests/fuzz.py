"""Damaged files of every kind that people copy around: each is read rightly, or refused with an error of ours.

`python tests/fuzz.py 1000` damages a thousand files of every kind and prints counts, `python tests/fuzz.py 600 card` those of one kind,
`python tests/fuzz.py card:17` the traceback of one file. Number 17 of a kind is damaged alike in every run."""
import copy, hashlib, json, pickle, resource, shutil, signal, struct, sys, tempfile, time, traceback, warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np, torch

from minec2f.bands import BandStats
from minec2f.bundle import CARD, WEIGHTS, load_bundle, save_bundle
from minec2f.core import MineC2FError
from minec2f.data import InputSpec
from minec2f.models import mine_model

# Damage

ODD = [None, True, False, 0, -1, 1, 3, 7.5, -1e-9, 1e308, 10**30, float('nan'), float('inf'), '', ' ', 'x', '0', 'nan', 'B04', '../../etc/passwd',
       '/dev/zero', 'http://127.0.0.1:9/', 'a\0b', 'a\nb', '<script>alert(1)</script>', '\ud800', 'Ω'*300, 'x'*10**6, [], {}, [[]], [None], {'': None}, [0]*1000]

def spoil_bytes(rng, data, head=2000):
    "Bits turned, parts cut off, taken out, put in, doubled or emptied; as a rule near the beginning, where files say what they are"
    data = bytearray(data)
    for _ in range(rng.choice([1,1,2,8])):
        n = max(1, len(data))
        at = min(n-1, rng.randrange(min(n, head)) if rng.random()<.7 else rng.randrange(n))
        size, kind = rng.choice([1,2,4,8,64,1000]), rng.randrange(8)
        if kind==0 and data: data[at] ^= 1<<rng.randrange(8)
        if kind==1: data[at:at+size] = rng.randbytes(len(data[at:at+size]))
        if kind==2 and rng.random()<.3: del data[at:]
        if kind==3: del data[at:at+size]
        if kind==4: data[at:at] = rng.randbytes(size)
        if kind==5: data[at:at] = data[at:at+size]
        if kind==6: data[at:at+size] = bytes(len(data[at:at+size]))
        if kind==7: data[at:at+size] = rng.choice([b'\xff', b'\x7f', b'"', b'[', b'9'])*len(data[at:at+size])
    return bytes(data)

def _nodes(page): # (holder, key) of everything in a page
    for k in (page if isinstance(page, dict) else range(len(page))):
        yield page, k
        if isinstance(page[k], (dict, list)): yield from _nodes(page[k])

def spoil_page(rng, page):
    "One to three values of a page of JSON replaced, taken out, added, reordered, nudged or put into each other"
    page = copy.deepcopy(page)
    for _ in range(rng.choice([1,1,1,2,3])):
        nodes = list(_nodes(page))
        if not nodes: break
        (part, k), (other, j), kind = rng.choice(nodes), rng.choice(nodes), rng.randrange(8)
        if kind<=1: part[k] = copy.deepcopy(rng.choice(ODD))
        if kind==2: del part[k]
        if kind==3 and isinstance(part, dict): part[rng.choice(['weights','extra','','bands','arch'])] = copy.deepcopy(rng.choice(ODD))
        if kind==4 and isinstance(part[k], list): rng.shuffle(part[k])
        if kind==5: part[k] = copy.deepcopy(other[j])
        if kind==6 and isinstance(part[k], (int,float)): part[k] = part[k]*rng.choice([-1, 0, 2, .5, 1e3, 1e-3, 1e9, 10**12])
        if kind==7: part[k] = [part[k]] if rng.random()<.5 else str(part[k])
    return page

def spoil_json(rng, text):
    "A page of JSON that is damaged as a page, as text, or nested without end"
    kind = rng.random()
    if kind<.75: return json.dumps(spoil_page(rng, json.loads(text))).encode()
    if kind<.97: return spoil_bytes(rng, text.encode(), len(text))
    return rng.choice([b'['*10**5, b'{"a":'*10**5, b'9'*10**6, b'', b'null', b'[]', text.encode('utf-16'), b'\xff'+text.encode()])

def spoil_safetensors(rng, data):
    "Weights whose head says something else, that hold no numbers, are a pickle, or are damaged as bytes"
    n, kind = struct.unpack('<Q', data[:8])[0], rng.random()
    head, body = data[8:8+n].decode(), data[8+n:]
    if kind<.4:
        head = spoil_json(rng, head)
        return struct.pack('<Q', len(head))+head+body
    if kind<.5:
        numbers = np.frombuffer(body[:len(body)//4*4], np.float32).copy()
        numbers[rng.randrange(len(numbers))] = rng.choice([np.nan, np.inf, -np.inf, 3e38])
        return data[:8+n]+numbers.tobytes()
    if kind<.55: return pickle.dumps(dict(a=Path('x')))
    if kind<.6: return struct.pack('<Q', rng.choice([0, 1, 2**31, 2**63, 2**64-1, n+1]))+data[8:]
    return spoil_bytes(rng, data, 8+n)

# What is damaged: a function of an empty folder gives (spoil, use), to be called in turn; `use` raises AssertionError where a file was read wrongly

def small_bundle(folder):
    "A bundle of less than 2 MB, and what it makes of some pixels"
    bands = ['B04','B03','B02','B08']
    rng = np.random.default_rng(0)
    spec = InputSpec(bands, BandStats(bands).add(rng.normal(.2, .05, (4,32,32))), size=64, res=10.)
    torch.manual_seed(0)
    model = mine_model(bands, encoder='tu-mobilenetv3_small_050', pyramid=32, segmentation=32)
    save_bundle(folder, SimpleNamespace(model=model, dls=SimpleNamespace(spec=spec)), seed=0)
    return load_bundle(folder)

DN = np.random.default_rng(1).integers(500, 4000, (4,64,64)).astype(np.uint16)
def _scores(bundle):
    with torch.inference_mode(): return bundle.model(torch.from_numpy(bundle.encode(DN[:len(bundle.bands)], np.ones((64,64), bool))[None]))

def _bundle(folder, spoil):
    good, bad = small_bundle(folder/'good'), folder/'bad'
    expected, page = _scores(good), json.loads((folder/'good'/CARD).read_text())
    bad.mkdir()
    for o in (CARD, WEIGHTS): shutil.copy(folder/'good'/o, bad/o)
    def use():
        bundle, now = load_bundle(bad), json.loads((bad/CARD).read_text(encoding='utf-8-sig'))
        scores = _scores(bundle)
        assert scores.isfinite().all() and scores.shape==(1, len(bundle.classes), 64, 64), 'scores'
        same = all(now[k]==page[k] for k in ('model','input','weights_sha256'))
        assert not same or torch.equal(scores, expected), 'other scores with the same page and weights'
        repr(bundle)
    return lambda rng: spoil(rng, folder/'good', bad), use

def card(folder):
    "bundle.json"
    return _bundle(folder, lambda rng, good, bad: (bad/CARD).write_bytes(spoil_json(rng, (good/CARD).read_text())))

def weights(folder):
    "model.safetensors, as a rule with the checksum that fits"
    def spoil(rng, good, bad):
        data, page = spoil_safetensors(rng, (good/WEIGHTS).read_bytes()), json.loads((good/CARD).read_text())
        if rng.random()<.85: page['weights_sha256'] = hashlib.sha256(data).hexdigest()
        (bad/WEIGHTS).write_bytes(data); (bad/CARD).write_text(json.dumps(page))
    return _bundle(folder, spoil)

TARGETS = dict(card=card, weights=weights)

# The run

class TooLong(BaseException): pass

@contextmanager
def time_limit(seconds):
    def stop(*_): raise TooLong
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

def peak_mb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**10

def _place(e): # The last of our own lines that it came through
    ours = [o for o in traceback.extract_tb(e.__traceback__) if 'minec2f' in Path(o.filename).parts]
    return f'{Path(ours[-1].filename).name}:{ours[-1].name}' if ours else '?'

def fuzz(
    target:str, # One of `TARGETS`
    n:int,      # How many files
    seconds:float=20., # For each; a slow machine takes some
)->tuple: # (Counter of outcomes, the wrong ones as text, slowest in seconds, memory above the start in MB)
    "Damage `n` files and read each"
    counts, wrong, slowest = Counter(), [], 0.
    with tempfile.TemporaryDirectory() as tmp, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        spoil, use = TARGETS[target](Path(tmp))
        use()
        base = peak_mb()
        for i in range(n):
            spoil(Random(f'{target}{i}'))
            start = time.monotonic()
            try:
                with time_limit(seconds): use()
                counts['read'] += 1
            except MineC2FError as e: counts[type(e).__name__] += 1
            except (Exception, TooLong) as e:
                counts['WRONG'] += 1
                wrong.append(f'{target}:{i} {type(e).__name__} in {_place(e)}: {str(e)[:200]}')
            slowest = max(slowest, time.monotonic()-start)
    return counts, wrong, slowest, peak_mb()-base

def one(target, i):
    with tempfile.TemporaryDirectory() as tmp:
        spoil, use = TARGETS[target](Path(tmp))
        spoil(Random(f'{target}{i}'))
        use()

def main(words):
    if ':' in words[0]: return one(*words[0].split(':'))
    for target in words[1:] or TARGETS:
        counts, wrong, slowest, memory = fuzz(target, int(words[0]))
        said = ', '.join(f'{v} {k}' for k,v in counts.most_common())
        print(f'{target}: {said}; slowest {slowest:.1f} s, {memory:.0f} MB above the start', flush=True)
        for o in wrong: print('  ', o)

if __name__=='__main__': main(sys.argv[1:] or ['1000'])
