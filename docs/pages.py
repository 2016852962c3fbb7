"""The source of the documentation site, made from the repository: `python docs/pages.py _docs/source`.

Nothing is executed: notebooks keep the outputs that are stored in them. The layout is the repository's own, so that
links between its files hold: nbs/*.ipynb, paper_figures/*.ipynb, results/*.md, with the README as index.md. book.md,
api/*.md and llms.txt are made here.
"""
import json, re, shutil, sys
from configparser import ConfigParser
from dataclasses import dataclass
from functools import cache
from os.path import normpath, relpath
from pathlib import Path

from api import block, read_module

REPO = Path(__file__).resolve().parent.parent

# --- The story ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Part:
    title:str
    line:str    # What it tells
    pattern:str # Of the paths of its notebooks

PARTS = [
    Part('A pixel', 'What a number in a file means, where it lies, and how anything is read and written without harm.',
         r'nbs/0[01]'),
    Part('A synthetic world', 'Land, mines and careless outlines of which the truth is known, to try everything on.',
         r'nbs/02'),
    Part('From polygons to chips', 'Inventories and satellite archives become a training set that does not leak.',
         r'nbs/0[34]'),
    Part('Learning and measuring', 'Loaders, losses that know their labels, scores that say how far off an outline is.',
         r'nbs/0[567]'),
    Part('Networks', 'Attention gates, pyramids, foundation models; and what a method is.',
         r'nbs/0[89]'),
    Part('The method and its rivals', 'Attentive distillation, all it is compared with, and what goes beyond it.',
         r'nbs/1[01]'),
    Part('From a model to a map', 'Training in two stages, bundles, maps of whole scenes, sharper polygons.',
         r'nbs/1[23]'),
    Part('Who wins, and how surely', 'Paired comparisons, controls that could refute, calibration, domain shift.',
         r'nbs/1[45]'),
    Part('Pictures', 'Figures, an explorer, and what the figures of a paper share.',
         r'nbs/1[6-9]'),
    Part('Run it', 'Notebooks with parameters, which papermill runs: data in, results out.',
         r'nbs/[a-z]'),
    Part('Figures of a paper', 'One notebook for each figure and table.',
         r'paper_figures/'),
]

@dataclass(frozen=True)
class Notebook:
    path:Path
    title:str
    summary:str
    module:str # Full name of the module it exports; '' where none
    cells:list

def source_of(cell): return ''.join(cell['source'])

def read_notebook(path):
    "Title and summary come from the first Markdown cell: `# Title`, `> summary`"
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    first = next(source_of(o) for o in cells if o['cell_type']=='markdown')
    title = re.search(r'^# (.+)', first, re.M)[1]
    summary = ' '.join(o.strip() for o in re.findall(r'^>(.*)', first, re.M))
    exported = re.search(r'^#\| default_exp (\S+)', '\n'.join(map(source_of, cells)), re.M)
    return Notebook(path, title, summary, f'minec2f.{exported[1]}' if exported else '', cells)

def notebooks():
    return [read_notebook(o) for folder in ('nbs', 'paper_figures') for o in sorted((REPO/folder).glob('*.ipynb'))]

def place(path): return path.relative_to(REPO).as_posix()
def parts_of(nb): return [o for o in PARTS if re.match(o.pattern, place(nb.path))]
def of_part(part, nbs): return [o for o in nbs if part in parts_of(o)]

@cache
def modules():
    "Full name -> path of every module that is not private"
    files = [o.relative_to(REPO) for o in sorted((REPO/'minec2f').rglob('*.py')) if o.name[0]!='_']
    return {'.'.join(o.with_suffix('').parts): REPO/o for o in files}

@cache
def settings():
    parser = ConfigParser(delimiters=['='])
    parser.read(REPO/'settings.ini', encoding='utf-8')
    return parser['DEFAULT']

def on_github(path): return f'{settings()["git_url"]}/blob/{settings()["branch"]}/{path}'

# --- Pages ----------------------------------------------------------------------------------------------------------
DIRECTIVE = re.compile(r'^#\|[^\n]*\n?', re.M)

def reader_cell(cell):
    "A cell as a reader sees it: nbdev's directives become a tag, or hide it (None)"
    source, outputs = source_of(cell), cell.get('outputs')
    flags = re.findall(r'^#\|\s*(\w+)', source, re.M)
    shown = DIRECTIVE.sub('', source).strip('\n')
    if cell['cell_type']=='raw' or 'hide' in flags or not (shown or outputs): return None
    tags = [*cell['metadata'].get('tags', [])]
    if 'export' in flags: tags.append('exported')
    return {**cell, 'source': shown, 'metadata': {'tags': tags}}

def notebook_page(nb):
    "The notebook as JSON, with a line of links under its summary"
    cells = [o for o in map(reader_cell, nb.cells) if o]
    links = [f'[source]({on_github(place(nb.path))})']
    if nb.module: links = [f'Reference: [`{nb.module}`](../api/{nb.module}.md)', *links]
    first = next(o for o in cells if o['cell_type']=='markdown')
    title = re.match(r'# .+\n+(>.*\n?)*', first['source'])[0]
    first['source'] = '\n'.join([title, '{.links}', ' · '.join(links), '', first['source'][len(title):]])
    language = dict(name='python', pygments_lexer='python')
    page = dict(cells=cells, metadata=dict(language_info=language), nbformat=4, nbformat_minor=5)
    return json.dumps(page, ensure_ascii=False)

def linked(text, path, site):
    "The text of a file of the repository, its links leading to pages of the `site` (path -> page), else to GitHub"
    def mend(match):
        target, _, anchor = match[1].partition('#')
        if not target or re.match(r'\w+:', target): return match[0]
        goal = normpath(f'{Path(path).parent}/{target}')
        if goal in site: goal = relpath(site[goal], Path(site[path]).parent)
        elif (REPO/goal).exists(): goal = on_github(goal)
        else: return match[0]
        return f']({goal}#{anchor})' if anchor else f']({goal})'
    return re.sub(r'\]\(([^)\s]+)\)', mend, text)

def markdown_page(path, site):
    text = linked((REPO/path).read_text(encoding='utf-8'), path, site)
    return text if text.startswith('# ') else f'# {Path(path).stem.replace("_", " ").capitalize()}\n\n{text}'

def toctree(pages, caption=''):
    options = [':hidden:']
    if caption: options.append(f':caption: {caption}')
    return '\n'.join([':::{toctree}', *options, '', *pages, ':::', ''])

def entry(title, link, summary=''): return f'- [{title}]({link})' + (f': {summary}' if summary else '')

BOOK = """\
The notebooks are one story, from a pixel to a map. They define, explain and test the library. What stands below a cell
is what it gave when it last ran; cells with a coloured edge are the library itself."""

def book_page(nbs, texts):
    lines = ['# The book', '', BOOK, '']
    for part in PARTS:
        own = of_part(part, nbs)
        inside = [o for o in texts if re.match(part.pattern, o)] + [place(o.path) for o in own]
        entries = [entry(o.title, place(o.path), o.summary) for o in own]
        lines += [f'## {part.title}', '', part.line, '', *entries, '', toctree(inside, part.title)]
    return '\n'.join(lines)

def api_page(name, path, nb):
    items, elsewhere = read_module(path)
    lines = [f'# {name}', '', f':::{{py:module}} {name}', ':::', '']
    links = [f'[source]({on_github(place(path))})']
    if nb:
        lines += [nb.summary, '']
        links = [f'Explained in [{nb.title}](../{place(nb.path)})', *links]
    lines += ['{.links}', ' · '.join(links), '']
    if elsewhere: lines += [f'Also here, defined elsewhere: {", ".join(f"`{o}`" for o in elsewhere)}.', '']
    for o in items: lines += block(o)
    return '\n'.join(lines)

def api_index(nbs, names):
    lines = ['# Reference', '', 'Every public name, with types, defaults, shapes and units as the source has them.', '']
    summaries = {o.module: o.summary for o in nbs}
    groups = {part.title: [o.module for o in of_part(part, nbs) if o.module] for part in PARTS}
    groups['Shortcuts'] = [o for o in names if o not in summaries]
    for title, own in groups.items():
        if not own: continue
        entries = [entry(f'`{o}`', f'{o}.md', summaries.get(o)) for o in own]
        lines += [f'## {title}', '', *entries, '', toctree(own, title)]
    return '\n'.join(lines)

ENTRIES = """\
Entry points: `minec2f.chips.load_index` (a dataset folder), `minec2f.splits.site_split`, `minec2f.data.mine_dls`,
`minec2f.learner.teacher_learner` and `c2f_learner` (training in two stages), `minec2f.bundle.load_bundle`,
`minec2f.predict.predict_scene`, `minec2f.refine.refine_polygons`, `minec2f.sampling.sample_design` and
`minec2f.area.area_estimate` (hectares with an interval)."""

def llms_page(nbs, names):
    "https://llmstxt.org: what it is and where to read on"
    cfg = settings()
    summaries = {o.module: o.summary for o in nbs}
    def url(page): return f'{cfg["doc_host"]}{cfg["doc_baseurl"]}/{page}.html'
    start = entry('README', url('index'), 'what it is, how to start, your data, results')
    lines = [f'# {cfg["title"]}', '', f'> {cfg["description"]}', '', ENTRIES, '', '## Start', '', start]
    for part in PARTS:
        own = [entry(o.title, url(place(o.path.with_suffix(''))), o.summary) for o in of_part(part, nbs)]
        lines += ['', f'## {part.title}', '', *own]
    lines += ['', '## Reference', '', *(entry(o, url(f'api/{o}'), summaries.get(o)) for o in names)]
    return '\n'.join(lines) + '\n'

# --- The folder -----------------------------------------------------------------------------------------------------
def sources():
    "Path of each Markdown file of the repository that becomes a page -> path of the page"
    found = [o for pattern in ('*.md', 'results/*.md', 'paper_figures/*.md') for o in sorted(REPO.glob(pattern))]
    return {place(o): 'index.md' if place(o)=='README.md' else place(o) for o in found}

def images(): return sorted(REPO.glob('nbs/images/*'))

def navigation(written, texts):
    "Which pages stand below the front page and below the results"
    results = [f'/{o}' for o in written if re.match('results/(?!README)', o)]
    others = [o for o in texts if '/' not in o and o!='README.md']
    return {'index.md': ['book', 'api/index', 'results/README', *others], 'results/README.md': results}

def pages():
    "Path in the site -> text, for everything that is written"
    nbs = notebooks()
    found = modules()
    texts = sources()
    site = texts | {place(o): place(o) for o in [*images(), *(nb.path for nb in nbs)]}
    explained = {o.module: o for o in nbs}
    written = {page: markdown_page(path, site) for path,page in texts.items()}
    written |= {place(o.path): notebook_page(o) for o in nbs}
    written |= {f'api/{name}.md': api_page(name, path, explained.get(name)) for name,path in found.items()}
    written |= {'book.md': book_page(nbs, texts), 'api/index.md': api_index(nbs, found)}
    written['llms.txt'] = llms_page(nbs, found)
    for page, below in navigation(written, texts).items():
        written[page] = f'{written.get(page, "# Results")}\n\n{toctree(below)}'
    return written

def write(folder):
    shutil.rmtree(folder, ignore_errors=True)
    for path,text in pages().items():
        (folder/path).parent.mkdir(parents=True, exist_ok=True)
        (folder/path).write_text(text, encoding='utf-8')
    for o in images():
        (folder/place(o)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(o, folder/place(o))

if __name__=='__main__': write(Path(sys.argv[1]))
