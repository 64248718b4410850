//! The mpnc binary: everything is in the library.

fn main() -> std::process::ExitCode {
    mpnc::cli::run().conclude()
}
