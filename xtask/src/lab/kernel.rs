//! Debian's kernels for the virtual machine: fetched once with the machine's own mirror and keys, kept in the user's
//! cache. Must not touch the machine's apt state, and knows nothing of initramfs or QEMU.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::command;

/// A kernel series that the lab can boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Series {
    /// What scenario files and `--kernel` call it.
    pub version: &'static str,
    /// Debian's suite that carries it.
    suite: &'static str,
}

/// Every series, oldest first.
pub const SERIES: [Series; 4] = [
    Series { version: "5.10", suite: "bullseye" },
    Series { version: "6.1", suite: "bookworm" },
    Series { version: "6.12", suite: "bookworm-backports" },
    Series { version: "7.3", suite: "trixie-backports" },
];

/// How the names of the images end that have what a virtual machine needs, and little more.
const FLAVOUR: &str = "-cloud-amd64";
/// What an image is in parts of, beside itself: its own files, from 7.x on, are none.
const PARTS: [&str; 2] = ["linux-binary-", "linux-modules-"];

/// A kernel on disk, ready to boot.
#[derive(Debug)]
pub struct Kernel {
    /// Which series it is of.
    pub series: Series,
    /// The bootable image.
    pub image: PathBuf,
    /// The directory with its modules (`.ko` or `.ko.xz`, in subdirectories).
    pub modules: PathBuf,
}

impl Kernel {
    /// The files of these modules and of all that they need, each after what it needs. Those that are built in or
    /// unknown are left out.
    ///
    /// # Errors
    /// Without depmod and modprobe, and when depmod cannot read the modules.
    pub fn load_order(&self, modules: &[&str]) -> Result<Vec<PathBuf>> {
        // Both want the folder that has lib/modules/RELEASE.
        let (Some(base), Some(release)) = (self.modules.ancestors().nth(3), self.modules.file_name()) else {
            bail!("{} is not lib/modules/RELEASE", self.modules.display());
        };
        if !self.modules.join("modules.dep.bin").exists() {
            // Debian's packages come without: it is made where a kernel is installed.
            command::capture(Command::new(command::find("depmod", "kmod")?).arg("-b").arg(base).arg(release))?;
        }
        let mut modprobe = Command::new(command::find("modprobe", "kmod")?);
        modprobe.arg("-d").arg(base).arg("-S").arg(release);
        // Without this machine's own settings for modules.
        modprobe.args(["-C", "/dev/null", "--quiet", "--show-depends", "--all"]).args(modules);
        // It fails if it knows one module not: others are listed.
        let listed = modprobe.output().context("start modprobe (package kmod)")?;
        Ok(in_order(&String::from_utf8_lossy(&listed.stdout)))
    }
}

/// The files of `modprobe --show-depends` ("insmod FILE", "builtin NAME"), each once.
fn in_order(listed: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    for file in listed.lines().filter_map(|line| line.strip_prefix("insmod ")).map(|file| Path::new(file.trim())) {
        if !files.iter().any(|known| known == file) {
            files.push(file.to_path_buf());
        }
    }
    files
}

/// The series that `version` names, as in "6.1".
///
/// # Errors
/// When the lab does not know it; lists those that it does.
pub fn series(version: &str) -> Result<Series> {
    let known = SERIES.map(|series| series.version).join(", ");
    let found = SERIES.into_iter().find(|series| series.version == version);
    found.with_context(|| format!("no kernel {version} in the lab: it has {known}"))
}

/// The kernel of a series, from the cache or else from Debian's mirror.
///
/// # Errors
/// When the cache cannot be written, the machine has no Debian source, or the download fails.
pub fn fetch(series: Series) -> Result<Kernel> {
    let home = cache_dir()?;
    let place = home.join(series.version);
    if !place.exists() {
        fs::create_dir_all(&home).with_context(|| format!("create the kernel cache {}", home.display()))?;
        let work = home.join(format!(".{}-{}", series.version, std::process::id()));
        let fetched = download(series, &work).and_then(|tree| match fs::rename(&tree, &place) {
            // Another run was quicker: its copy is as good.
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
            other => other.with_context(|| format!("move the kernel to {}", place.display())),
        });
        // Leftovers in the cache do no harm; the outcome of the download is what matters.
        let _ = fs::remove_dir_all(&work);
        fetched.with_context(|| format!("fetch Debian's kernel {} ({})", series.version, series.suite))?;
    }
    locate(series, &place)
}

/// `${XDG_CACHE_HOME:-~/.cache}/mpnc/kernels`.
fn cache_dir() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME says where to keep kernels")?.join("mpnc/kernels"))
}

fn locate(series: Series, place: &Path) -> Result<Kernel> {
    let broken = || format!("{} is no kernel: remove it and try again", place.display());
    let only = |dir: &Path, prefix: &str| -> Result<PathBuf> {
        let entries = fs::read_dir(dir).with_context(broken)?.flatten();
        let mut named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        named.next().map(|entry| entry.path()).with_context(broken)
    };
    let modules = ["lib/modules", "usr/lib/modules"].map(|dir| place.join(dir)).into_iter().find(|dir| dir.exists());
    let modules = only(&modules.with_context(broken)?, "")?;
    // From 7.x on it lies beside its modules.
    let beside = modules.join("vmlinuz");
    let image = if beside.exists() { beside } else { only(&place.join("boot"), "vmlinuz-")? };
    Ok(Kernel { series, image, modules })
}

/// Downloads and unpacks the newest kernel of the series under `work`; returns the unpacked tree.
fn download(series: Series, work: &Path) -> Result<PathBuf> {
    let apt = PrivateApt::new(work, series.suite)?;
    apt.run("apt-get", &["update", "--quiet"])?;
    // By its number: a suite's own notion of the newest kernel goes on to the next series.
    let image = newest(&apt.run("apt-cache", &["pkgnames", &format!("linux-image-{}.", series.version)])?);
    let image =
        image.with_context(|| format!("no {} kernel for virtual machines in {}", series.version, series.suite))?;
    let depends = apt.run("apt-cache", &["depends", &image])?;
    let parts = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let parts = parts.filter(|name| PARTS.iter().any(|part| name.starts_with(part)));
    let packages: Vec<&str> = ["download", "--quiet", &image].into_iter().chain(parts).collect();
    apt.run("apt-get", &packages)?;

    let tree = work.join("tree");
    let archives = fs::read_dir(work)?.flatten().map(|entry| entry.path());
    for archive in archives.filter(|path| path.extension().is_some_and(|e| e == "deb")) {
        command::capture(Command::new("dpkg").arg("-x").arg(archive).arg(&tree))?;
    }
    ensure!(tree.exists(), "apt-get download {image} left no .deb in {}", work.display());
    Ok(tree)
}

/// The newest of these packages that is of the lab's flavour: `linux-image-6.1.0-37-cloud-amd64` is after `-9-`.
fn newest(packages: &str) -> Option<String> {
    let numbers = |name: &str| -> Vec<u32> {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
    };
    let ours = packages.lines().map(str::trim).filter(|name| name.ends_with(FLAVOUR));
    ours.max_by_key(|name| numbers(name)).map(str::to_owned)
}

/// apt with its own sources, lists and caches, so that the machine's stay as they are.
struct PrivateApt {
    dir: PathBuf,
}

impl PrivateApt {
    fn new(dir: &Path, suite: &str) -> Result<Self> {
        for sub in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(sub)).with_context(|| format!("create {}/{sub}", dir.display()))?;
        }
        let source = Source::of_this_machine()?;
        let options = source.signed_by.map_or_else(String::new, |key| format!("[signed-by={key}] "));
        fs::write(dir.join("sources.list"), format!("deb {options}{} {suite} main\n", source.uri))?;
        Ok(Self { dir: dir.to_path_buf() })
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        for (key, sub) in
            [("Dir::Etc::SourceList", "sources.list"), ("Dir::State::Lists", "lists"), ("Dir::Cache", "cache")]
        {
            command.arg("-o").arg(command::assign(key, &self.dir.join(sub)));
        }
        let fixed = [
            "Dir::Etc::SourceParts=/dev/null",
            "Dir::State::status=/dev/null",
            "APT::Architecture=amd64",
            "APT::Sandbox::User=root",
            "Acquire::Languages=none",
            "Acquire::Retries=5",
        ];
        for option in fixed {
            command.args(["-o", option]);
        }
        command::capture(command.args(arguments).current_dir(&self.dir))
    }
}

/// Where this machine gets Debian from, and which keys it trusts for that. Read from apt's own files: `apt-get
/// indextargets` names no keys, and nothing at all before the first `apt-get update`.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    signed_by: Option<String>,
}

impl Source {
    fn of_this_machine() -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
        let value =
            |key: &str| release.lines().find_map(|line| line.strip_prefix(key)).map(|v| v.trim_matches('"').to_owned());
        ensure!(
            value("ID=").as_deref() == Some("debian"),
            "the lab's kernels come from Debian's mirrors: run it on Debian"
        );
        let suite = value("VERSION_CODENAME=").context("/etc/os-release names no VERSION_CODENAME")?;

        let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
        let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
        files.extend(parts.map(|entry| entry.path()));
        for file in files {
            let Ok(text) = fs::read_to_string(&file) else {
                continue;
            };
            let found = match file.extension().and_then(|e| e.to_str()) {
                Some("list") => Self::from_lines(&text, &suite),
                Some("sources") => Self::from_stanzas(&text, &suite),
                _ => None,
            };
            if let Some(source) = found {
                return Ok(source);
            }
        }
        bail!("apt here has no source for {suite} main: add one to /etc/apt/sources.list.d")
    }

    /// The one-line format: `deb [signed-by=KEY] URI SUITE COMPONENT...`.
    fn from_lines(text: &str, suite: &str) -> Option<Self> {
        text.lines().find_map(|line| {
            let rest = line.trim().strip_prefix("deb ")?.trim();
            let (options, rest) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
                Some((options, rest)) => (options, rest),
                None => ("", rest),
            };
            let words: Vec<&str> = rest.split_whitespace().collect();
            let [uri, of, components @ ..] = words.as_slice() else {
                return None;
            };
            (*of == suite && components.contains(&"main")).then(|| Self {
                uri: (*uri).to_owned(),
                signed_by: options.split_whitespace().find_map(|o| o.strip_prefix("signed-by=")).map(str::to_owned),
            })
        })
    }

    /// The deb822 format: stanzas of `Field: values`.
    fn from_stanzas(text: &str, suite: &str) -> Option<Self> {
        let live: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        live.split(|line| line.trim().is_empty()).find_map(|stanza| {
            let field =
                |name: &str| stanza.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
            let has = |name: &str, word: &str| field(name).is_some_and(|v| v.split_whitespace().any(|w| w == word));
            (has("Types", "deb") && has("Suites", suite) && has("Components", "main")).then_some(())?;
            // A key embedded in the file has an empty first line: then apt's default keys must do.
            let key = field("Signed-By").filter(|key| key.starts_with('/'));
            Some(Self { uri: field("URIs")?.split_whitespace().next()?.to_owned(), signed_by: key.map(str::to_owned) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_loaded_once_and_after_what_they_need() {
        let listed =
            "insmod /m/tls.ko.xz \ninsmod /m/bonding.ko.xz \nbuiltin ipv6\ninsmod /m/tls.ko.xz \ninsmod /m/x.ko\n";
        assert_eq!(in_order(listed), ["/m/tls.ko.xz", "/m/bonding.ko.xz", "/m/x.ko"].map(PathBuf::from));
    }

    #[test]
    fn the_newest_image_is_so_by_number_and_of_the_flavour() {
        let packages = "linux-image-6.1.0-9-cloud-amd64\nlinux-image-6.1.0-37-cloud-amd64\n\
            linux-image-6.1.0-38-amd64\nlinux-image-6.1.0-39-cloud-amd64-dbg\n";
        assert_eq!(newest(packages).as_deref(), Some("linux-image-6.1.0-37-cloud-amd64"));
        assert_eq!(newest("linux-image-7.3.4+deb13-amd64\n"), None);
    }

    #[test]
    fn the_mirror_is_found_in_both_formats() {
        let stanzas = "Types: deb\nURIs: http://other.example/x\nSuites: nodistro\nComponents: main\n\n\
            Types: deb\n# a note\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
             Components: main\n\
            Signed-By: /usr/share/keyrings/k.gpg\n";
        let expected =
            Source { uri: "http://mirror.example/debian".into(), signed_by: Some("/usr/share/keyrings/k.gpg".into()) };
        assert_eq!(Source::from_stanzas(stanzas, "bookworm").unwrap(), expected);
        assert_eq!(Source::from_stanzas(stanzas, "trixie"), None);

        let lines = "# deb http://no.example bookworm main\ndeb http://x.example sid main\n\
            deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian bookworm main contrib\n";
        assert_eq!(Source::from_lines(lines, "bookworm").unwrap(), expected);
        let bare = Source::from_lines("deb http://mirror.example/debian bookworm main", "bookworm").unwrap();
        assert_eq!(bare.signed_by, None);
    }
}
