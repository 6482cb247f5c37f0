#!/usr/bin/env python3
"""Makes a copy of a Windows program call the STAND-IN for trace functions. For tests only.

In the copy the names of the imported libraries advapi32.dll and tdh.dll are replaced by names of
the same length. The libraries of these names, made here, pass every function that the program
imports on to Wine's own library, but the trace functions to the stand-in. Wine's libraries, and
all other programs, stay as they are.

Usage: redirect.py PROGRAM STANDIN.DLL DIRECTORY
"""
import pathlib, re, shutil, subprocess, sys

RENAMED = {"advapi32": "advtrace", "tdh": "tdt"}
TRACE = {"StartTraceW", "ControlTraceW", "EnableTraceEx2", "OpenTraceW", "ProcessTrace", "CloseTrace",
         "TdhGetEventInformation", "TdhGetEventMapInformation"}


def imports(program):
    """The functions that a program imports, by library in lower case."""
    listed = subprocess.run(["x86_64-w64-mingw32-objdump", "-p", program], check=True, capture_output=True, text=True)
    found, library = {}, None
    for line in listed.stdout.splitlines():
        if match := re.match(r"\s*DLL Name: (.*)\.dll$", line, re.I):
            library = match[1].lower()
        elif not line.strip():
            library = None
        elif library and (match := re.match(r"\s+[0-9a-f]+\s+(?:<none>\s+)?[0-9a-f]+\s+(\w+)", line)):
            found.setdefault(library, set()).add(match[1])
    return found


def main(program, standin, folder):
    folder = pathlib.Path(folder)
    code = pathlib.Path(program).read_bytes()
    wanted = imports(program)
    for library, other in RENAMED.items():
        functions = wanted.get(library, set())
        if not functions:
            continue
        code = re.sub(re.escape(f"{library}.dll".encode()), f"{other}.dll".encode(), code, flags=re.I)
        lines = [f"LIBRARY {other}.dll", "EXPORTS"]
        for name in sorted(functions):
            lines.append(f"  {name} = {'tracestandin' if name in TRACE else library}.{name}")
        definition = folder / f"{other}.def"
        definition.write_text("\n".join(lines) + "\n")
        entry = folder / f"{other}.c"
        entry.write_text("int DllMainCRTStartup(void *a, unsigned b, void *c) { return 1; }\n")
        subprocess.run(["x86_64-w64-mingw32-gcc", "-shared", "-nostdlib", "-o", folder / f"{other}.dll", entry, definition],
                       check=True)
    missing = TRACE - set().union(*wanted.values())
    if missing:
        sys.exit(f"redirect.py: {program} does not import {', '.join(sorted(missing))}")
    (folder / pathlib.Path(program).name).write_bytes(code)
    shutil.copy(standin, folder)


main(*sys.argv[1:])
