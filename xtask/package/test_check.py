"""check.py over small archives and wheels with one fault each."""

import io
import pathlib
import tarfile
import tempfile
import unittest
import zipfile

import check

LICENCES = {f"batchnorm-0.1.0.dist-info/licenses/{name}": b"." for name in check.LICENCES}


class Check(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def archive(self, *names, link=None, licences=check.LICENCES):
        file = self.folder / "batchnorm-0.1.0.tar.gz"
        with tarfile.open(file, "w:gz") as archive:
            for name in names:
                archive.addfile(tarfile.TarInfo(name), io.BytesIO())
            for name in licences:
                entry = tarfile.TarInfo(f"batchnorm-0.1.0/{name}")
                entry.size = 1
                archive.addfile(entry, io.BytesIO(b"."))
            if link:
                entry = tarfile.TarInfo(link)
                entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
                archive.addfile(entry)
        return list(check.faults_of_archive(str(file)))

    def wheel(self, name, files, time=(1980, 1, 1, 0, 0, 0)):
        file = self.folder / name
        with zipfile.ZipFile(file, "w") as wheel:
            for entry, data in {**LICENCES, **files}.items():
                wheel.writestr(zipfile.ZipInfo(entry, time), data)
        return str(file)

    def test_sources_are_taken(self):
        self.assertEqual(self.archive("batchnorm-0.1.0/PKG-INFO", "batchnorm-0.1.0/src/target.rs"), [])

    def test_what_is_not_sources_is_named(self):
        self.assertEqual(len(self.archive(licences=())), 1)
        for name in [
            "batchnorm-0.1.0/target/debug/x.rs", "batchnorm-0.1.0/lib/__pycache__/x.py", "batchnorm-0.1.0/lib/_native.abi3.so",
            "batchnorm-0.1.0/benches/results/h100.json", "batchnorm-0.1.0/src/lib.rs~", "batchnorm-0.1.0/src/.lib.rs.swp",
            "/batchnorm-0.1.0/src/lib.rs", "/etc/passwd", "batchnorm-0.1.0/../x.rs", "x.rs",
        ]:
            faults = self.archive("batchnorm-0.1.0/PKG-INFO", name)
            self.assertEqual(len(faults), 1, name)
            self.assertIn(repr(name), faults[0])
        self.assertIn("got a link", self.archive(link="batchnorm-0.1.0/x.rs")[0])

    def test_a_licence_that_is_missing_or_empty_is_named(self):
        (fault,) = self.archive("batchnorm-0.1.0/PKG-INFO", licences=["LICENSE-MIT"])
        self.assertIn("LICENSE-APACHE", fault)
        (fault,) = self.archive("batchnorm-0.1.0/LICENSE-MIT", licences=["LICENSE-APACHE"])
        self.assertIn("LICENSE-MIT", fault)
        wheel = self.wheel("a.whl", {"x.so": b"", "batchnorm-0.1.0.dist-info/licenses/LICENSE-MIT": b""})
        (fault,) = check.faults_of_wheel(wheel, [])
        self.assertIn("LICENSE-MIT", fault)

    def test_a_folder_of_the_building_machine_is_named(self):
        native = b"\x7fELF\0cargo/registry/src/x.rs\0/folder/me/.cargo/registry/src/y.rs\0"
        wheel = self.wheel("a.whl", {"batchnorm/_native.abi3.so": native, "batchnorm/__init__.py": b""})
        self.assertEqual(list(check.faults_of_wheel(wheel, ["/folder/you", "/folder/m", ""])), [])
        for folder in ["/folder/me", "/folder/me/"]:
            (fault,) = check.faults_of_wheel(wheel, ["/folder/you", folder])
            self.assertEqual(
                fault,
                "batchnorm/_native.abi3.so: expected no folder of the building machine, got '/folder/me/.cargo/registry/src/y.rs'",
            )
        (fault,) = check.faults_of_wheel(self.wheel("b.whl", {"batchnorm/__init__.py": b""}), [])
        self.assertIn("expected a native half, got none", fault)

    def test_wheels_that_differ_are_named_with_the_file(self):
        files = {"x.so": b"1", "sboms/x.json": b"uuid 1"}
        one = self.wheel("one.whl", files)
        self.assertEqual(list(check.differences(one, self.wheel("two.whl", files))), [])
        (fault,) = check.differences(one, self.wheel("two.whl", {**files, "sboms/x.json": b"uuid 2"}))
        self.assertTrue(fault.endswith("got a difference in sboms/x.json"), fault)
        self.assertEqual(len(list(check.differences(one, self.wheel("two.whl", files, (1980, 1, 1, 0, 0, 2))))), len({**LICENCES, **files}))
        (fault,) = check.differences(one, self.wheel("two.whl", dict(reversed(files.items()))))
        self.assertIn("order", fault)

    def test_the_call_says_so(self):
        wheel = self.wheel("a.whl", {"x.so": b"/folder/me/x"})
        other = self.wheel("b.whl", {"x.so": b"/folder/me/y"})
        self.assertEqual(check.main(["wheel", wheel, "--same", wheel, "--without", "/folder/you"]), 0)
        self.assertEqual(check.main(["wheel", wheel, "--without", "/folder/you", "/folder/me"]), 1)
        self.assertEqual(check.main(["wheel", wheel, "--same", other]), 1)


if __name__ == "__main__":
    unittest.main()
