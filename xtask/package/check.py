"""What the Python package's archive and wheels may hold.

check.py archive FILE    the licences, nothing that a build left in the tree, and no name that leads out of the folder
check.py wheel FILE --without FOLDER...    the licences, and none of these folders of the building machine in any of its files
check.py wheel FILE --same FILE            equal to another wheel, byte for byte
"""

import argparse
import pathlib
import sys
import tarfile
import zipfile

# Folders and endings of what is made, not written.
MADE_FOLDERS = {"target", "__pycache__", "results", "node_modules", "python-venv"}
MADE_ENDINGS = (".so", ".o", ".a", ".pyc", ".whl", ".gz", ".orig", ".rej", ".log", "~")
LICENCES = ("LICENSE-APACHE", "LICENSE-MIT")


def faults_of_archive(file):
    """A line for each entry of a source archive that does not belong there."""
    top = pathlib.PurePosixPath(file).name.removesuffix(".tar.gz")
    with tarfile.open(file) as archive:
        entries = archive.getmembers()
    if not entries:
        yield f"{file}: expected files, got none"
        return
    for licence in LICENCES:
        if not any(entry.name == f"{top}/{licence}" and entry.size > 0 for entry in entries):
            yield f"{file}: expected the text of {licence}, got none"
    for entry in entries:
        parts = pathlib.PurePosixPath(entry.name).parts
        if parts[:1] != (top,) or ".." in parts:
            yield f"{entry.name!r}: expected a name below {top}/"
        elif not (entry.isfile() or entry.isdir()):
            yield f"{entry.name!r}: expected a file, got a link or a device"
        elif MADE_FOLDERS & set(parts) or any(part.startswith(".") for part in parts) or entry.name.endswith(MADE_ENDINGS):
            yield f"{entry.name!r}: expected sources alone, got what a build or an editor left"


def faults_of_wheel(file, folders):
    """A line for each file of a wheel and each folder whose name is in it."""
    names = {str(folder).rstrip("/") for folder in folders} - {""}
    with zipfile.ZipFile(file) as wheel:
        if not any(name.endswith(".so") for name in wheel.namelist()):
            yield f"{file}: expected a native half, got none"
        for licence in LICENCES:
            if not any(info.filename.endswith(f".dist-info/licenses/{licence}") and info.file_size > 0 for info in wheel.infolist()):
                yield f"{file}: expected the text of {licence}, got none"
        for entry in wheel.namelist():
            data = wheel.read(entry)
            for folder in sorted(names):
                at = data.find(folder.encode() + b"/")
                if at >= 0:
                    text = data[at : at + 120].split(b"\0")[0].decode("utf-8", "replace")
                    yield f"{entry}: expected no folder of the building machine, got {text!r}"


def differences(one, other):
    """A line for each file that two wheels do not have in common, or for the wheels themselves."""
    if pathlib.Path(one).read_bytes() == pathlib.Path(other).read_bytes():
        return
    with zipfile.ZipFile(one) as first, zipfile.ZipFile(other) as second:
        entries = [{info.filename: (info.CRC, info.date_time) for info in wheel.infolist()} for wheel in (first, second)]
    differ = sorted(name for name in entries[0].keys() | entries[1].keys() if entries[0].get(name) != entries[1].get(name))
    for name in differ or ["the order or the compression of their files"]:
        yield f"{one} and {other}: expected equal bytes, got a difference in {name}"


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("archive").add_argument("file")
    wheel = kinds.add_parser("wheel")
    wheel.add_argument("file")
    wheel.add_argument("--same")
    wheel.add_argument("--without", nargs="+", default=[], metavar="FOLDER")
    options = parser.parse_args(arguments)
    if options.kind == "archive":
        faults = list(faults_of_archive(options.file))
    else:
        faults = list(faults_of_wheel(options.file, options.without))
        faults += differences(options.same, options.file) if options.same else []
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
