"""The server cases of the Autobahn test suite, brought to Python 3.

PyPI's autobahntestsuite is Python 2 source ("print x", implicit relative imports, str == bytes), and its own runner
starts nowhere today. Its case files are read as latin-1, so that every byte string becomes a str of one character a
byte and the cases keep their exact meaning; they pass through lib2to3 (Python up to 3.12) or fissix (later ones), and
a few textual repairs; `as_bytes` converts at the border to today's autobahn library.
"""

import binascii
import importlib.util
import os
import re
import sys
import types

from autobahn.websocket.utf8validator import Utf8Validator

try:
    from lib2to3.refactor import RefactoringTool

    FIXES = "lib2to3.fixes.fix_"
except ImportError:
    from fissix.refactor import RefactoringTool

    FIXES = "fissix.fixes.fix_"

FIXERS = ("print", "has_key", "xrange", "except", "raise", "ne", "long", "unicode")


def as_bytes(value):
    return value.encode("latin-1") if isinstance(value, str) else value


def load():
    """The package of all cases: `Cases` lists the classes."""
    spec = importlib.util.find_spec("autobahntestsuite")
    root = list(spec.submodule_search_locations)[0]
    sys.modules["autobahn_shim"] = shim(root)
    sources = convert(os.path.join(root, "case"))
    package = types.ModuleType("autobahn_cases")
    package.__path__ = []
    sys.modules["autobahn_cases"] = package
    sys.meta_path.insert(0, Finder(sources))
    exec(compile(sources["__init__"], "autobahn_cases", "exec"), package.__dict__)
    package.Case.compare = lambda _, a, b: a == b
    return package


def name(case):
    """`Case1_1_1` is 1.1.1."""
    return case.__name__[len("Case") :].replace("_", ".")


class Finder:
    """Imports the converted modules."""

    def __init__(self, sources):
        self.sources = sources

    def find_spec(self, fullname, path=None, target=None):
        package, _, module = fullname.partition(".")
        if package == "autobahn_cases" and module in self.sources:
            return importlib.util.spec_from_loader(fullname, self)
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        source = self.sources[module.__name__.partition(".")[2]]
        exec(compile(source, module.__name__, "exec"), module.__dict__)


def convert(folder):
    """Python 3 source by module name."""
    tool = RefactoringTool([FIXES + fixer for fixer in FIXERS])
    sources = {}
    for file in sorted(os.listdir(folder)):
        if not file.endswith(".py"):
            continue
        with open(os.path.join(folder, file), encoding="latin-1", newline=None) as opened:
            text = opened.read()
        text = re.sub(r"^#.*coding.*$", "", text, count=1, flags=re.M)
        if not text.endswith("\n"):
            text += "\n"
        text = repair(file, str(tool.refactor_string(text, file)))
        sources[file[: -len(".py")]] = text
    return sources


def repair(file, text):
    """What the fixers leave: imports, names that autobahn renamed, one division."""
    text = re.sub(r"\(object,\s*Case,?\s*\)", "(Case,)", text)
    text = re.sub(r"^from (case\w*) import", r"from .\1 import", text, flags=re.M)
    text = re.sub(r"^import binascii\b.*$", "from autobahn_shim import binascii", text, flags=re.M)
    text = re.sub(
        r"^import copy, os, pkg_resources, hashlib, binascii",
        "import copy, os, hashlib\nfrom autobahn_shim import pkg_resources, binascii",
        text,
        flags=re.M,
    )
    text = text.replace(
        "from autobahn.websocket.utf8validator import Utf8Validator", "from autobahn_shim import Utf8Validator"
    )
    renamed = {"N": "_no_context_takeover", "M": "_max_window_bits"}
    text = re.sub(
        r"\b(accept|request)(NoContextTakeover|MaxWindowBits)\b",
        lambda match: match.group(1) + renamed[match.group(2)[0]],
        text,
    )
    if file == "case10_1_1.py":
        text = text.replace("len(self.payload) / ", "len(self.payload) // ")
    # 9.9.1 is disabled in the suite itself.
    return re.sub(r"^from \.case9_9_1 import.*$", "", text, flags=re.M)


def shim(root):
    """What the cases import, taking latin-1 text where Python 2 had bytes."""

    class Hexadecimal:
        @staticmethod
        def b2a_hex(value):
            return binascii.b2a_hex(as_bytes(value)).decode()

        hexlify = b2a_hex

    class Resources:
        @staticmethod
        def resource_filename(_package, relative):
            return os.path.join(root, relative)

    class Validator:
        def __init__(self):
            self.validator = Utf8Validator()

        def reset(self):
            self.validator.reset()

        def validate(self, value):
            return self.validator.validate(as_bytes(value))

    module = types.ModuleType("autobahn_shim")
    module.binascii, module.pkg_resources, module.Utf8Validator = Hexadecimal, Resources, Validator
    return module
