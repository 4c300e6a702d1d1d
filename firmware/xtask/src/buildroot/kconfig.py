"""Parses Config.in of an external tree of Buildroot with stand-ins for Buildroot's own symbols, and loads what
configurations say about the tree's symbols. Prints what it found as JSON.

usage: kconfig.py EXTERNAL SYMBOL... -- DEFCONFIG...
"""

import json
import os
import re
import sys
import tempfile

import kconfiglib


def main(external, *args):
    at = args.index("--")
    outer, defconfigs = args[:at], args[at + 1 :]
    os.environ["BR2_EXTERNAL_FFS_PATH"] = external
    # What the kernel's symbols begin with, and Buildroot's do not.
    os.environ["CONFIG_"] = ""
    with tempfile.TemporaryDirectory() as work:
        top = os.path.join(work, "Config.in")
        with open(top, "w") as file:
            for symbol in outer:
                file.write(f'config {symbol}\n\tbool "{symbol}"\n\tdefault y\n\n')
            file.write('source "$BR2_EXTERNAL_FFS_PATH/Config.in"\n')
        kconf = kconfiglib.Kconfig(top, warn_to_stderr=False)
        own = [s for s in kconf.unique_defined_syms if s.name not in outer]
        names = {s.name for s in own}
        unknown = sorted(s.name for s in kconf.syms.values() if not s.nodes and s.name.startswith("BR2_"))
        dropped = []
        for path in defconfigs:
            with open(path) as file:
                lines = [line for line in file if re.match(r"(# )?BR2_PACKAGE_FFS_", line)]
            part = os.path.join(work, "defconfig")
            with open(part, "w") as file:
                file.writelines(lines)
            kconf.load_config(part)
            for line in filter(re.compile(r"\w").match, lines):
                name, value = line.strip().split("=", 1)
                if name not in names or kconf.syms[name].str_value != value:
                    dropped.append([path, line.strip()])
    found = {"own": sorted(names), "unknown": unknown, "warnings": kconf.warnings, "dropped": dropped}
    json.dump(found, sys.stdout)


main(*sys.argv[1:])
