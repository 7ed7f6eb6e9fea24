""".ci/needs over stand-ins: each thing that a machine lacks is named, all of them at once, and a whole machine passes."""

import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parent.parent / ".ci" / "needs"
BASH = shutil.which("bash")
# The oldest Rust that the crate is built with.
(OLDEST,) = re.findall(r'^rust-version = "(.+)"$', (SCRIPT.parent.parent / "Cargo.toml").read_text(), re.MULTILINE)
# The programs that the script itself is written with.
TOOLS = "awk cut dirname du grep head mktemp rm sort tail".split()
# A machine that lacks nothing: what each program does.
WHOLE = {
    "uname": "echo Linux x86_64",
    "df": "echo header; echo /dev/vda 0 0 40000000 0% /",
    "sh": "",
    "cc": "",
    "g++": "",
    "tar": "",
    "git": "",
    "rustup": "",
    "cargo": """case "$1" in
        --version) echo "cargo 1.90.0 (840b83a10 2025-07-30)";;
        metadata) echo '{"packages":[],"target_directory":"'$PWD'/target","version":1}';;
    esac""",
    "python3": """case "$1" in --version) echo Python 3.10.0;; esac""",
}


class Needs(unittest.TestCase):
    def said(self, changes=(), readme="# A\n\ncargo test --features emulate\n"):
        """The lines of the script on a machine where these programs do something else, or nothing: None is an absent one."""
        with tempfile.TemporaryDirectory() as folder:
            root, programs = pathlib.Path(folder).resolve() / "a tree", pathlib.Path(folder) / "bin"
            (root / ".ci").mkdir(parents=True)
            programs.mkdir()
            shutil.copy(SCRIPT, root / ".ci" / "needs")
            (root / "README.md").write_text(readme)
            for tool in TOOLS:
                (programs / tool).symlink_to(shutil.which(tool))
            for name, body in {**WHOLE, **dict(changes)}.items():
                if body is not None:
                    (programs / name).write_text(f"#!{BASH}\n{body}\n")
                    (programs / name).chmod(0o755)
            command = [BASH, str(root / ".ci" / "needs")]
            ran = subprocess.run(command, env={"PATH": str(programs)}, capture_output=True, text=True, timeout=60)
            self.assertEqual(ran.stdout, "")
            lines = ran.stderr.splitlines()
            self.assertEqual(ran.returncode, 1 if lines else 0, ran)
            return [line.replace(str(root), "ROOT") for line in lines]

    def test_a_whole_machine_lacks_nothing(self):
        self.assertEqual(self.said(), [])

    def test_an_absent_program_is_named(self):
        for name in ["sh", "cc", "g++", "tar", "git", "rustup", "cargo", "python3"]:
            lines = self.said({name: None})
            self.assertEqual(len(lines), 1, lines)
            self.assertRegex(lines[0], rf"^\.ci/needs: {name.replace('+', '[+]')}: expected .+, got none$")

    def test_all_that_is_missing_is_named_at_once(self):
        lines = self.said({name: None for name in ["g++", "rustup", "cargo", "python3"]}, readme="cargo test\n")
        self.assertEqual([line.split(": ")[1] for line in lines], ["g++", "rustup", "cargo", "python3", "README.md"])

    def test_too_old_a_program_is_named_with_both_versions(self):
        cargo = WHOLE["cargo"].replace("1.90.0", "1.9.9")
        self.assertEqual(self.said({"cargo": cargo}), [".ci/needs: cargo: expected 1.90 or later, got 1.9.9"])
        self.assertEqual(self.said({"cargo": cargo.replace("1.9.9", "1.100.0-nightly")}), [])
        python = WHOLE["python3"].replace("3.10.0", "3.9.18")
        self.assertEqual(self.said({"python3": python}), [".ci/needs: python3: expected 3.10 or later, got 3.9.18"])

    def test_modules_of_python(self):
        lacks = lambda words: {"python3": f"""{WHOLE["python3"]}; case "$*" in *"{words}"*) exit 1;; esac"""}
        (venv,) = self.said(lacks("ensurepip"))
        self.assertIn("python3 -m venv: expected a module of that name (Debian: python3-venv), got none", venv)
        (pip,) = self.said(lacks("pip --version"))
        self.assertIn("python3 -m pip: expected a module", pip)

    def test_registries_are_named_with_what_the_client_said(self):
        fails = lambda name, words: {name: f"""{WHOLE[name]}; case "$*" in *"{words}"*) echo first; echo no route; exit 1;; esac"""}
        (line,) = self.said(fails("cargo", "fetch"))
        self.assertEqual(line, ".ci/needs: crates.io: expected cargo to fetch from it, got no route")
        (line,) = self.said(fails("python3", "pip download"))
        self.assertEqual(line, ".ci/needs: PyPI: expected pip to fetch from it, got no route")
        # No clippy, no other target and no old Rust yet, and nowhere to get them from.
        cargo = f"""{WHOLE["cargo"]}; case "$*" in clippy*|+{OLDEST}*) exit 1;; esac"""
        self.assertEqual(self.said({"cargo": cargo}), [])
        lines = self.said({"cargo": cargo, "rustup": "echo no route >&2; exit 1"})
        words = "from static.rust-lang.org, got no route"
        clippy = f".ci/needs: clippy: expected rustup to fetch it {words}"
        target = f".ci/needs: aarch64-unknown-linux-gnu: expected rustup to fetch its standard library {words}"
        self.assertEqual(lines, [clippy, target, f".ci/needs: Rust {OLDEST}: expected rustup to fetch it {words}"])

    def test_the_machine(self):
        self.assertEqual(self.said({"uname": "echo Darwin arm64"}), [".ci/needs: system: expected Linux x86_64, got Darwin arm64"])
        (line,) = self.said({"df": WHOLE["df"].replace("40000000", "4000000")})
        self.assertEqual(line, ".ci/needs: disk: expected 20 GB for target/, got 4 GB")

    def test_a_target_folder_elsewhere_is_refused(self):
        cargo = WHOLE["cargo"].replace("'$PWD'/target", "/elsewhere")
        (line,) = self.said({"cargo": cargo})
        self.assertTrue(line.startswith(".ci/needs: cargo's target folder: expected ROOT/target, "), line)
        self.assertIn("got /elsewhere (CARGO_TARGET_DIR", line)

    def test_a_readme_without_its_test_command(self):
        (line,) = self.said(readme="    cargo test --features emulate\n")
        self.assertTrue(line.startswith(".ci/needs: README.md: expected the line `cargo test --features emulate`"), line)


if __name__ == "__main__":
    unittest.main()
