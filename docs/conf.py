"Sphinx: how the pages that pages.py writes look, and what the backticked names in them lead to."
import re, sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.addnodes import pending_xref
from sphinx.pycode import ModuleAnalyzer
from sphinx.transforms.post_transforms import SphinxPostTransform

sys.path.insert(0, str(Path(__file__).parent))
from pages import modules, settings

cfg = settings()
project, author, release, copyright = cfg['title'], cfg['author'], cfg['version'], cfg['copyright']
html_baseurl = f'{cfg["doc_host"]}{cfg["doc_baseurl"]}/'

extensions = ['myst_nb', 'sphinx.ext.viewcode', 'sphinx_copybutton']
nb_execution_mode = 'off' # outputs are the stored ones
myst_enable_extensions = ['dollarmath', 'colon_fence', 'attrs_block']
myst_heading_anchors = 3
smartquotes = False
highlight_language = 'none' # where a block names none
add_module_names = False
toc_object_entries_show_parents = 'hide'
python_maximum_signature_line_length = 100
viewcode_follow_imported_members = False

html_theme = 'pydata_sphinx_theme'
html_title = project
html_math_renderer = 'mathml'
html_static_path = ['_static']
html_css_files = ['custom.css']
html_extra_path = ['../_docs/source/llms.txt']
html_show_sourcelink = False
html_theme_options = dict(
    icon_links=[dict(name='GitHub', url=cfg['git_url'], icon='fa-brands fa-github')],
    navigation_depth=1, show_toc_level=2, header_links_before_dropdown=5, footer_start=['copyright'], footer_end=[])
html_sidebars = {o: [] for o in ('index', 'CHANGELOG', 'CONTRIBUTING')} # without pages below them

# --- Formulas: browsers draw MathML themselves, without a script and without the web --------------------------------
def show_inline(self, node):
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode

def show_block(self, node):
    "A formula of its own line, its number (`\\tag{1}`) beside it"
    formula, *number = re.split(r'\\tag\{(.+?)\}', node.astext())[:2]
    numbers = [f'<span>({o})</span>' for o in number]
    self.body.append(f'<div class="math">{convert(formula, display="block")}{"".join(numbers)}</div>')
    raise nodes.SkipNode

# --- Links: `Grid`, `read_chip()` and `10_distill` lead to where they are explained ---------------------------------
class LinkNames(SphinxPostTransform):
    "Backticked names of the library and of its notebooks become links"
    default_priority = 5 # before Sphinx resolves references

    def run(self, **kwargs):
        notebooks = [o for o in self.env.found_docs if o.startswith(('nbs/', 'paper_figures/'))]
        self.objects, self.books = {}, {Path(o).name: o for o in notebooks}
        for full, *_ in self.env.get_domain('py').get_objects():
            self.objects.setdefault(full.rpartition('.')[2], []).append(full)
        for node in list(self.document.findall(nodes.literal)):
            if isinstance(node.parent, (nodes.reference, pending_xref, nodes.title)): continue
            target = self.target(node.astext())
            if target: node.replace_self(pending_xref('', node.deepcopy(), refdoc=self.env.docname, **target))

    def target(self, text):
        "What a text names; None where that is not sure: a plain word (`size`), or a name that two modules have"
        name = re.sub(r'\(\)$|\.ipynb$', '', text).removeprefix('nbs/')
        if name in self.books:
            return dict(refdomain='std', reftype='doc', reftarget=f'/{self.books[name]}', refexplicit=True)
        found = [name] if name in modules() else self.objects.get(name, [])
        if len(found)==1 and not re.fullmatch('[a-z]+', name):
            return dict(refdomain='py', reftype='obj', reftarget=found[0])
        return None

def source_of(app, name):
    "For viewcode: the source of a module, which need not be imported"
    if name not in modules(): return None
    text = modules()[name].read_text(encoding='utf-8')
    return text, ModuleAnalyzer.for_string(text, name).find_tags()

def setup(app):
    app.add_html_math_renderer('mathml', inline_renderers=(show_inline, None), block_renderers=(show_block, None))
    app.add_post_transform(LinkNames)
    app.connect('viewcode-find-source', source_of)
