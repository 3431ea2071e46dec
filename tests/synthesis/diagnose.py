"""What libclang says of a source; as a program, what another release than the installed one says, which one process cannot load beside it.

    python diagnose.py LIBRARY TINFO SOURCE ARGUMENT...      prints warnings and errors

LIBRARY and TINFO are shared libraries; the second one is there for the first to find.
"""

from __future__ import annotations

import ctypes
import sys

from clang import cindex


def messages(source: str, arguments: list[str]) -> str:
    """Warnings and errors, a line each."""
    found = cindex.Index.create().parse(source, args=arguments).diagnostics
    return "\n".join(str(one) for one in found if one.severity >= cindex.Diagnostic.Warning)


if __name__ == "__main__":
    library, tinfo, source, *arguments = sys.argv[1:]
    ctypes.CDLL(tinfo, ctypes.RTLD_GLOBAL)
    cindex.Config.set_compatibility_check(False)
    cindex.Config.set_library_file(library)
    sys.stdout.write(messages(source, arguments))
