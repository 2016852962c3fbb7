"What readers of the notebooks see: pictures that show something; no error, no warning and no path of one machine."
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

MIN_SIDE = 24 # px of a frame

def pixels(im): return np.asarray(im.convert('RGB')).astype(int)

def empty_frames(im):
    """How many frames of axes in a picture hold nothing

    Inside such a frame all is white, but for thin pale lines such as those of a grid or around a legend. One thin dark
    line runs along all its sides, which tells it from a white place in a picture."""
    x = pixels(im)                                                        # (H,W,3)
    dark = x.max(2)<160                                                   # (H,W)
    coloured = np.ptp(x, axis=2)>24
    pale = ndimage.binary_opening(~dark & (x.max(2)<235), np.ones((3,3))) # and not thin
    drawn = dark | coloured | pale
    white_places = ndimage.find_objects(ndimage.label(~drawn)[0])         # (rows, columns) of the rectangle around each
    return sum(is_framed(dark, *o) for o in white_places if not drawn[o].any())

def is_framed(dark, rows, cols):
    "Is a rectangle large, with one thin dark line around it?"
    if min(rows.stop-rows.start, cols.stop-cols.start)<MIN_SIDE: return False
    return min(sides(dark, rows, cols, 1))>.9 and max(sides(dark, rows, cols, 6))<.5

def sides(dark, rows, cols, away):
    "Share that is dark of each of the four lines that run around a rectangle, so many pixels away"
    height, width = dark.shape
    top, bottom = max(0, rows.start-away), min(rows.stop-1+away, height-1)
    left, right = max(0, cols.start-away), min(cols.stop-1+away, width-1)
    return [o.mean() for o in (dark[top,cols], dark[bottom,cols], dark[rows,left], dark[rows,right])]

def is_blank(im):
    "Is a picture of one colour, but for its rim?"
    x = pixels(im)
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

@pytest.mark.parametrize('draw', [
    lambda ax: None,
    lambda ax: ax.grid(),
    lambda ax: ax.legend([]),
    lambda ax: ax.set(title='loss', xlabel='step', yscale='log'),
    lambda ax: ax.inset_axes([.5, .5, .4, .4]),
], ids=['nothing', 'grid', 'legend', 'title', 'empty inset'])
def test_empty_frames_are_found(drawing, draw):
    draw(drawing)
    assert empty_frames(seen(drawing))==1

@pytest.mark.parametrize('draw', [
    lambda ax: ax.plot([0, 1], [0, 1], lw=.5),
    lambda ax: ax.plot([0, 1], [.5, .5]),
    lambda ax: ax.scatter(.5, .5, s=9),
    lambda ax: ax.imshow([[0, 1]]),
    lambda ax: ax.imshow(np.pad([[1.]], 1), cmap='gray'),
    lambda ax: ax.bar([0], [1], color='.8'),
    lambda ax: ax.inset_axes([.5, .5, .4, .4]).plot([0, 1], 'k'),
], ids=['line', 'level', 'point', 'image', 'hole', 'bar', 'inset'])
def test_whatever_is_drawn_fills_a_frame(drawing, draw):
    draw(drawing)
    assert empty_frames(seen(drawing))==0

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
    folders = [f'{o}/' for o in (Path.home(), Path(tempfile.gettempdir()), repo) if len(o.parts)>1]
    unfit = ['Warning:', 'Traceback', 'site-packages', '/home/', '/Users/', 'C:\\', *folders]
    odd = []
    for path in notebooks(repo):
        for i,o in outputs(path):
            is_error = o['output_type']=='error' or o.get('name')=='stderr'
            if is_error: odd.append(f'{path.name}, cell {i}: {o["output_type"]}')
            odd += [f'{path.name}, cell {i}: {text}' for text in unfit if text in said(o)]
    assert odd==[]

def said(output):
    "All of an output that is text"
    data = {k: v for k,v in output.get('data', {}).items() if not k.startswith('image/')}
    return json.dumps(data) + ''.join(output.get('text', ''))

def test_prose_comes_first(repo):
    "A notebook opens with what it is about"
    for path in notebooks(repo):
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        first = next(o for o in cells if o['cell_type']=='markdown')
        assert ''.join(first['source']).startswith('# ') and cells.index(first)<=1, path.name
