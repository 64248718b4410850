//! Which runs a choice of scenario files amounts to: a file times its matrix times its kernels. Starts nothing.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::guest::File;
use super::kernel::{self, Series};
use super::scenario::Scenario;

/// One case of one scenario in one place.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its file, as the guest gets it.
    pub file: File,
    /// The case.
    pub case: Scenario,
    /// The kernel of its virtual machine; none runs natively.
    pub series: Option<Series>,
}

impl Run {
    /// Scenario, case and kernel.
    pub fn name(&self) -> String {
        match self.series {
            Some(series) => format!("{} on {}", self.case.name, series.version),
            None => self.case.name.clone(),
        }
    }
}

/// Which runs are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choice<'a> {
    /// Only on this kernel; "native" for those that need no virtual machine.
    pub kernel: Option<&'a str>,
    /// Only those whose name contains this.
    pub name: Option<&'a str>,
    /// Also those that are marked as long.
    pub long: bool,
}

/// The wanted runs of these files.
///
/// # Errors
/// When a file is malformed or names a kernel that the lab does not have.
pub fn choose(paths: &[PathBuf], choice: Choice<'_>) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for path in paths {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        for case in Scenario::load(path)? {
            let file = File { stem: stem.clone(), text: text.clone(), case: case.name.clone() };
            for series in places(&case)? {
                let run = Run { file: file.clone(), case: case.clone(), series };
                let place = series.map_or("native", |series| series.version);
                let wanted = choice.kernel.is_none_or(|kernel| kernel == place)
                    && choice.name.is_none_or(|name| run.name().contains(name))
                    && (choice.long || !case.is_long(place));
                if wanted {
                    runs.push(run);
                }
            }
        }
    }
    Ok(runs)
}

fn places(case: &Scenario) -> Result<Vec<Option<Series>>> {
    if case.native {
        return Ok(vec![None]);
    }
    case.kernels.iter().map(|version| kernel::series(version).map(Some)).collect()
}
