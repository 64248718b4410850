//! Commands with an expected answer, in a network that stands: what a person would type after something was changed
//! there. Runs them in order; each puts back what it changed.

use std::collections::BTreeMap;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::initramfs::Binaries;
use super::network::Network;
use super::topology::Place;

/// After the command in A has ended, the one in B may take so long; then it is killed.
const AFTERWARDS: Duration = Duration::from_secs(15);

/// A `[[check]]` of a scenario. In its commands `{mpnc}`, `{host}` (B's address) and `{port}` are replaced.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Check {
    /// What it shows.
    pub name: String,
    /// Lines of sh that change something first, by place.
    #[serde(default)]
    pub setup: BTreeMap<Place, String>,
    /// Lines of sh that put it back, by place.
    #[serde(default)]
    pub undo: BTreeMap<Place, String>,
    /// A command in B that listens to the port before the other starts.
    pub listener: Option<String>,
    /// The command in A.
    pub run: String,
    /// Its exit code.
    #[serde(default)]
    pub exit: i32,
    /// Texts in what it prints.
    #[serde(default)]
    pub says: Vec<String>,
    /// Texts in what the listener prints.
    #[serde(default)]
    pub listener_says: Vec<String>,
    /// Texts that neither may print.
    #[serde(default)]
    pub nobody_says: Vec<String>,
}

/// What fills in the commands' braces.
#[derive(Debug, Clone, Copy)]
pub struct Words<'a> {
    /// B's address.
    pub host: &'a str,
    /// The scenario's port.
    pub port: u16,
    /// When to give up on a command.
    pub limit: Duration,
}

/// Runs all of them and tells each one's verdict; answers whether all passed.
///
/// # Errors
/// When a command cannot be started, or a `setup` or `undo` fails.
pub fn run(
    checks: &[Check],
    network: &Network,
    binaries: &Binaries,
    words: Words<'_>,
    tell: &mut dyn FnMut(&str),
) -> Result<bool> {
    let mut all = true;
    for check in checks {
        change(network, &check.setup).with_context(|| format!("the setup of \"{}\"", check.name))?;
        let (asked, listened) = both(check, network, binaries, words)?;
        change(network, &check.undo).with_context(|| format!("the undoing of \"{}\"", check.name))?;
        let (said, heard) = (text(&asked), listened.as_ref().map(text).unwrap_or_default());
        let wrong = faults(check, asked.status.code(), &said, &heard);
        let verdict = if wrong.is_empty() { "PASS" } else { "FAIL" };
        tell(&format!("  {verdict} {}{}", check.name, wrong.concat()));
        if !wrong.is_empty() {
            all = false;
            said.lines().for_each(|line| tell(&format!("    A: {line}")));
            heard.lines().for_each(|line| tell(&format!("    B: {line}")));
        }
    }
    Ok(all)
}

fn change(network: &Network, lines: &BTreeMap<Place, String>) -> Result<()> {
    lines.iter().try_for_each(|(place, line)| network.namespace(*place).shell(line).map(drop))
}

/// Runs the listener and the command in A; what the listener printed is `None` if there is none.
fn both(check: &Check, network: &Network, binaries: &Binaries, words: Words<'_>) -> Result<(Output, Option<Output>)> {
    let start = |place: Place, line: &str| {
        let line = line.replace("{mpnc}", &binaries.mpnc.display().to_string());
        let line = line.replace("{host}", words.host).replace("{port}", &words.port.to_string());
        let mut command = network.namespace(place).command("sh");
        command.args(["-c", &format!("exec {line}")]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        child.with_context(|| format!("start `{line}`"))
    };
    let listener = check.listener.as_ref().map(|line| start(Place::B, line)).transpose()?;
    let ready = listener.as_ref().map_or(Ok(()), |_| {
        let listens = || network.namespace(Place::B).listens(words.port);
        super::wait_for("the listener to listen", Duration::from_secs(20), listens)
    });
    let asked = ready.and_then(|()| end(start(Place::A, &check.run)?, words.limit));
    let listened = listener.map(|child| end(child, AFTERWARDS)).transpose()?;
    Ok((asked?, listened))
}

/// Waits, then kills. What is printed must fit a pipe.
fn end(mut child: Child, limit: Duration) -> Result<Output> {
    let deadline = Instant::now() + limit;
    while child.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().context("read what a command printed")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What is not as it should be, in words.
fn faults(check: &Check, code: Option<i32>, said: &str, heard: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if code != Some(check.exit) {
        faults.push(format!("; exit code {code:?} instead of {}", check.exit));
    }
    let lacks = |who: &str, text: &str, parts: &[String]| -> Vec<String> {
        let missing = parts.iter().filter(|part| !text.contains(part.as_str()));
        missing.map(|part| format!("; {who} does not say \"{part}\"")).collect()
    };
    faults.extend(lacks("A", said, &check.says));
    faults.extend(lacks("B", heard, &check.listener_says));
    let too_much =
        check.nobody_says.iter().filter(|part| said.contains(part.as_str()) || heard.contains(part.as_str()));
    faults.extend(too_much.map(|part| format!("; somebody says \"{part}\"")));
    faults
}

/// Whether the checks make sense.
///
/// # Errors
/// What does not.
pub fn validate(checks: &[Check]) -> Result<()> {
    for check in checks {
        ensure!(
            check.listener.is_some() || check.listener_says.is_empty(),
            "check \"{}\": `listener-says` without a `listener`",
            check.name
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_expectation_can_fail() {
        let text =
            "name = 'x'\nrun = 'y'\nexit = 5\nsays = ['a']\nlistener = 'z'\nlistener-says = ['b']\nnobody-says = ['c']";
        let check: Check = toml::from_str(text).unwrap();
        assert_eq!(faults(&check, Some(5), "a", "b"), [""; 0]);
        assert_eq!(faults(&check, Some(0), "", "c").len(), 4);
        assert!(validate(&[Check { listener: None, ..check }]).is_err());
    }
}
