//! What packagers install beside the program: the manual page and shells' completions, made of the definition of the
//! command line.

use super::args::{Args, Generate};
use super::exit;
use crate::error::Error;
use clap::CommandFactory;
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use std::io::{self, Write};

/// The text of it.
///
/// # Errors
/// None that is known: the page is written to memory.
pub(super) fn text(what: Generate) -> Result<String, Error> {
    let bug = |error: &dyn std::fmt::Display| Error::Bug(format!("cannot generate: {error}"));
    let mut text = Vec::new();
    match what {
        Generate::Man => man(&mut text).map_err(|error| bug(&error))?,
        Generate::Bash => complete(Shell::Bash, &mut text),
        Generate::Zsh => complete(Shell::Zsh, &mut text),
        Generate::Fish => complete(Shell::Fish, &mut text),
    }
    String::from_utf8(text).map_err(|error| bug(&error))
}

fn complete(shell: Shell, out: &mut Vec<u8>) {
    generate(shell, &mut Args::command(), "mpnc", out);
}

fn man(out: &mut Vec<u8>) -> io::Result<()> {
    // The exit codes have a section of their own; what stands after --help would be taken for running text.
    let page = Man::new(Args::command().after_help("")).manual("General Commands Manual");
    page.render_title(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    page.render_options_section(out)?;
    let codes = exit::TABLE.split_once('\n').map_or("", |(_, codes)| codes).replace('-', "\\-");
    writeln!(out, ".SH \"EXIT STATUS\"\n.nf\n{codes}\n.fi")?;
    page.render_version_section(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_generated_knows_every_option() {
        let page = text(Generate::Man).unwrap().replace("\\-", "-");
        assert!(page.contains("128+N") && page.matches("every byte was written by the receiver").count() == 1);
        let shells = [Generate::Bash, Generate::Zsh, Generate::Fish].map(|shell| text(shell).unwrap());
        for option in Args::command().get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)) {
            assert!(page.contains(&format!("--{option}")), "{option}");
            assert!(shells.iter().all(|text| text.contains(&option)), "{option}");
        }
    }
}
