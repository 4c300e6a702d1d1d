#!/usr/bin/env python3
"""Adds the crates of the daemons to what utils/generate-cyclonedx made.

usage: sbom.py PACKAGES.cdx.json CRATES

CRATES has a line "NAME vVERSION [(PATH)]|LICENSE" for each crate, as
`cargo tree --prefix none --format '{p}|{l}'` prints them.
"""
import json
import sys


def crate(line):
    """The component of a line, or None for our own crates and repetitions."""
    package, _, licence = line.strip().removesuffix(" (*)").partition("|")
    words = package.split()
    # A path follows the version of our own.
    if len(words) < 2 or "(/" in package:
        return None
    name, version = words[0], words[1].removeprefix("v")
    component = {
        "bom-ref": f"cargo:{name}@{version}",
        "type": "library",
        "name": name,
        "version": version,
        "purl": f"pkg:cargo/{name}@{version}",
    }
    licence = licence.removesuffix(" (*)").replace("/", " OR ")
    if licence:
        component["licenses"] = [{"expression": licence}]
    return component


def main(packages, crates):
    with open(packages) as file:
        sbom = json.load(file)
    with open(crates) as file:
        found = {c["bom-ref"]: c for c in map(crate, file) if c}
    sbom["components"] += [found[ref] for ref in sorted(found)]
    for node in sbom["dependencies"]:
        if node["ref"] == "ffs-firmware":
            node["dependsOn"] = sorted({*node.get("dependsOn", []), *found})
    json.dump(sbom, sys.stdout, indent=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
