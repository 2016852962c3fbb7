"Star imports hide a forgotten import from linters, so every global that a function of the library reads is looked up."
import builtins, dis, importlib, types

def globals_read(code):
    "Names of the globals that functions in `code` read, at any depth"
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from (o.argval for o in dis.get_instructions(inner) if o.opname=='LOAD_GLOBAL')
            yield from globals_read(inner)

def test_every_global_exists(repo):
    unknown = {}
    for path in sorted((repo/'minec2f').rglob('[!_]*.py')):
        name = '.'.join(path.relative_to(repo).with_suffix('').parts)
        known = {*vars(importlib.import_module(name)), *dir(builtins)}
        read = globals_read(compile(path.read_text(encoding='utf-8'), name, 'exec'))
        if odd := {o for o in read if o not in known}: unknown[name] = odd
    assert unknown=={}
