"""The source of the documentation site, made from the repository: `python docs/pages.py _docs/source`.

Nothing is executed: notebooks keep the outputs that are stored in them. The layout is the repository's own, so that links between its files
hold: nbs/*.ipynb, paper_figures/*.ipynb, results/*.md, with the README as index.md; book.md, api/*.md and llms.txt are made here.
"""
import json, re, shutil, sys
from configparser import ConfigParser
from dataclasses import dataclass
from os.path import normpath, relpath
from pathlib import Path

from api import block, read_module

REPO = Path(__file__).resolve().parent.parent

# --- The story ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Part:
    title:str
    line:str   # What it tells
    pattern:str# Of the paths of its notebooks

PARTS = [
    Part('A pixel', 'What a number in a file means, where it lies, and how anything is read and written without harm.', r'nbs/0[01]'),
    Part('A synthetic world', 'Land, mines and careless outlines of which the truth is known: everything later is tried on them.', r'nbs/02'),
    Part('From polygons to chips', 'Inventories and satellite archives become a training set that does not leak.', r'nbs/0[34]'),
    Part('Learning and measuring', 'Loaders, losses that know their labels, and scores that say how far off an outline is.', r'nbs/0[567]'),
    Part('Networks', 'Attention gates, pyramids, foundation models; and what a method is.', r'nbs/0[89]'),
    Part('The method and its rivals', 'Attentive distillation, everything it is compared with, and what goes beyond it.', r'nbs/1[01]'),
    Part('From a model to a map', 'Training in two stages, bundles, maps of whole scenes, sharper polygons.', r'nbs/1[23]'),
    Part('Who wins, and how surely', 'Paired comparisons, controls that could refute, calibration, domain shift.', r'nbs/1[45]'),
    Part('Pictures', 'Figures, an explorer, and what the figures of a paper share.', r'nbs/1[6-9]'),
    Part('Run it', 'Notebooks with parameters, which papermill runs: data in, results out.', r'nbs/[a-z]'),
    Part('Figures of a paper', 'One notebook for each figure and table.', r'paper_figures/'),
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

def notebooks(): return [read_notebook(o) for folder in ('nbs', 'paper_figures') for o in sorted((REPO/folder).glob('*.ipynb'))]
def place(path): return path.relative_to(REPO).as_posix()
def parts_of(nb): return [o for o in PARTS if re.match(o.pattern, place(nb.path))]

def modules():
    "Full name -> path of every module that is not private"
    files = [o.relative_to(REPO) for o in sorted((REPO/'minec2f').rglob('*.py')) if o.name[0]!='_']
    return {'.'.join(o.with_suffix('').parts): REPO/o for o in files}

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
    tags = [*cell['metadata'].get('tags', []), *(['exported'] if 'export' in flags else [])]
    return {**cell, 'source': shown, 'metadata': {'tags': tags}}

def notebook_page(nb):
    "The notebook as JSON, with a line of links under its summary"
    cells = [o for o in map(reader_cell, nb.cells) if o]
    links = [f'[source]({on_github(place(nb.path))})']
    if nb.module: links = [f'Reference: [`{nb.module}`](../api/{nb.module}.md)', *links]
    first = next(o for o in cells if o['cell_type']=='markdown')
    first['source'] = re.sub(r'\A(# .+\n+(?:>.*\n?)*)', rf'\1\n{{.links}}\n{" · ".join(links)}\n\n', first['source'])
    metadata = dict(language_info=dict(name='python', pygments_lexer='python'))
    return json.dumps(dict(cells=cells, metadata=metadata, nbformat=4, nbformat_minor=5), ensure_ascii=False)

def linked(text, path, site):
    "Links of a Markdown file: to pages of the site (path -> page) as they are, to other files of the repository on GitHub"
    def mend(match):
        target, _, anchor = match[1].partition('#')
        if not target or re.match(r'\w+:', target): return match[0]
        goal = normpath(f'{Path(path).parent}/{target}')
        if goal in site: goal = relpath(site[goal], Path(site[path]).parent)
        elif (REPO/goal).exists(): goal = on_github(goal)
        else: return match[0]
        return f']({goal}{anchor and "#"}{anchor})'
    return re.sub(r'\]\(([^)\s]+)\)', mend, text)

def markdown_page(path, site):
    text = linked((REPO/path).read_text(encoding='utf-8'), path, site)
    return text if text.startswith('# ') else f'# {Path(path).stem.replace("_", " ").capitalize()}\n\n{text}'

def toctree(pages, caption=''):
    return '\n'.join([':::{toctree}', ':hidden:', *([f':caption: {caption}'] if caption else []), '', *pages, ':::', ''])

def entry(nb): return f'- [{nb.title}]({place(nb.path)}): {nb.summary}'

def book_page(nbs, texts):
    lines = ['# The book', '', 'The notebooks are one story, from a pixel to a map. They define, explain and test the library; what is shown below a cell is what it gave '
             'when it last ran. Cells with a coloured edge are the library itself.', '']
    for part in PARTS:
        own = [o for o in nbs if part in parts_of(o)]
        inside = [o for o in texts if re.match(part.pattern, o)] + [place(o.path) for o in own]
        lines += [f'## {part.title}', '', part.line, '', *map(entry, own), '', toctree(inside, part.title)]
    return '\n'.join(lines)

def api_page(name, path, nb):
    items, elsewhere = read_module(path)
    lines = [f'# {name}', '', f':::{{py:module}} {name}', ':::', '']
    if nb: lines += [nb.summary, '', '{.links}', f'Explained in [{nb.title}](../{place(nb.path)}) · [source]({on_github(place(path))})', '']
    if elsewhere: lines += [f'Also gives, from where they are defined: {", ".join(f"`{o}`" for o in elsewhere)}.', '']
    return '\n'.join(lines + [line for o in items for line in block(o)])

def api_index(nbs, names):
    lines = ['# Reference', '', 'Every public name, with the types, defaults, shapes and units that stand beside it in the source.', '']
    explained = {o.module: o for o in nbs}
    groups = [(o.title, [nb.module for nb in nbs if nb.module and o in parts_of(nb)]) for o in PARTS]
    groups.append(('Shortcuts', [n for n in names if n not in explained]))
    for title, own in groups:
        if not own: continue
        rows = [f'- [`{n}`]({n}.md): {explained[n].summary}' if n in explained else f'- [`{n}`]({n}.md)' for n in own]
        lines += [f'## {title}', '', *rows, '', toctree(own, title)]
    return '\n'.join(lines)

def llms_page(nbs, names):
    "https://llmstxt.org: what it is and where to read on"
    cfg = settings()
    url = lambda page: f'{cfg["doc_host"]}{cfg["doc_baseurl"]}/{page}.html'
    link = lambda title, page, line: f'- [{title}]({url(page)}): {line}'.rstrip(': ')
    explained = {o.module: o for o in nbs}
    lines = [f'# {cfg["title"]}', '', f'> {cfg["description"]}', '',
             'Entry points: `minec2f.chips.load_index` (a dataset folder), `minec2f.splits.site_split`, `minec2f.data.mine_dls`, `minec2f.learner.teacher_learner` and '
             '`c2f_learner` (two-stage training), `minec2f.bundle.load_bundle`, `minec2f.predict.predict_scene`, `minec2f.refine.refine_polygons`.', '',
             '## Start', '', link('README', 'index', 'what it is, two commands, your data, results')]
    for part in PARTS:
        own = [o for o in nbs if part in parts_of(o)]
        lines += ['', f'## {part.title}', '', *(link(o.title, place(o.path.with_suffix('')), o.summary) for o in own)]
    lines += ['', '## Reference', '', *(link(n, f'api/{n}', explained[n].summary if n in explained else '') for n in names)]
    return '\n'.join(lines) + '\n'

# --- The folder -----------------------------------------------------------------------------------------------------
def sources():
    "Path of each Markdown file of the repository that becomes a page -> path of the page"
    found = [o for pattern in ('*.md', 'results/*.md', 'paper_figures/*.md') for o in sorted(REPO.glob(pattern))]
    return {place(o): 'index.md' if place(o)=='README.md' else place(o) for o in found}

def pages():
    "Path in the site -> text, for everything that is written"
    nbs, found, texts = notebooks(), modules(), sources()
    site = texts | {place(o.path): place(o.path) for o in nbs} | {place(o): place(o) for o in images()}
    explained = {o.module: o for o in nbs}
    written = {page: markdown_page(path, site) for path,page in texts.items()}
    written |= {place(o.path): notebook_page(o) for o in nbs}
    written |= {f'api/{name}.md': api_page(name, path, explained.get(name)) for name,path in found.items()}
    written |= {'book.md': book_page(nbs, texts), 'api/index.md': api_index(nbs, found), 'llms.txt': llms_page(nbs, found)}
    results = [o for o in written if o.startswith('results/')]
    written.setdefault('results/README.md', '# Results\n')
    written['results/README.md'] += '\n' + toctree([f'/{o}' for o in results if o!='results/README.md'])
    others = [o for o in texts.values() if '/' not in o and o!='index.md']
    written['index.md'] += '\n\n' + toctree(['book', 'api/index', 'results/README', *others])
    return written

def images(): return sorted(REPO.glob('nbs/images/*'))

def write(folder):
    shutil.rmtree(folder, ignore_errors=True)
    for path,text in pages().items():
        dst = folder/path
        dst.parent.mkdir(parents=True, exist_ok=True)
        dst.write_text(text, encoding='utf-8')
    for o in images():
        (folder/place(o)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(o, folder/place(o))

if __name__=='__main__': write(Path(sys.argv[1]))
