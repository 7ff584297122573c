"""Which keys of the settings code reads, found in its syntax tree."""

import ast
import dataclasses

from us_anomaly.settings import GROUPS, Settings


class KeysRead(ast.NodeVisitor):
    """Collects what code reads from the settings, which it knows by their annotations, through assignments and attributes.

    Attributes:
        keys: `group.name`, also of a method; the group of the root is empty.
        methods: The same for the inside of each method of the settings, by its key.
    """

    def __init__(self):
        self.keys, self.methods = set(), {}
        self._names = {"settings": "Settings"}  # name of a variable: of its class; so it is called where it is `Any`
        self._attributes = {}  # (class, attribute): class of the attribute
        self._groups = {"Settings": ""}
        for field in dataclasses.fields(Settings):
            for kind in filter(dataclasses.is_dataclass, (field.type, *GROUPS.get(field.name, ()))):
                self._groups[kind.__name__] = field.name

    def _class_of(self, node):
        match node:
            case ast.Name(id=name):
                return self._names.get(name)
            case ast.Attribute(value=owner, attr=name):
                return self._attributes.get((self._class_of(owner), name))
        return None

    def _learn(self, target, kind):
        match target:
            case ast.Name(id=name) if kind:
                self._names[name] = kind
            case ast.Attribute(value=owner, attr=name) if kind and self._class_of(owner):
                self._attributes[self._class_of(owner), name] = kind

    def _read(self, owner, name):
        if (group := self._groups.get(self._class_of(owner))) is not None:
            self.keys.add(f"{group}.{name}")

    def visit_ClassDef(self, node):
        outside, self._names = self._names, self._names | {"self": node.name}
        for line in node.body:
            if isinstance(line, ast.AnnAssign):
                self._attributes[node.name, line.target.id] = annotated_class(line.annotation)
        self.generic_visit(node)
        self._names = outside

    def visit_FunctionDef(self, node):
        outside, keys, self._names = self._names, self.keys, dict(self._names)
        if (group := self._groups.get(outside.get("self"))) is not None:
            self.keys = self.methods.setdefault(f"{group}.{node.name}", set())
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            self._learn(ast.Name(argument.arg), annotated_class(argument.annotation))
        self.generic_visit(node)
        self._names, self.keys = outside, keys

    def visit_Assign(self, node):
        self.generic_visit(node)
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=False)
            for part, value in pairs:
                self._learn(part, self._class_of(value))

    def visit_Attribute(self, node):
        if isinstance(node.ctx, ast.Load):
            self._read(node.value, node.attr)
        self.generic_visit(node)

    def visit_Call(self, node):
        match node:
            case ast.Call(func=ast.Name(id="getattr"), args=[owner, ast.Constant(value=str(name)), *_]):
                self._read(owner, name)
        self.generic_visit(node)


def annotated_class(annotation):
    """The name of the class that an annotation allows, alone or beside None."""
    parts = ast.unparse(annotation).strip("'").split(" | ") if annotation else []
    return next((part for part in parts if part.isidentifier() and part != "None"), None)


def keys_read(sources):
    """The keys that code reads one by one, also through methods of the settings; reading all of a group does not count.

    A `__post_init__` reads keys to check them, which does not count either.
    """
    trees, reading = [ast.parse(source) for source in sources], KeysRead()
    for _ in range(2):  # the second time with the attributes of all classes known
        reading.keys = set()
        for tree in trees:
            reading.visit(tree)
    found, waiting = set(), list(reading.keys)
    while waiting:
        if (key := waiting.pop()) not in found:
            found.add(key)
            waiting.extend(reading.methods.get(key, ()))
    return {key.removeprefix(".") for key in found}
