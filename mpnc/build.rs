//! Embeds the object of kernel programs that the repository keeps, or the one that `MPNC_EBPF_OBJECT` names.
//!
//! Must not build it: the plain `cargo build` needs no BPF toolchain.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Path of another object to embed; empty for none.
const OBJECT: &str = "MPNC_EBPF_OBJECT";
/// The kept object, from this package's folder: little-endian, as nearly every machine is.
const KEPT: &str = "../mpnc-ebpf/object/mpnc.bpf.o";

fn main() {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    println!("cargo::rerun-if-changed=build.rs");
    let path = match env::var_os(OBJECT) {
        Some(path) => (!path.is_empty()).then(|| PathBuf::from(path)),
        None if is_little_endian() => Some(Path::new(&variable("CARGO_MANIFEST_DIR")).join(KEPT)),
        None => None,
    };
    let object = path.map_or_else(Vec::new, |path| {
        println!("cargo::rerun-if-changed={}", path.display());
        fs::read(&path).unwrap_or_else(|error| {
            panic!(
                "the object of kernel programs, {}: {error}; `cargo xtask build-ebpf` makes one, and with {OBJECT}= \
                 (empty) mpnc is built without",
                path.display()
            )
        })
    });
    fs::write(Path::new(&variable("OUT_DIR")).join("mpnc.bpf.o"), object).expect("writing to OUT_DIR");
}

/// Whether the machine that mpnc is built for could run the kept object.
fn is_little_endian() -> bool {
    variable("CARGO_CFG_TARGET_ENDIAN") == "little"
}

/// What cargo sets for every build script.
fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("cargo sets {name}: {error}"))
}
