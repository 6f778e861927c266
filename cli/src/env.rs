//! `millrace env`: where everything is, as shell exports.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const NAMES: [&str; 5] = [
    "KAFKA_BOOTSTRAP",
    "SCHEMA_REGISTRY_URL",
    "DATABASE_URL",
    "VIEWS_DATABASE_URL",
    "MILLRACE_URL",
];

/// Print where everything is, as shell exports: eval "$(millrace env)".
///
/// The environment comes first, then the file .millrace/env that ./dev up writes, searched upwards from the
/// current directory and from the program.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let file = find().map(std::fs::read_to_string).transpose()?;
    let written = parse(file.as_deref().unwrap_or_default());
    let mut found = serde_json::Map::new();
    let mut missing = Vec::new();
    for name in NAMES {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty());
        let in_file = || written.iter().rev().find(|(key, _)| key == name);
        match value.or_else(|| in_file().map(|(_, value)| value.clone())) {
            Some(value) => {
                found.insert(name.to_owned(), value.into());
            }
            None => missing.push(name),
        }
    }
    if args.json {
        crate::output::line(&serde_json::to_string(&found)?)?;
    } else {
        for (name, value) in &found {
            let value = quote(value.as_str().unwrap_or_default());
            crate::output::line(&format!("export {name}={value}"))?;
        }
    }
    if missing.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "millrace env: {} stands neither in the environment nor in .millrace/env; ./dev up writes that file",
        missing.join(", ")
    );
    Ok(ExitCode::FAILURE)
}

fn find() -> Option<PathBuf> {
    let program = std::env::current_exe().ok();
    let starts = [std::env::current_dir().ok(), program];
    starts.iter().flatten().find_map(|start| {
        let files = start
            .ancestors()
            .map(|above: &Path| above.join(".millrace/env"));
        files.into_iter().find(|file| file.is_file())
    })
}

/// Lines `export NAME=value` or `NAME=value`; the value may be quoted.
fn parse(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim();
            let (name, value) = line
                .strip_prefix("export ")
                .unwrap_or(line)
                .split_once('=')?;
            Some((name.trim().to_owned(), unquote(value.trim())))
        })
        .collect()
}

fn unquote(value: &str) -> String {
    for mark in ['\'', '"'] {
        let inner = value
            .strip_prefix(mark)
            .and_then(|rest| rest.strip_suffix(mark));
        if let Some(inner) = inner {
            return inner.replace(r"'\''", "'");
        }
    }
    value.to_owned()
}

/// In single quotes nothing has a meaning to a shell but the single quote.
fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_reads_back_and_the_last_line_wins() {
        let hard = "postgres://u:p'w$x@h/db?a=b&c=\"d\"";
        let text = format!(
            "# addresses\nexport DATABASE_URL={}\nA=1\nA=\"2\"\n",
            quote(hard)
        );
        let parsed = parse(&text);
        assert!(parsed.contains(&("DATABASE_URL".to_owned(), hard.to_owned())));
        assert_eq!(parsed.last().unwrap().1, "2");
    }

    #[test]
    fn a_shell_reads_the_value_unchanged() {
        let hard = "a'b $HOME `x` \\ \"c\"";
        let shell = std::process::Command::new("sh")
            .args(["-c", &format!("printf %s {}", quote(hard))])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(shell.stdout).unwrap(), hard);
    }
}
