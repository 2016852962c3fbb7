"What readers of the notebooks see: pictures that show something, and outputs that hold no error, no warning and no path of one machine."
import base64, io, json, tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np, pytest
from PIL import Image
from scipy import ndimage

def notebooks(repo): return sorted([*repo.glob('nbs/*.ipynb'), *repo.glob('paper_figures/*.ipynb')])

def outputs(path):
    "Each stored output of a notebook, with the number of its cell"
    for i,c in enumerate(json.loads(path.read_text(encoding='utf-8'))['cells']):
        for o in c.get('outputs', []): yield i, o

def pictures(path):
    "Each stored picture of a notebook, with the number of its cell"
    for i,o in outputs(path):
        for kind,x in o.get('data', {}).items():
            if kind in ('image/png', 'image/jpeg'): yield i, Image.open(io.BytesIO(base64.b64decode(''.join(x))))

def empty_frames(im, side=24):
    """How many frames of axes in a picture hold nothing. Inside such a frame all is white, or a thin pale line such as those of a grid or around a
    legend, and one thin dark line runs along all its sides, which tells it from a white place in a picture"""
    x = np.asarray(im.convert('RGB')).astype(int)
    dark = x.max(2)<160
    drawn = dark | (np.ptp(x, axis=2)>24) | ndimage.binary_opening(~dark & (x.max(2)<235), np.ones((3,3)))
    def sides(rows, cols, away):
        a, b, c, d = (max(0, min(o, n-1)) for o,n in zip((rows.start-away, rows.stop-1+away, cols.start-away, cols.stop-1+away), np.repeat(dark.shape, 2)))
        return [o.mean() for o in (dark[a,cols], dark[b,cols], dark[rows,c], dark[rows,d])]
    def empty(rows, cols):
        if min(rows.stop-rows.start, cols.stop-cols.start)<side or drawn[rows,cols].any(): return False
        return min(sides(rows, cols, 1))>.9 and max(sides(rows, cols, 6))<.5
    return sum(empty(*o) for o in ndimage.find_objects(ndimage.label(~drawn)[0]))

def is_blank(im):
    "Is a picture of one colour, but for its rim?"
    x = np.asarray(im.convert('RGB')).astype(int)
    h, w = x.shape[0]//10, x.shape[1]//10
    return np.ptp(x[h:-h,w:-w], axis=(0,1)).max()<24

@pytest.fixture
def drawing():
    fig, ax = plt.subplots(figsize=(4,2))
    yield ax
    plt.close(fig)

def seen(ax):
    to = io.BytesIO()
    ax.figure.savefig(to, dpi=72)
    return Image.open(to)

@pytest.mark.parametrize('draw,n', [
    (lambda ax: None, 1), (lambda ax: ax.grid(), 1), (lambda ax: ax.legend([]), 1), (lambda ax: ax.set(title='loss', xlabel='step', yscale='log'), 1),
    (lambda ax: ax.plot([0, 1], [0, 1], lw=.5), 0), (lambda ax: ax.plot([0, 1], [.5, .5]), 0), (lambda ax: ax.scatter(.5, .5, s=9), 0), (lambda ax: ax.imshow([[0, 1]]), 0), (lambda ax: ax.imshow(np.pad([[1.]], 1), cmap='gray'), 0),
    (lambda ax: ax.bar([0], [1], color='.8'), 0), (lambda ax: ax.inset_axes([.5, .5, .4, .4]).plot([0, 1], 'k'), 0), (lambda ax: ax.inset_axes([.5, .5, .4, .4]), 1)],
    ids='nothing grid legend title line level point image hole bar inset emptyinset'.split())
def test_empty_frames_are_found(drawing, draw, n):
    draw(drawing)
    assert empty_frames(seen(drawing))==n

def test_blank_pictures_are_found(drawing):
    drawing.axis('off')
    assert is_blank(seen(drawing)) and not empty_frames(seen(drawing))
    drawing.plot([0, 1])
    assert not is_blank(seen(drawing))

def test_pictures_show_something(repo):
    n, odd = 0, []
    for path in notebooks(repo):
        for i,im in pictures(path):
            n += 1
            if is_blank(im): odd.append(f'{path.name}, cell {i}: blank')
            if empty_frames(im): odd.append(f'{path.name}, cell {i}: axes without anything in them')
    assert n>50 and odd==[]

def test_stored_outputs_are_fit_to_be_read(repo):
    "No error, nothing on stderr, no warning, no folder of one machine's"
    odd, machine = [], [f'{o}/' for o in (Path.home(), Path(tempfile.gettempdir()), repo) if len(o.parts)>1]
    for path in notebooks(repo):
        for i,o in outputs(path):
            said = json.dumps({k: v for k,v in o.get('data', {}).items() if not k.startswith('image/')}) + ''.join(o.get('text', ''))
            if o['output_type']=='error' or o.get('name')=='stderr': odd.append(f'{path.name}, cell {i}: {o["output_type"]}')
            odd += [f'{path.name}, cell {i}: {bad}' for bad in ('Warning:', 'Traceback', 'site-packages', '/home/', '/Users/', 'C:\\', *machine)
                    if bad in said]
    assert odd==[]

def test_prose_comes_first(repo):
    "A notebook opens with what it is about"
    for path in notebooks(repo):
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        first = next(o for o in cells if o['cell_type']=='markdown')
        assert ''.join(first['source']).startswith('# ') and cells.index(first)<=1, path.name
