//! Embeds the eBPF object that `cargo xtask build-ebpf` made, when told where it is; an empty one otherwise.
//!
//! Must not build it: the plain `cargo build` needs no BPF toolchain.

use std::path::PathBuf;
use std::{env, fs};

/// Path of the object to embed; unset or empty for none.
const OBJECT: &str = "MPNC_EBPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    println!("cargo::rerun-if-changed=build.rs");
    let object = match env::var_os(OBJECT).filter(|path| !path.is_empty()) {
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", path.display());
            fs::read(&path).unwrap_or_else(|error| {
                panic!("{OBJECT}={}: {error}; `cargo xtask build-ebpf` makes it", path.display())
            })
        }
        None => Vec::new(),
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("mpnc.bpf.o"), object).expect("writing to OUT_DIR");
}
