"The reference, read from the source: what each public name does, and the type, default and comment of every parameter."
import ast, json, re
from copy import deepcopy
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from minec2f.docstrings import read_comments

# --- Reading a module -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Item:
    "Something public"
    kind:str        # Directive of Sphinx's Python domain: function, class, method, property, data
    name:str        # Within its module: `Grid.shape`
    signature:str   # `(a, b=1)`; empty where it is not called
    summary:str     # Its docstring, or the comment beside it
    rows:tuple=()   # Of each parameter or field: name, type, default, comment
    returns:tuple=()# Type and comment
    parts:tuple=()  # Public methods and properties of a class
    bases:tuple=()  # Of a class
    value:str=''    # Of a constant

def text_of(node): return ast.unparse(node) if node else ''
def decorators(f): return [text_of(o) for o in f.decorator_list]
def is_property(f): return any('property' in o or 'as_prop=True' in o for o in decorators(f))

def patched(node):
    "Name of the class that a function is patched into; None for any other node"
    is_patch = isinstance(node, ast.FunctionDef) and any(o.startswith('patch') for o in decorators(node))
    return text_of(node.args.args[0].annotation) if is_patch else None

def comment_behind(node, lines):
    rest = lines[node.end_lineno-1].encode()[node.end_col_offset:].decode()
    return rest.partition('#')[2].strip()

def comment_above(node, lines):
    "The lines of comment right above, but for those that mark a notebook's cells"
    before = reversed(lines[:node.lineno-1])
    found = [*takewhile(lambda o: re.match('# (?!%%)', o), before)]
    return ' '.join(o.lstrip('# ') for o in reversed(found))

def without_types(args):
    plain = deepcopy(args)
    for o in ast.walk(plain):
        if isinstance(o, ast.arg): o.annotation = None
    return text_of(plain)

def parameters(args, comments):
    "Of each parameter: name, type, default, comment"
    named = args.posonlyargs + args.args
    without_default = len(named)-len(args.defaults)
    defaults = [None]*without_default + args.defaults
    found = [('', o, default) for o,default in zip(named, defaults)]
    if args.vararg: found.append(('*', args.vararg, None))
    found += [('', o, default) for o,default in zip(args.kwonlyargs, args.kw_defaults)]
    if args.kwarg: found.append(('**', args.kwarg, None))
    return tuple((stars+o.arg, text_of(o.annotation), text_of(default), comments.get(o.arg, ''))
                 for stars,o,default in found)

def read_function(f, lines, cls=None):
    "A function; where `cls` is named, a method or property of it, without its first parameter"
    comments = read_comments(f'{o}\n' for o in lines[f.lineno-1:])
    rows = parameters(f.args, comments)
    signature = f'({without_types(f.args)})'
    if cls and 'staticmethod' not in decorators(f):
        rows = rows[1:]
        signature = re.sub(r'^\(\w+(, )?', '(', signature)
    summary = ast.get_docstring(f) or ''
    returns = text_of(f.returns), comments.get('return', '')
    if not cls: return Item('function', f.name, signature, summary, rows, returns)
    if is_property(f): return Item('property', f'{cls}.{f.name}', '', summary or comments.get('return', ''))
    return Item('method', f'{cls}.{f.name}', signature, summary, rows, returns)

def is_documented(item): return item.kind=='property' or item.summary or any(comment for *_,comment in item.rows)

def read_class(node, lines, further):
    "A class; `further` are the functions patched into it"
    functions = [o for o in node.body if isinstance(o, ast.FunctionDef)] + further
    init = next((read_function(o, lines, node.name) for o in functions if o.name=='__init__'), None)
    parts = [read_function(o, lines, node.name) for o in functions if o.name[0]!='_']
    signature, rows = (init.signature, init.rows) if init else ('', ())
    if any('dataclass' in o for o in decorators(node)):
        fields = [o for o in node.body if isinstance(o, ast.AnnAssign)]
        rows = tuple((o.target.id, text_of(o.annotation), text_of(o.value), comment_behind(o, lines)) for o in fields)
        signature = f'({", ".join(name + (f"={default}" if default else "") for name,_,default,_ in rows)})'
    return Item('class', node.name, signature, ast.get_docstring(node) or '', rows,
                parts=tuple(filter(is_documented, parts)), bases=tuple(map(text_of, node.bases)))

def read_constant(name, node, lines):
    call = node.value if isinstance(node.value, ast.Call) else None
    if call and text_of(call.func)=='namedtuple':
        fields = ast.literal_eval(call.args[1]).split()
        return Item('class', name, f'({", ".join(fields)})', comment_behind(node, lines), bases=('tuple',))
    comment = comment_behind(node, lines) or comment_above(node, lines)
    return Item('data', name, '', comment, value=text_of(node.value))

def assigned_names(node):
    "Names that a statement binds: two in `A, B = 1, 2`, none in `A['b'] = 1`"
    targets = node.targets if isinstance(node, ast.Assign) else []
    found = [o for target in targets for o in ast.walk(target) if isinstance(o, ast.Name)]
    return [o.id for o in found if isinstance(o.ctx, ast.Store)]

def read_module(
    path, # Of a Python file
)->tuple: # (list of `Item`, list of the public names that are defined elsewhere)
    "What a module makes public, in the order of the source"
    text = Path(path).read_text(encoding='utf-8')
    lines, body = text.splitlines(), ast.parse(text).body
    imported = [name.name for o in body if isinstance(o, ast.ImportFrom) and o.level for name in o.names]
    public = next((ast.literal_eval(o.value) for o in body if '__all__' in assigned_names(o)), imported)
    items = []
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name in public:
            items.append(read_class(node, lines, [o for o in body if patched(o)==node.name]))
        elif isinstance(node, ast.FunctionDef) and node.name in public and not patched(node):
            items.append(read_function(node, lines))
        else: items += [read_constant(o, node, lines) for o in assigned_names(node) if o in public]
    defined = {o.name for o in items}
    return items, [o for o in public if o not in defined]

# --- Writing it as Markdown -----------------------------------------------------------------------------------------
def escape(text):
    "Prose of the source as Markdown: `code` stays, everything else means itself"
    parts = text.split('`')
    is_paired = len(parts)%2==1
    if not is_paired: parts = [text.replace('`', "'")]
    def prose(o): return re.sub(r'([\\*_<>\[\]$~^|{}#])', r'\\\1', o)
    return '`'.join(o if i%2 else prose(o) for i,o in enumerate(parts))

def as_code(text): return f'`{text}`' if text else ''
def shortened(text, most=200): return text if len(text)<=most else f'{text[:most]}…'

def row(*cells):
    escaped = [o.replace('\\|', '|').replace('|', '\\|') for o in cells]
    return f'| {" | ".join(escaped)} |'

def table(rows):
    if not rows: return []
    shown = [row(f'**{escape(name)}**', as_code(kind), as_code(shortened(default, 60)), escape(comment))
             for name,kind,default,comment in rows]
    return ['| parameter | type | default | |', '|---|---|---|---|', *shown, '']

def returned(kind='', comment=''):
    told = ': '.join(o for o in (as_code(kind), escape(comment)) if o)
    return [f'**Returns** {told}', ''] if told else []

def block(item, fence=5):
    "A directive of Sphinx's Python domain, with what belongs to a class inside"
    marks = ':'*fence
    lines = [f'{marks}{{py:{item.kind}}} {item.name}{item.signature}']
    if item.value: lines.append(f':value: {json.dumps(shortened(item.value), ensure_ascii=False)}')
    lines += ['', *escape(item.summary).splitlines(), '']
    if item.bases: lines += [f'Based on {", ".join(map(as_code, item.bases))}.', '']
    lines += table(item.rows) + returned(*item.returns)
    for o in item.parts: lines += block(o, fence-1)
    return [*lines, marks, '']
