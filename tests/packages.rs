//! The packages as they would be published: features, addresses and licences, held against what cargo reads of the manifests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Manifests of all workspaces with a package of ours that others get.
const MANIFESTS: [&str; 3] = ["Cargo.toml", "integrations/candle/Cargo.toml", "python/Cargo.toml"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text_of(file: impl AsRef<Path>) -> String {
    let file = root().join(file);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The packages of a workspace that others get: crates.io's, and the native half of the Python package.
fn packages(manifest: &str) -> Vec<Value> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path"]);
    let output = cargo.arg(root().join(manifest)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut packages = metadata["packages"].as_array().unwrap().clone();
    packages.retain(|package| package["publish"] != Value::Array([].into()) || package["name"] == "batchnorm-python");
    assert!(!packages.is_empty(), "{manifest}");
    packages
}

fn all_packages() -> Vec<Value> {
    MANIFESTS.into_iter().flat_map(packages).collect()
}

fn package(name: &str) -> Value {
    all_packages().into_iter().find(|package| package["name"] == name).unwrap()
}

fn folder(package: &Value) -> PathBuf {
    Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().to_path_buf()
}

/// Names in backticks in the first column of the table below a page's heading `# Features`.
fn features_of_page(page: &str) -> BTreeSet<String> {
    let lines = page.lines().map(|line| line.trim_start_matches("//! "));
    let section = lines.skip_while(|line| line.trim_start_matches('#') != " Features").skip(1);
    let table = section.take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with("| `"));
    let first_columns = table.map(|row| row.split('|').nth(1).unwrap().to_owned());
    first_columns.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(String::from).collect::<Vec<_>>()).collect()
}

#[test]
fn every_feature_has_a_row() {
    let features = package("batchnorm")["features"].as_object().unwrap().clone();
    let features: BTreeSet<_> = features.keys().filter(|name| *name != "default").cloned().collect();
    for page in ["src/lib.rs", "README.md"] {
        assert_eq!(features_of_page(&text_of(page)), features, "{page}");
    }
}

#[test]
fn every_package_names_the_repository() {
    let repository = package("batchnorm")["repository"].as_str().unwrap().to_owned();
    assert!(repository.starts_with("https://"), "{repository}");
    for package in all_packages() {
        assert_eq!(package["repository"], *repository, "{}", package["name"]);
    }
    let project = text_of("python/pyproject.toml");
    let (_, urls) = project.split_once("[project.urls]\n").unwrap();
    let urls: Vec<_> = urls.lines().take_while(|line| !line.is_empty()).collect();
    assert!(urls.contains(&format!("Repository = \"{repository}\"").as_str()), "{urls:?}");
    assert!(urls.iter().all(|url| url.contains(&format!("\"{repository}"))), "{urls:?}");
}

/// Pages that have its address in full.
#[test]
fn no_page_names_another_repository() {
    let repository = package("batchnorm")["repository"].as_str().unwrap().to_owned();
    let (_, name) = repository.rsplit_once('/').unwrap();
    let pages = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", ".github/ISSUE_TEMPLATE/config.yml"];
    for page in pages.into_iter().chain(["integrations/candle/README.md", "python/README.md", "python/pyproject.toml"])
    {
        let text = text_of(page);
        assert!(text.contains(&repository), "{page}");
        for rest in text.split("https://github.com/").skip(1) {
            let mut words = rest.split(|character: char| !(character.is_alphanumeric() || "-_.".contains(character)));
            let (owner, found) = (words.next().unwrap(), words.next().unwrap_or_default());
            assert!(
                found != name || format!("https://github.com/{owner}/{found}") == repository,
                "{page}: {owner}/{found}"
            );
        }
    }
}

/// crates.io and GitHub resolve links to files of the repository; PyPI does not.
#[test]
fn links_of_readmes_lead_somewhere() {
    let repository = package("batchnorm")["repository"].as_str().unwrap().to_owned();
    for package in all_packages() {
        let page = folder(&package).join("README.md");
        for link in text_of(&page).split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let of_repository = link.strip_prefix(&format!("{repository}/blob/main/"));
            let file = match of_repository {
                Some(path) => root().join(path),
                None if link.starts_with("https://") || link.starts_with('#') => continue,
                None => {
                    assert_ne!(package["name"], "batchnorm-python", "{link} is dead on PyPI");
                    folder(&package).join(link.split('#').next().unwrap())
                }
            };
            assert!(file.exists(), "{}: {link}", page.display());
        }
    }
}

/// MIT asks for its text in every copy.
#[test]
fn every_package_has_the_licences() {
    for package in all_packages() {
        for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
            assert_eq!(text_of(folder(&package).join(licence)), text_of(licence), "{}", package["name"]);
        }
    }
    assert!(text_of("python/pyproject.toml").contains(r#"license-files = ["LICENSE-MIT", "LICENSE-APACHE"]"#));
    // Cargo lists a package by its dependencies: those of candle's package are there for its own tests, which list it.
    for package in packages("Cargo.toml") {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["package", "--list", "--allow-dirty", "--offline", "--manifest-path"]);
        let output = cargo.arg(package["manifest_path"].as_str().unwrap()).current_dir(root()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let files = String::from_utf8(output.stdout).unwrap();
        let files: BTreeSet<_> = files.lines().collect();
        for file in ["LICENSE-MIT", "LICENSE-APACHE", "README.md"] {
            assert!(files.contains(file), "{} without {file}: {files:?}", package["name"]);
        }
    }
}

#[test]
fn all_packages_have_one_version_which_the_changelog_knows() {
    let version = package("batchnorm")["version"].as_str().unwrap().to_owned();
    for package in all_packages() {
        assert_eq!(package["version"], *version, "{}", package["name"]);
    }
    assert!(text_of("python/pyproject.toml").contains(&format!("\nversion = \"{version}\"\n")), "{version}");
    let changelog = text_of("CHANGELOG.md");
    assert!(
        changelog.contains(&format!("\n## [{version}] - ")) && changelog.contains("\n## [Unreleased]\n"),
        "{version}"
    );
    for (link, _) in changelog.lines().filter_map(|line| line.strip_prefix("## [")?.split_once(']')) {
        assert!(changelog.contains(&format!("\n[{link}]: https://")), "{link}");
    }
}

#[test]
fn the_dependency_lines_name_the_version() {
    for (page, name) in [
        ("README.md", "batchnorm"),
        ("integrations/candle/README.md", "candle-batchnorm"),
        ("emulator/README.md", "cuda-emulator"),
    ] {
        let version = package(name)["version"].as_str().unwrap().to_owned();
        let (compatible, _) = version.rsplit_once('.').unwrap();
        let line = format!("{name} = \"{compatible}\"");
        assert!(text_of(page).lines().any(|found| found.starts_with(&line)), "{page}: {line}");
    }
}

/// Two versions of the kernels do not fit one program: cargo refuses two packages that link one library.
#[test]
fn the_kernels_are_linked_once() {
    let links = package("batchnorm")["links"].as_str().unwrap().to_owned();
    assert!(text_of("build/cuda.rs").contains(&format!("try_compile({links:?})")), "{links}");
}
