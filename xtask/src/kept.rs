//! The kept object of kernel programs (`mpnc-ebpf/object`), which mpnc's build script embeds, and the recipe beside it:
//! what it was made from, and with what. Reads and writes files; runs no compiler, and knows no instruction.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::feed;

/// The folder, from the top of the repository.
const FOLDER: &str = "mpnc-ebpf/object";
/// What the programs are compiled from, beside the crates that `Cargo.lock` names.
const SOURCES: [&str; 2] = ["mpnc-ebpf/Cargo.toml", "mpnc-ebpf/src"];
/// Whose dependencies in `Cargo.lock` count.
const PACKAGE: &str = "mpnc-ebpf";
/// The command that makes object and recipe anew.
pub(crate) const REMEDY: &str = "cargo xtask build-ebpf --keep";

/// How the kept object was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recipe {
    /// The compiler with its LLVM, and the linker with its own.
    pub(crate) toolchain: String,
    /// What they were told.
    pub(crate) flags: String,
    /// SHA-256 of the object.
    pub(crate) object: String,
    /// SHA-256 over names and bytes of all that it was compiled from ([`sources`]).
    pub(crate) sources: String,
}

/// The kept object under this top folder.
pub(crate) fn object(root: &Path) -> PathBuf {
    root.join(FOLDER).join("mpnc.bpf.o")
}

fn recipe_path(root: &Path) -> PathBuf {
    root.join(FOLDER).join("recipe.toml")
}

impl Recipe {
    /// Reads the recipe of the kept object.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let path = recipe_path(root);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}: `{REMEDY}`", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{}: `{REMEDY}`", path.display()))
    }

    /// The recipe of an object that was made of the sources as they are now.
    pub(crate) fn of(root: &Path, object: &[u8], toolchain: String, flags: String) -> Result<Self> {
        Ok(Self { toolchain, flags, object: sha256(object)?, sources: sources(root)? })
    }

    /// Puts object and recipe into the repository.
    pub(crate) fn keep(&self, root: &Path, bytes: &[u8]) -> Result<()> {
        let (object, recipe) = (object(root), recipe_path(root));
        fs::create_dir_all(root.join(FOLDER)).with_context(|| format!("making {FOLDER}"))?;
        fs::write(&object, bytes).with_context(|| format!("writing {}", object.display()))?;
        let text = format!("# How mpnc.bpf.o was made. `{REMEDY}` writes both.\n{}", toml::to_string(self)?);
        fs::write(&recipe, text).with_context(|| format!("writing {}", recipe.display()))
    }
}

/// The kept object, if it and its recipe belong together and to the sources and flags as they are now.
///
/// # Errors
/// One that says which of them is another, and the command that mends it.
pub(crate) fn current(root: &Path, flags: &str) -> Result<(Vec<u8>, Recipe)> {
    let recipe = Recipe::read(root)?;
    let path = object(root);
    let bytes = fs::read(&path).with_context(|| format!("reading {}: `{REMEDY}`", path.display()))?;
    if sha256(&bytes)? != recipe.object {
        bail!("{FOLDER}: the object is not the one of its recipe: `{REMEDY}`");
    }
    if sources(root)? != recipe.sources {
        bail!("{FOLDER}: the kernel programs' sources have changed since the object was made: `{REMEDY}`");
    }
    if flags != recipe.flags {
        bail!("{FOLDER}: the object was made with other flags ({}): `{REMEDY}`", recipe.flags);
    }
    Ok((bytes, recipe))
}

fn sha256(bytes: &[u8]) -> Result<String> {
    Ok(feed::digest(&mut &*bytes)?.1)
}

/// SHA-256 over all that the object is compiled from: each file's name, length and bytes, and the entries of
/// `Cargo.lock` for every crate that the programs may use.
fn sources(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for name in SOURCES {
        list(root, name, &mut files)?;
    }
    files.sort();
    let mut all = Vec::new();
    for name in files {
        let bytes = fs::read(root.join(&name)).with_context(|| format!("reading {name}"))?;
        all.extend(format!("{name} {}\n", bytes.len()).bytes());
        all.extend(bytes);
    }
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("reading Cargo.lock")?;
    all.extend(locked(&lock)?.bytes());
    sha256(&all)
}

fn list(root: &Path, name: &str, files: &mut Vec<String>) -> Result<()> {
    let path = root.join(name);
    if !path.is_dir() {
        files.push(name.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(&path).with_context(|| format!("listing {name}"))? {
        list(root, &format!("{name}/{}", entry?.file_name().display()), files)?;
    }
    Ok(())
}

/// `Cargo.lock`, as far as it is read here.
#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    #[serde(default)]
    checksum: String,
    #[serde(default)]
    dependencies: Vec<String>,
}

/// A line for each crate that the programs' package depends on, in the end: name, version, checksum.
fn locked(lock: &str) -> Result<String> {
    let lock: Lock = toml::from_str(lock).context("Cargo.lock")?;
    let (mut wanted, mut at) = (vec![PACKAGE.to_owned()], 0);
    while let Some(name) = wanted.get(at).cloned() {
        // "name", or "name version" where there are several of that name.
        let is_it = |package: &&Locked| name == package.name || name == format!("{} {}", package.name, package.version);
        for dependency in lock.package.iter().filter(is_it).flat_map(|package| &package.dependencies) {
            if !wanted.contains(dependency) {
                wanted.push(dependency.clone());
            }
        }
        at += 1;
    }
    wanted.sort();
    let is_wanted = |package: &&Locked| {
        wanted.iter().any(|name| *name == package.name || *name == format!("{} {}", package.name, package.version))
    };
    let line = |package: &Locked| format!("{} {} {}\n", package.name, package.version, package.checksum);
    Ok(lock.package.iter().filter(is_wanted).map(line).collect::<Vec<_>>().concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = "[[package]]\nname = 'mpnc-ebpf'\nversion = '1'\ndependencies = ['aya-ebpf']\n\
        [[package]]\nname = 'aya-ebpf'\nversion = '2'\nchecksum = 'ab'\ndependencies = ['cty 1']\n\
        [[package]]\nname = 'cty'\nversion = '1'\n[[package]]\nname = 'cty'\nversion = '2'\n\
        [[package]]\nname = 'clap'\nversion = '4'\n";

    fn repository() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("mpnc-ebpf/src/bin")).unwrap();
        for (name, text) in [("mpnc-ebpf/Cargo.toml", ""), ("mpnc-ebpf/src/bin/main.rs", "one"), ("Cargo.lock", LOCK)] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let recipe = Recipe::of(dir.path(), b"object", "rustc 1".into(), "v2".into()).unwrap();
        recipe.keep(dir.path(), b"object").unwrap();
        dir
    }

    #[test]
    fn what_was_kept_is_current_and_reads_back() {
        let dir = repository();
        let (bytes, recipe) = current(dir.path(), "v2").unwrap();
        assert_eq!((bytes.as_slice(), recipe.toolchain.as_str()), (&b"object"[..], "rustc 1"));
    }

    #[test]
    fn a_changed_source_object_flag_or_crate_is_named_with_the_remedy() {
        type Change = fn(&Path);
        let changes: [(Change, &str); 4] = [
            (|dir| fs::write(dir.join("mpnc-ebpf/src/bin/main.rs"), "two").unwrap(), "sources have changed"),
            (|dir| fs::write(dir.join("mpnc-ebpf/src/new.rs"), "").unwrap(), "sources have changed"),
            (|dir| fs::write(dir.join("Cargo.lock"), LOCK.replace("ab", "cd")).unwrap(), "sources have changed"),
            (|dir| fs::write(object(dir), "other").unwrap(), "not the one of its recipe"),
        ];
        for (change, words) in changes {
            let dir = repository();
            change(dir.path());
            let error = current(dir.path(), "v2").unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(REMEDY), "{error}");
        }
        assert!(current(repository().path(), "v3").unwrap_err().to_string().contains("other flags (v2)"));
    }

    #[test]
    fn of_the_lock_file_only_what_the_programs_use_counts() {
        assert_eq!(locked(LOCK).unwrap(), "mpnc-ebpf 1 \naya-ebpf 2 ab\ncty 1 \n");
    }
}
