//! The guides in `docs/guides`: their examples run, and what they quote is what runs.

mod crud;
mod points;

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// A block whose fence names a file, as in "```rust tests/tests/x.rs", shows all of that file.
/// `MILLRACE_WRITE_GUIDES=1` writes the files into the blocks instead.
#[test]
fn what_the_guides_quote_is_what_stands_in_the_files() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut quotes = 0;
    for guide in std::fs::read_dir(root.join("docs/guides"))? {
        let path = guide?.path();
        if path.extension().is_none_or(|end| end != "md") {
            continue;
        }
        let shown = std::fs::read_to_string(&path)?;
        let (quoted, count) = with_quotes(&root, &shown)?;
        quotes += count;
        if std::env::var_os("MILLRACE_WRITE_GUIDES").is_some() {
            std::fs::write(&path, quoted)?;
        } else {
            ensure!(
                quoted == shown,
                "{} quotes what its files do not say; MILLRACE_WRITE_GUIDES=1 writes it anew",
                path.display()
            );
        }
    }
    ensure!(quotes >= 12, "only {quotes} files are quoted");
    Ok(())
}

/// The text with each quoted file as it is, and how many there are.
fn with_quotes(root: &Path, text: &str) -> Result<(String, usize)> {
    let mut lines = text.lines();
    let mut written = String::new();
    let mut count = 0;
    while let Some(line) = lines.next() {
        written.push_str(line);
        written.push('\n');
        let Some((_, file)) = line
            .strip_prefix("```")
            .and_then(|info| info.split_once(' '))
        else {
            continue;
        };
        let content = std::fs::read_to_string(root.join(file)).with_context(|| file.to_owned())?;
        written.push_str(&content);
        let ends = lines.by_ref().find(|line| *line == "```");
        written.push_str(ends.with_context(|| format!("the block of {file} does not end"))?);
        written.push('\n');
        count += 1;
    }
    Ok((written, count))
}
